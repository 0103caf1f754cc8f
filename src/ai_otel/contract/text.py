"""The contract as lines of text, for a terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from ai_otel.contract.mapping import Engine, Unmapped
from ai_otel.contract.model import Attribute, Contract, Metric, Use

_MARKS = {"required": "*", "opt_in": "?"}


# The whole contract.


def contract_lines(contract: Contract) -> Iterator[str]:
    """The whole contract."""
    yield "METRICS"
    for metric in contract.metrics:
        yield ""
        yield from _metric_lines(metric)
    yield from ("", "ATTRIBUTES", "")
    rows = [(key, each.type, _values(each)) for key, each in sorted(contract.attributes.items())]
    yield from table(rows)
    yield from ("", "SPANS")
    for span in contract.spans:
        yield from ("", f"{span.name}  ({' or '.join(span.kinds)})")
        yield from _field("", span.brief)
        yield from _field("attributes", used(span.uses))
    yield from ("", "RESOURCE", "")
    yield from _field("attributes", used(contract.resource))


def _metric_lines(metric: Metric) -> Iterator[str]:
    yield f"{metric.name}  ({metric.instrument}, {metric.unit})"
    yield from _field("", " ".join(filter(None, (metric.brief, metric.note))))
    yield from _field("attributes", used(metric.uses))
    yield from _field("buckets", ", ".join(f"{bound:g}" for bound in metric.buckets or ()))
    yield from _field("prometheus", metric.prometheus)


def _values(attribute: Attribute) -> str:
    members = f"One of {', '.join(attribute.members)}." if attribute.members else ""
    return " ".join(filter(None, (attribute.brief, members)))


def used(uses: Iterable[Use]) -> str:
    """The attribute keys, with a mark for their requirement level."""
    return ", ".join(f"{use.key}{_MARKS.get(use.level, '')}" for use in uses)


# One engine.


def engine_lines(engine: Engine) -> Iterator[str]:
    """The mapping of an engine's source metrics, what the library measures, and what is not mapped."""
    page, version = engine["page"], engine["inventory"]["version"]
    needs = f", only with {page['needs']}" if page["needs"] else ""
    yield from textwrap.wrap(
        f"{engine['title']} {version}, metrics endpoint {page['path']}{needs}. {page['absent']}", _width()
    )
    yield from ("", "SOURCE METRICS, AND WHAT THEY BECOME")
    for row in engine["metrics"]:
        yield from ("", f"{row['native']} -> {row['to']}")
        yield from _field("meaning", row.get("meaning", ""))
        yield from _field("needs", row.get("needs", ""))
        yield from _field("versions", row.get("versions", ""))
        yield from _field("only if", f"{row['unless']} is absent" if "unless" in row else "")
        yield from _field("sets", ", ".join(f"{name}={value}" for name, value in row.get("set", {}).items()))
        yield from _field("labels", ", ".join(row.get("labels", {})))
    yield from ("", "MEASURED BY THE LIBRARY IN THE SERVER", "")
    rows = [(each["metric"], each.get("needs", ""), each["from"]) for each in engine["library"]]
    yield from table(rows) if rows else ("nothing: the server does not run Python.",)
    yield from ("", "NOT MAPPED, AND WHY", "")
    yield from table([(", ".join(each["natives"]), _why(each)) for each in engine["unmapped"]], width=48)


def _why(unmapped: Unmapped) -> str:
    return f"{unmapped['why']} Needs {unmapped['needs']}." if unmapped.get("needs") else unmapped["why"]


# Plain text.


def _width() -> int:
    return max(72, min(shutil.get_terminal_size((120, 24)).columns, 160))


def _field(name: str, text: str) -> Iterator[str]:
    """One indented field; nothing for an empty text."""
    indent = " " * (16 if name else 4)
    first = f"    {name:<12}" if name else indent
    if text:
        yield from textwrap.wrap(text, _width(), initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)


def table(rows: Sequence[tuple[str, ...]], width: int = 56) -> Iterator[str]:
    """Aligned columns. The last one is wrapped; a first one wider than `width` characters has lines of its own."""
    columns = [max(min(len(row[index]), width) for row in rows) for index in range(len(rows[0]) - 1)]
    indent = " " * (sum(columns) + 2 * len(columns))
    for *heads, last in rows:
        head = "".join(f"{text:<{column}}  " for text, column in zip(heads, columns, strict=True))
        if len(head) > len(indent):
            yield from textwrap.wrap(head, _width(), break_long_words=False)
            head = indent
        wrapped = textwrap.wrap(last, _width() - len(indent), break_on_hyphens=False) or [""]
        yield from ((head if index == 0 else indent) + line for index, line in enumerate(wrapped))
