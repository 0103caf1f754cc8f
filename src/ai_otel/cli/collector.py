"""`ai-otel collector`: complete Collector configurations, checked ones, and what an engine's page can tell."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ai_otel.cli.schema import table
from ai_otel.collector import fragments as parts
from ai_otel.contract import Engine, load
from ai_otel.doctor.common_metrics import common

_DESCRIPTION = """\
Make and check configurations of the OpenTelemetry Collector for model servers.

  ai-otel collector render --role sidecar --engine vllm > collector.yaml
                                      a complete file: the role, one engine's normaliser, TLS, a queue on disk
  ai-otel collector render --role gateway_stateful --feature redaction --feature tail_sampling --backend otlp_http
  ai-otel collector render --role gateway_stateful --backend otlp:traces --backend prometheus_otlp
  ai-otel collector validate collector.yaml
                                      by the Collector itself, and by the rules of this project
  ai-otel collector explain sglang    what its page can tell, and which flag turns on the rest

Run a file with ai-otel-collector (collector-config/distribution) or otelcol-contrib 0.161 or newer. What a file reads
from the environment stands in its first lines.
"""

COLLECTORS = ("ai-otel-collector", "otelcol-contrib")


def add_parser(subparsers: Any) -> None:
    """Add `collector` to the command line."""
    parser = subparsers.add_parser(
        "collector",
        help="make and check Collector configurations",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    render = actions.add_parser("render", help="print a complete configuration")
    render.add_argument("--role", required=True, metavar="ROLE", help=_there_is("roles"))
    render.add_argument(
        "--engine",
        action="append",
        default=[],
        metavar="NAME",
        help="read the page of this engine only; may be repeated",
    )
    render.add_argument("--feature", action="append", default=[], metavar="NAME", help=_there_is("features"))
    render.add_argument(
        "--without", action="append", default=[], metavar="NAME", help=f"a default feature to leave out: {_defaults()}"
    )
    render.add_argument(
        "--backend",
        action="append",
        default=[],
        metavar="NAME[:SIGNALS]",
        help=f"{_there_is('backends')}; all signals, or as in otlp:traces,logs",
    )
    validate = actions.add_parser("validate", help="check a configuration")
    validate.add_argument("file", type=Path, metavar="FILE")
    validate.add_argument("--collector", type=Path, help=f"the program that checks it; default: {_either()} on PATH")
    explain = actions.add_parser("explain", help="what an engine's page can tell")
    explain.add_argument("engine", metavar="ENGINE", help=_there_is("engines"))


def _there_is(kind: str) -> str:
    return ", ".join(parts.names(kind))


def _defaults() -> str:
    return ", ".join(parts.DEFAULT_FEATURES)


def _either() -> str:
    return " or ".join(COLLECTORS)


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; 2 for what cannot be done."""
    if arguments.action == "explain":
        return _explain(arguments.engine)
    if importlib.util.find_spec("yaml") is None:
        print("ai-otel collector needs PyYAML: pip install 'ai-otel[collector]'", file=sys.stderr)
        return 2
    return _render(arguments) if arguments.action == "render" else _validate(arguments)


def _render(arguments: argparse.Namespace) -> int:
    from ai_otel.collector.compose import Choice, compose, write

    choice = Choice(
        role=arguments.role,
        engines=tuple(arguments.engine),
        features=tuple(arguments.feature),
        without=tuple(arguments.without),
        backends=tuple(arguments.backend),
    )
    try:
        composed = compose(choice)
    except parts.PartError as error:
        print(f"ai-otel collector: {error}", file=sys.stderr)
        return 2
    for remark in composed.remarks:
        print(f"ai-otel collector: {remark}", file=sys.stderr)
    print(write(composed, choice), end="")
    return 0


# ---------------------------------------------------------------- validate


def _validate(arguments: argparse.Namespace) -> int:
    import yaml

    from ai_otel.collector.rules import violations

    try:
        tree = yaml.safe_load(arguments.file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        print(f"ai-otel collector: {arguments.file}: {error}", file=sys.stderr)
        return 2
    broken = list(violations(tree, local="LOCAL" in arguments.file.read_text(encoding="utf-8")))
    for sentence in broken:
        print(f"✗ {sentence}")
    if not broken:
        print("✓ the rules of this project hold")
    code = _by_the_collector(arguments.file, arguments.collector)
    return code or int(bool(broken))


def _by_the_collector(file: Path, chosen: Path | None) -> int:
    program = str(chosen) if chosen else next(filter(None, map(shutil.which, COLLECTORS)), None)
    if program is None or (chosen and not chosen.exists()):
        print(
            f"? not checked by a Collector: there is no {chosen or _either()}. `make collector` in a checkout builds "
            "ours; name one with --collector",
            file=sys.stderr,
        )
        return 2
    done = subprocess.run(  # noqa: S603 - the Collector that the user named, or the one on PATH
        [program, "validate", "--config", str(file)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"✗ {program} refuses it:\n{(done.stdout + done.stderr).strip()}")
        return 1
    print(f"✓ {program} accepts it")
    return 0


# ---------------------------------------------------------------- explain


def _explain(name: str) -> int:
    engines = load()["engines"]
    if name not in engines:
        print(f"ai-otel collector: there is no engine {name}; there are {', '.join(sorted(engines))}", file=sys.stderr)
        return 2
    print("\n".join(_explanation(name, engines[name])))
    return 0


def _explanation(name: str, engine: Engine) -> Iterator[str]:
    page, version = engine["page"], engine["inventory"]["version"]
    yield f"{engine['title']} ({version})"
    if page["path"]:
        yield f"  page      :{page.get('port')}{page['path']}{', only with ' + page['needs'] if page['needs'] else ''}"
    else:
        yield f"  page      none: it sends OTLP itself{', with ' + page['needs'] if page['needs'] else ''}"
    yield from textwrap.wrap(page["absent"], 110, initial_indent="  without   ", subsequent_indent=" " * 12)
    yield f"  sidecar   ai-otel collector render --role sidecar --engine {name}"
    yield f"  agent     pod annotation ai-otel.io/engine: {name}"
    needs: dict[str, set[str]] = {}
    for row in engine["metrics"]:
        needs.setdefault(row["to"], set()).add(row.get("needs", ""))
    yield from ("", "WHAT ITS PAGE GIVES", "")
    given = [metric for metric, flags in needs.items() if "" in flags]
    yield from (f"  {metric}" for metric in given)
    behind = [(f"  {metric}", " or ".join(sorted(flags))) for metric, flags in needs.items() if "" not in flags]
    if behind:
        yield from ("", "WHAT A FLAG TURNS ON", "")
        yield from table(behind)
    if engine.get("kind") != "exporter":
        yield from ("", "WHAT IT DOES NOT TELL", "")
        library = {row["metric"] for row in engine["library"]}
        absent = [metric for metric in common() if metric not in needs]
        yield from (f"  {metric}{'  (the library does)' if metric in library else ''}" for metric in absent)
