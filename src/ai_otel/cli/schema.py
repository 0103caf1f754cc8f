"""`ai-otel schema`: every name that is emitted, and the mapping of each engine's source metrics."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ai_otel.contract import load, read
from ai_otel.contract.text import contract_lines, engine_lines
from ai_otel.inputs.shown import shown

_DESCRIPTION = """\
Print the contract: the metrics, attributes and spans that ai-otel emits.

  ai-otel schema                    every metric, attribute and span
  ai-otel schema --engine vllm      what vLLM's metrics become, what they mean, and the flags they need
  ai-otel schema --json | jq .      the same as JSON

Attributes marked * are required, those marked ? are opt-in.
"""


def add_parser(subparsers: Any) -> None:
    """Add `schema` to the command line."""
    parser = subparsers.add_parser(
        "schema",
        help="print every metric, attribute and span that is emitted",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--engine", metavar="NAME", help="one engine's metrics and what they become")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the contract, or the mapping of one engine."""
    engines = load().engines
    name: str | None = arguments.engine
    if name is not None and name not in engines:
        known = ", ".join(sorted(engines))
        print(f"ai-otel schema: unknown engine {shown(name)}; known are {known}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(read() if name is None else engines[name], indent=2, ensure_ascii=False))
        return 0
    print("\n".join(contract_lines(load()) if name is None else engine_lines(engines[name])))
    return 0
