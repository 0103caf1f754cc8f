"""`ai-otel demo`: a small real model server under load, and what it tells. Ends by itself."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai_otel.demo.child import RECIPES, Child, Recipe, ServerError, make_model, serving

if TYPE_CHECKING:
    from ai_otel.demo.load import Load
    from ai_otel.demo.screen import Screen
    from ai_otel.demo.sink import Sink

CONCURRENCY = 6
ARRIVAL_TIMEOUT_S = 10.0

_DESCRIPTION = """\
Start a small real model server on this machine, below `ai-otel run`, put a mixed load on it (streams, long answers,
clients that hang up, requests that are refused), and show the traces and metrics that come out. Nothing is downloaded.
"""


def add_parser(subparsers: Any) -> None:
    """Add `demo` to the command line."""
    parser = subparsers.add_parser("demo", help="see it work on a small real engine", description=_DESCRIPTION)
    parser.add_argument("--engine", choices=sorted(RECIPES), default="llama_cpp", help="default: llama_cpp")
    parser.add_argument("--model", type=Path, help="a model of your own; left out: a small one with random weights")
    parser.add_argument("--seconds", type=float, default=15, help="how long the load lasts; default: 15")
    parser.add_argument("--keep", action="store_true", help="go on until Ctrl-C, with a page for Prometheus")
    parser.add_argument("--plain", action="store_true", help="plain lines, as without a terminal")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 when every request has its trace and the tokens agree."""
    recipe = RECIPES[arguments.engine]
    missing = recipe.missing()
    if missing:
        print(f"ai-otel demo needs {', '.join(missing)}, not installed here: {recipe.hint}", file=sys.stderr)
        return 2
    # However it is told to end, it takes its server with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="ai-otel-demo-") as directory:
            return _run(arguments, recipe, Path(directory))
    except ServerError as error:
        print(f"ai-otel demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace, recipe: Recipe, directory: Path) -> int:
    from ai_otel.demo.load import Load, Mix
    from ai_otel.demo.page import render
    from ai_otel.demo.screen import Screen
    from ai_otel.demo.sink import listening

    screen = Screen(plain=arguments.plain)
    model = arguments.model or make_model(recipe, directory)
    with listening({"/metrics": render}) as sink:
        screen.say(
            f"starting a {arguments.engine} server on a model with {'your' if arguments.model else 'random'} weights"
        )
        with serving(recipe, model, sink.url, directory / "server.log") as child:
            screen.say(f"  OTEL_EXPORTER_OTLP_ENDPOINT={sink.url} {child.command}")
            load = Load(child.url, Mix(recipe.model_name, embeddings=recipe.embeddings))
            screen.say(f"sending requests for {arguments.seconds:g} s, {CONCURRENCY} at a time")
            with screen.live(load, sink, arguments.seconds):
                asyncio.run(load.run(arguments.seconds, CONCURRENCY))
                _wait_for_telemetry(load, sink)
            code = _show(screen, load, sink, child)
            if arguments.keep:
                _keep(screen, load, sink)
    return code


def _wait_for_telemetry(load: Load, sink: Sink) -> None:
    """Until every request has its span, and metrics came after them; or not in time."""
    wanted = {call.trace_id for call in load.calls}
    deadline = time.monotonic() + ARRIVAL_TIMEOUT_S
    while time.monotonic() < deadline:
        if len(sink.roots(wanted)) == len(wanted) and sink.metrics:
            return
        time.sleep(0.1)


def _show(screen: Screen, load: Load, sink: Sink, child: Child) -> int:
    from ai_otel.demo.figures import compare, example

    if not sink.spans:
        screen.say(
            f"No telemetry arrived within {ARRIVAL_TIMEOUT_S:.0f} s after {len(load.calls)} requests. "
            f"Ask `ai-otel doctor` why. The server's last words:\n{child.last_words()}"
        )
        return 1
    figures = compare(load.calls, sink, load.seconds)
    screen.summary(figures, example(load.calls, sink), sink)
    screen.say(f"  {len(sink.metrics)} metrics beside them, from the same requests")
    screen.say("")
    screen.say("Next: put `ai-otel run --` before the command of your own server, and set OTEL_EXPORTER_OTLP_ENDPOINT.")
    return 0 if figures.complete else 1


def _keep(screen: Screen, load: Load, sink: Sink) -> None:
    screen.say(f"A request now and then until Ctrl-C. For Prometheus (honor_labels: true): {sink.url}/metrics")
    try:
        asyncio.run(load.run(float("inf"), 1, pause_s=0.5))
    except KeyboardInterrupt:
        screen.say("stopped")
