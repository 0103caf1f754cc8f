"""`ai-otel collector`: renders, validates and explains configurations of the OpenTelemetry Collector."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

from ai_otel.collector import fragments
from ai_otel.collector.validate import COLLECTORS, NoCollectorError, ask_collector, broken_rules
from ai_otel.inputs.documents import DocumentError, read_text
from ai_otel.inputs.shown import shown

_DESCRIPTION = """\
Render and validate configurations of the OpenTelemetry Collector for model servers.

  ai-otel collector render --role sidecar --engine vllm > collector.yaml
                                      a complete file: the role, one engine's normaliser, TLS, a queue on disk
  ai-otel collector render --role gateway_stateful --feature redaction --feature tail_sampling --backend otlp_http
  ai-otel collector render --role gateway_stateful --backend otlp:traces --backend prometheus_otlp
  ai-otel collector validate collector.yaml
                                      by a Collector, and by the rules of this project
  ai-otel collector explain sglang    the metrics of its endpoint, and the flags that add more
  ai-otel collector explain sglang http://localhost:30000/metrics
                                      what of this endpoint, or of a file with its response, cannot be used, and why

Run a file with ai-otel-collector (collector-config/distribution) or otelcol-contrib 0.161 or newer. The first lines of
a file list the environment variables that it reads.
"""


def add_parser(subparsers: Any) -> None:
    """Add `collector` to the command line."""
    parser = subparsers.add_parser(
        "collector",
        help="render and validate Collector configurations",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    render = actions.add_parser("render", help="print a complete configuration")
    render.add_argument("--role", required=True, metavar="ROLE", help=_names("roles"))
    render.add_argument(
        "--engine",
        action="append",
        default=[],
        metavar="NAME",
        help="scrape this engine only; may be repeated",
    )
    render.add_argument("--feature", action="append", default=[], metavar="NAME", help=_names("features"))
    render.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a default feature to omit: {', '.join(fragments.DEFAULT_FEATURES)}",
    )
    render.add_argument(
        "--backend",
        action="append",
        default=[],
        metavar="NAME[:SIGNALS]",
        help=f"{_names('backends')}; all signals, or as in otlp:traces,logs",
    )
    validate = actions.add_parser("validate", help="validate a configuration")
    validate.add_argument("file", type=Path, metavar="FILE")
    validate.add_argument(
        "--collector", type=Path, help=f"the Collector that validates it; default: {' or '.join(COLLECTORS)} on PATH"
    )
    explain = actions.add_parser("explain", help="the metrics of an engine's endpoint")
    explain.add_argument("engine", metavar="ENGINE", help=_names("engines"))
    explain.add_argument("page", metavar="FILE|URL", nargs="?", help="a response of its endpoint, or the endpoint")


def _names(kind: str) -> str:
    return ", ".join(fragments.names(kind))


def run(arguments: argparse.Namespace) -> int:
    """Render, validate or explain; 2 for what cannot be done."""
    if arguments.action == "explain":
        return _explain(arguments.engine, arguments.page)
    if importlib.util.find_spec("yaml") is None:
        print("ai-otel collector needs PyYAML: pip install 'ai-otel[collector]'", file=sys.stderr)
        return 2
    return _render(arguments) if arguments.action == "render" else _validate(arguments.file, arguments.collector)


def _render(arguments: argparse.Namespace) -> int:
    from ai_otel.collector.compose import Selection, compose, write

    selection = Selection(
        role=arguments.role,
        engines=tuple(arguments.engine),
        features=tuple(arguments.feature),
        without=tuple(arguments.without),
        backends=tuple(arguments.backend),
    )
    try:
        composed = compose(selection)
    except fragments.FragmentError as error:
        print(f"ai-otel collector: {shown(error, 2000)}", file=sys.stderr)
        return 2
    for remark in composed.remarks:
        print(f"ai-otel collector: {remark}", file=sys.stderr)
    print(write(composed, selection), end="")
    return 0


def _validate(file: Path, chosen: Path | None) -> int:
    try:
        broken = broken_rules(file)
    except DocumentError as error:
        print(f"ai-otel collector: {shown(file)}: {error}", file=sys.stderr)
        return 2
    for sentence in broken:
        print(f"✗ {shown(sentence)}")
    if not broken:
        print("✓ the rules of this project hold")
    try:
        verdict = ask_collector(file, chosen)
    except NoCollectorError as error:
        print(f"? not validated by a Collector: {error}", file=sys.stderr)
        return 2
    if not verdict.accepted:
        print(f"✗ {verdict.program} rejects it:\n{verdict.output}")
        return 1
    print(f"✓ {verdict.program} accepts it")
    return int(bool(broken))


def _explain(name: str, page: str | None) -> int:
    # Twice as much to import as the other actions need.
    from ai_otel.collector.explain import explanation, page_explanation
    from ai_otel.contract import load
    from ai_otel.doctor.common_metrics import PAGE_LIMIT_BYTES, fetch

    engines = load().engines
    if name not in engines:
        print(
            f"ai-otel collector: unknown engine {shown(name)}; known are {', '.join(sorted(engines))}", file=sys.stderr
        )
        return 2
    if page is None:
        print("\n".join(explanation(name, engines[name])))
        return 0
    try:
        by_http = page.startswith(("http://", "https://"))
        text = fetch(page) if by_http else read_text(Path(page), PAGE_LIMIT_BYTES)
        lines = list(page_explanation(name, engines[name], text))
    except (OSError, ValueError) as error:
        print(f"ai-otel collector: {shown(page)}: {shown(error, 1000)}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0
