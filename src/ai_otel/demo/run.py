"""One run of the demo: a model server, a load on it, and the telemetry that arrives."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from ai_otel.demo.child import Child, Recipe, make_model, serving
from ai_otel.demo.endpoint import render
from ai_otel.demo.figures import compare, example
from ai_otel.demo.load import Load, Mix
from ai_otel.demo.screen import Screen
from ai_otel.demo.sink import Sink, listening

CONCURRENCY = 6
ARRIVAL_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    engine: str
    model: Path | None
    seconds: float
    keep: bool
    plain: bool


def run(recipe: Recipe, options: Options, directory: Path) -> int:
    """Run the demo with its files in `directory`; 0 if every request has its trace and the token counts agree."""
    screen = Screen(plain=options.plain)
    model = options.model or make_model(recipe, directory)
    with listening({"/metrics": render}) as sink:
        screen.say(
            f"starting a {options.engine} server on a model with {'your' if options.model else 'random'} weights"
        )
        with serving(recipe, model, sink.url, directory / "server.log") as child:
            screen.say(f"  OTEL_EXPORTER_OTLP_ENDPOINT={sink.url} {child.command}")
            load = Load(child.url, Mix(recipe.model_name, embeddings=recipe.embeddings))
            screen.say(f"sending requests for {options.seconds:g} s, {CONCURRENCY} at a time")
            with screen.live(load, sink, options.seconds):
                asyncio.run(load.run(options.seconds, CONCURRENCY))
                _wait_for_telemetry(load, sink)
            code = _show(screen, load, sink, child)
            if options.keep:
                _keep(screen, load, sink)
    return code


def _wait_for_telemetry(load: Load, sink: Sink) -> None:
    """Wait until every request has its span and metrics have arrived, at most `ARRIVAL_TIMEOUT_S`."""
    wanted = {call.trace_id for call in load.calls}
    deadline = time.monotonic() + ARRIVAL_TIMEOUT_S
    while time.monotonic() < deadline:
        if len(sink.roots(wanted)) == len(wanted) and sink.metrics:
            return
        time.sleep(0.1)


def _show(screen: Screen, load: Load, sink: Sink, child: Child) -> int:
    if not sink.spans:
        screen.say(
            f"No telemetry arrived within {ARRIVAL_TIMEOUT_S:.0f} s after {len(load.calls)} requests. "
            f"Run `ai-otel doctor`. The end of the server's log:\n{child.last_words()}"
        )
        return 1
    figures = compare(load.calls, sink, load.seconds)
    screen.summary(figures, example(load.calls, sink), sink)
    screen.say(f"  {len(sink.metrics)} metrics beside them, from the same requests")
    screen.say("")
    screen.say("Next: put `ai-otel run --` before the command of your own server, and set OTEL_EXPORTER_OTLP_ENDPOINT.")
    return 0 if figures.complete else 1


def _keep(screen: Screen, load: Load, sink: Sink) -> None:
    screen.say(f"Sending a request every 0.5 s until Ctrl-C. For Prometheus (honor_labels: true): {sink.url}/metrics")
    try:
        asyncio.run(load.run(float("inf"), 1, pause_s=0.5))
    except KeyboardInterrupt:
        screen.say("stopped")
