"""The command `ai-otel`: one file a subcommand, each with `add_parser()` and `run()`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from ai_otel.version import __version__

COMMANDS = {
    "run": "run a server with telemetry",
    "demo": "see it work on a small real engine",
    "agent": "on a Kubernetes node: metrics of every GPU, and which pod holds it",
    "doctor": "what is observed, what is missing, and which flag turns it on",
    "schema": "every name that we emit, and where each engine's comes from",
    "collector": "complete Collector configurations, and how an engine's metrics are mapped",
    "slo": "Prometheus rules for a service's objectives",
}

_EPILOG = """\
first steps:
  ai-otel demo                              run a small real engine and show its telemetry, in under a minute
  ai-otel run -- vllm serve MODEL           run your server with telemetry to OTEL_EXPORTER_OTLP_ENDPOINT
  ai-otel doctor                            check what is observed, what is missing, and which flag turns it on
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="ai-otel",
        description="OpenTelemetry for self-hosted AI model servers, without a change to the server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ai-otel {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = words[0] if words and words[0] in COMMANDS else None
    for name, summary in COMMANDS.items():
        # Only the chosen command is imported: `run` stands before a server and must be quick.
        if name == chosen:
            module = importlib.import_module(f"ai_otel.cli.{name}")
            module.add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    arguments = parser.parse_args(words)
    try:
        code: int = importlib.import_module(f"ai_otel.cli.{arguments.command}").run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe (`| head`). Without stdout the interpreter does not fail again at exit.
        sys.stdout = sys.__stdout__ = None  # type: ignore[misc]
        return 0
    return code
