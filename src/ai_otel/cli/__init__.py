"""The command `ai-otel`: one file a subcommand, each with `add_parser()` and `run()`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from ai_otel.version import __version__

COMMANDS = ("run", "demo", "doctor", "schema")

_EPILOG = """\
first steps:
  ai-otel demo                              see it work on a small real engine, in under a minute
  ai-otel run -- vllm serve MODEL           run your server with telemetry to OTEL_EXPORTER_OTLP_ENDPOINT
  ai-otel doctor                            what is observed, what is missing, and which flag turns it on
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="ai-otel",
        description="OpenTelemetry for self-hosted AI model servers: traces and metrics without a change to the server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ai-otel {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    modules = {name: importlib.import_module(f"ai_otel.cli.{name}") for name in COMMANDS}
    for module in modules.values():
        module.add_parser(subparsers)
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    code: int = modules[arguments.command].run(arguments)
    return code
