"""`ai-otel doctor`: what is observed, where it goes, whether it arrives, and what to do about the rest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai_otel.doctor.finding import Finding
    from ai_otel.doctor.server import Server

_DESCRIPTION = """\
Says, before you wonder why nothing arrives:

  which engines are installed here, and whether each of our hooks finds what it hooks (nothing is imported)
  whether ai-otel would be on, and what keeps it off
  where traces and metrics go, and whether they arrive: one span `ai-otel doctor` and one metric point are really sent
  which common metrics are missing, and the flag that turns them on
  which GPUs are here, and why a value of theirs is absent
  packages that contradict each other

  ai-otel doctor                                             this environment, with the variables set here
  ai-otel doctor --pid 4711                                  a running server, with the variables it was started with
  ai-otel doctor --metrics-url http://localhost:8000/metrics what the server's own page has of the common metrics
"""

_EPILOG = "Exit status: 0 all is well, 1 something is wrong (the last line says what), 2 wrong usage."


def add_parser(subparsers: Any) -> None:
    """Add `doctor` to the command line."""
    parser = subparsers.add_parser(
        "doctor",
        help="say what is observed, whether it arrives, and what is missing",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="the same for machines")
    parser.add_argument("--metrics-url", type=_url, metavar="URL", help="read this metrics page of a running server")
    parser.add_argument("--pid", type=int, help="look at this running process (Linux)")


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text}: write it like http://localhost:8000/metrics")
    return text


def run(arguments: argparse.Namespace) -> int:
    """Look at everything and print it."""
    from ai_otel.doctor import report
    from ai_otel.doctor.finding import Level
    from ai_otel.doctor.server import Server, UnknownServerError

    try:
        server = Server.read(arguments.pid) if arguments.pid is not None else None
    except UnknownServerError as error:
        print(f"ai-otel doctor: {error}", file=sys.stderr)
        return 2
    findings = list(examine(server, arguments.metrics_url))
    print(report.as_json(findings) if arguments.json else report.as_text(findings, coloured=sys.stdout.isatty()))
    return 1 if any(finding.level is Level.WRONG for finding in findings) else 0


def examine(server: Server | None = None, metrics_url: str | None = None) -> Iterator[Finding]:
    """Everything there is to find, of this environment or of a server that runs in it."""
    from ai_otel import activation
    from ai_otel.doctor import common_metrics, engines, packages
    from ai_otel.doctor.export import check_export
    from ai_otel.doctor.gpus import check_gpus
    from ai_otel.doctor.logs import overheard
    from ai_otel.doctor.server import check_server
    from ai_otel.doctor.switch import Configuration, check_switch
    from ai_otel.engines import ENGINES

    if server is not None:
        yield from check_server(server)
    configuration = Configuration.read(server.environment, server.pid) if server is not None else Configuration.read()
    otel = configuration.environment.otel
    with overheard("ai_otel") as told:
        found = list(engines.installed_engines({**ENGINES, **activation.third_party_engines()}))
    yield from (engines.broken_adapter(sentence) for sentence in told)
    names = frozenset(each.name for each in found if isinstance(each, engines.Installed))
    yield from engines.check_engines(found, edge=configuration.settings.edge)
    yield from check_switch(configuration, names)
    yield from check_export(otel)
    if metrics_url is not None:
        yield from common_metrics.check_page(metrics_url)
    else:
        yield from common_metrics.check_contract(names, server.flags if server is not None else None)
    yield from check_gpus(configuration.settings)
    yield from packages.check_packages(otel)
