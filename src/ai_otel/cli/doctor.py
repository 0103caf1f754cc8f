"""`ai-otel doctor`: checks what is observed, where it is exported, and whether it arrives."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ai_otel.inputs.shown import shown

_DESCRIPTION = """\
Checks:

  which engines are installed, and whether each hook finds its target (no engine is imported)
  whether ai-otel is enabled, and what disables it
  where traces and metrics are exported, and whether they arrive: a span `ai-otel doctor` and a metric point are sent
  which common metrics are missing, and the flag that turns them on
  which GPUs are present, why values are unavailable, and which process samples them
  packages that conflict

  ai-otel doctor                                             this environment, with the variables set here
  ai-otel doctor --pid 4711                                  a running server, with the variables it was started with
  ai-otel doctor --metrics-url http://localhost:8000/metrics which common metrics the server exposes
"""

_EPILOG = "Exit status: 0 all is well, 1 something is wrong (the last line says what), 2 wrong usage."


def add_parser(subparsers: Any) -> None:
    """Add `doctor` to the command line."""
    parser = subparsers.add_parser(
        "doctor",
        help="check what is observed, whether it arrives, and what is missing",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--metrics-url", type=_url, metavar="URL", help="read this metrics endpoint of a running server"
    )
    parser.add_argument("--pid", type=int, help="check this running process (Linux)")


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{shown(text)}: write it like http://localhost:8000/metrics")
    return text


def run(arguments: argparse.Namespace) -> int:
    """Run all checks and print the findings."""
    from ai_otel.doctor import diagnosis
    from ai_otel.doctor.examination import examine
    from ai_otel.doctor.finding import Level
    from ai_otel.doctor.server import Server, UnknownServerError

    try:
        server = Server.read(arguments.pid) if arguments.pid is not None else None
    except UnknownServerError as error:
        print(f"ai-otel doctor: {error}", file=sys.stderr)
        return 2
    findings = list(examine(server, arguments.metrics_url))
    print(diagnosis.as_json(findings) if arguments.json else diagnosis.as_text(findings, coloured=sys.stdout.isatty()))
    return 1 if any(finding.level is Level.WRONG for finding in findings) else 0
