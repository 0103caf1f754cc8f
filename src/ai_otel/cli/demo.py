"""`ai-otel demo`: a small real model server under load, and its telemetry."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from ai_otel.demo.child import RECIPES, ServerError

_DESCRIPTION = """\
Start a small real model server on this machine, below `ai-otel run`, put a mixed load on it (streams, long answers,
clients that hang up, requests that are refused), and show the traces and metrics that come out. Nothing is downloaded.
"""


def add_parser(subparsers: Any) -> None:
    """Add `demo` to the command line."""
    parser = subparsers.add_parser("demo", help="see it work on a small real engine", description=_DESCRIPTION)
    parser.add_argument("--engine", choices=sorted(RECIPES), default="llama_cpp", help="default: llama_cpp")
    parser.add_argument("--model", type=Path, help="your own model; default: a small one with random weights")
    parser.add_argument("--seconds", type=float, default=15, help="duration of the load; default: 15")
    parser.add_argument("--keep", action="store_true", help="continue until Ctrl-C, with an endpoint for Prometheus")
    parser.add_argument("--plain", action="store_true", help="print plain lines, as without a terminal")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 if every request has its trace and the token counts agree."""
    recipe = RECIPES[arguments.engine]
    missing = recipe.missing()
    if missing:
        print(f"ai-otel demo needs {', '.join(missing)}, not installed here: {recipe.hint}", file=sys.stderr)
        return 2
    from ai_otel.demo.run import Options, run as run_demo

    options = Options(arguments.engine, arguments.model, arguments.seconds, arguments.keep, arguments.plain)
    # SIGTERM stops the server too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="ai-otel-demo-") as directory:
            return run_demo(recipe, options, Path(directory))
    except ServerError as error:
        print(f"ai-otel demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
