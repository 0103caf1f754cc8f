"""`ai-otel slo`: renders Prometheus rules for service level objectives."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

from ai_otel.collector import fragments
from ai_otel.inputs.documents import DocumentError, parse, read_text
from ai_otel.inputs.shown import shown

_DESCRIPTION = """\
Render Prometheus rules for service level objectives: error ratios per window, error budgets and burn-rate alerts.

  ai-otel slo render > slo-rules.yaml         of the template, collector-config/kubernetes/slo/slo.yaml
  ai-otel slo render slo.yaml --out rules.yaml
  ai-otel slo render slo.yaml --plain         for a Prometheus without its operator: a file of `rule_files`
  ai-otel slo template > slo.yaml             the template itself, to edit
"""


def template() -> Path:
    """The template of `slo.yaml`."""
    return fragments.directory() / "kubernetes/slo/slo.yaml"


def add_parser(subparsers: Any) -> None:
    """Add `slo` to the command line."""
    parser = subparsers.add_parser(
        "slo",
        help="Prometheus rules for service level objectives",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("template", help="print the template")
    render = actions.add_parser("render", help="print the rules")
    render.add_argument("file", type=Path, nargs="?", metavar="FILE", help="the objectives; default: the template")
    render.add_argument("--out", type=Path, metavar="FILE", help="write to this file; default: print")
    render.add_argument("--plain", action="store_true", help="bare groups instead of a PrometheusRule")


def run(arguments: argparse.Namespace) -> int:
    """Render the rules or print the template; 2 for what cannot be done."""
    if arguments.action == "template":
        print(template().read_text(encoding="utf-8"), end="")
        return 0
    if importlib.util.find_spec("yaml") is None:
        print("ai-otel slo needs PyYAML: pip install 'ai-otel[collector]'", file=sys.stderr)
        return 2
    return _render(arguments)


def _render(arguments: argparse.Namespace) -> int:
    from ai_otel.slo.objective import SloError, parsed
    from ai_otel.slo.rules import remarks, write

    file = arguments.file or template()
    try:
        slo = parsed(parse(read_text(file)))
        text = write(slo, plain=arguments.plain)
        if arguments.out is not None:
            arguments.out.write_text(text, encoding="utf-8")
    except (OSError, DocumentError, SloError) as error:
        print(f"ai-otel slo: {shown(file)}: {shown(error, 1000)}", file=sys.stderr)
        return 2
    for remark in remarks(slo):
        print(f"ai-otel slo: {remark}", file=sys.stderr)
    if arguments.out is None:
        print(text, end="")
    return 0
