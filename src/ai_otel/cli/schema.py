"""`ai-otel schema`: every name that is emitted, and what each engine's own names become."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ai_otel.contract import Contract, Engine, Metric, Unmapped, Use, load

_DESCRIPTION = """\
Print the contract: the metrics, attributes and spans that ai-otel emits.

  ai-otel schema                    every metric, attribute and span
  ai-otel schema --engine vllm      what vLLM's own metrics become, what they really mean, and the flags they need
  ai-otel schema --json | jq .      the same for machines

An attribute with * is always there; with ? only where somebody opts in.
"""

_MARKS = {"required": "*", "opt_in": "?"}


def add_parser(subparsers: Any) -> None:
    """Add `schema` to the command line."""
    parser = subparsers.add_parser(
        "schema",
        help="print every metric, attribute and span that is emitted",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--engine", metavar="NAME", help="one engine's metrics and what they become")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(arguments: argparse.Namespace) -> int:
    """Print the contract, or one engine's part of it."""
    contract = load()
    name: str | None = arguments.engine
    if name is not None and name not in contract["engines"]:
        known = ", ".join(sorted(contract["engines"]))
        print(f"ai-otel schema: no engine is called {name}; known are {known}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(contract if name is None else contract["engines"][name], indent=2, ensure_ascii=False))
        return 0
    print("\n".join(contract_lines(contract) if name is None else engine_lines(contract["engines"][name])))
    return 0


# The whole contract.


def contract_lines(contract: Contract) -> Iterator[str]:
    """Everything, as lines of text."""
    yield "METRICS"
    for metric in contract["metrics"]:
        yield ""
        yield from _metric_lines(metric)
    yield from ("", "ATTRIBUTES", "")
    rows = [(name, each["type"], _values(each)) for name, each in sorted(contract["attributes"].items())]
    yield from table(rows)
    yield from ("", "SPANS")
    for span in contract["spans"]:
        yield from ("", f"{span['name']}  ({' or '.join(span['kinds'])})")
        yield from _field("", span["brief"])
        yield from _field("attributes", used(span["attributes"]))
    yield from ("", "RESOURCE", "")
    yield from _field("attributes", used(contract["resource"]))


def _metric_lines(metric: Metric) -> Iterator[str]:
    yield f"{metric['name']}  ({metric['instrument']}, {metric['unit']})"
    yield from _field("", " ".join(filter(None, (metric["brief"], metric["note"]))))
    yield from _field("attributes", used(metric["attributes"]))
    yield from _field("buckets", ", ".join(f"{bound:g}" for bound in metric.get("buckets") or ()))
    yield from _field("prometheus", metric["prometheus"])


def _values(attribute: Mapping[str, Any]) -> str:
    members = attribute.get("members")
    return " ".join(filter(None, (attribute.get("brief", ""), f"One of {', '.join(members)}." if members else "")))


def used(attributes: Mapping[str, Use]) -> str:
    """The names, with a mark for how they are used."""
    return ", ".join(f"{name}{_MARKS.get(use['level'], '')}" for name, use in attributes.items())


# One engine.


def engine_lines(engine: Engine) -> Iterator[str]:
    """What its native metrics become, what the library measures, and what becomes nothing."""
    page, version = engine["page"], engine["inventory"]["version"]
    needs = f", only with {page['needs']}" if page["needs"] else ""
    yield from textwrap.wrap(
        f"{engine['title']} {version}, its own page at {page['path']}{needs}. {page['absent']}", _width()
    )
    yield from ("", "ITS METRICS, AND WHAT THEY BECOME")
    for row in engine["metrics"]:
        yield from ("", f"{row['native']} -> {row['to']}")
        yield from _field("meaning", row.get("meaning", ""))
        yield from _field("needs", row.get("needs", ""))
        yield from _field("versions", row.get("versions", ""))
        yield from _field("only if", f"there is no {row['unless']}" if "unless" in row else "")
        yield from _field("sets", ", ".join(f"{name}={value}" for name, value in row.get("set", {}).items()))
        yield from _field("labels", ", ".join(row.get("labels", {})))
    yield from ("", "WHAT THE LIBRARY MEASURES IN THE SERVER", "")
    rows = [(each["metric"], each.get("needs", ""), each["from"]) for each in engine["library"]]
    yield from table(rows) if rows else ("nothing: there is no Python in that server to measure in.",)
    yield from ("", "WHAT BECOMES NOTHING, AND WHY", "")
    yield from table([(", ".join(each["natives"]), _why(each)) for each in engine["unmapped"]], width=48)


def _why(unmapped: Unmapped) -> str:
    return f"{unmapped['why']} Needs {unmapped['needs']}." if unmapped.get("needs") else unmapped["why"]


# Plain text.


def _width() -> int:
    return max(72, min(shutil.get_terminal_size((120, 24)).columns, 160))


def _field(name: str, text: str) -> Iterator[str]:
    """One indented field; nothing where there is no text."""
    indent = " " * (16 if name else 4)
    first = f"    {name:<12}" if name else indent
    if text:
        yield from textwrap.wrap(text, _width(), initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)


def table(rows: Sequence[tuple[str, ...]], width: int = 56) -> Iterator[str]:
    """Aligned columns; the last one is wrapped, and a first one wider than `width` has its own lines."""
    columns = [max(min(len(row[index]), width) for row in rows) for index in range(len(rows[0]) - 1)]
    indent = " " * (sum(columns) + 2 * len(columns))
    for *heads, last in rows:
        head = "".join(f"{text:<{column}}  " for text, column in zip(heads, columns, strict=True))
        if len(head) > len(indent):
            yield from textwrap.wrap(head, _width(), break_long_words=False)
            head = indent
        wrapped = textwrap.wrap(last, _width() - len(indent), break_on_hyphens=False) or [""]
        yield from ((head if index == 0 else indent) + line for index, line in enumerate(wrapped))
