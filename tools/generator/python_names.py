"""Writes src/ai_otel/semconv.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from ai_otel.contract import Attribute, Metric
from generator.model import Contract, attribute_constant, constant_name

WIDTH = 120

HEAD = '''\
# Generated from src/ai_otel/schema by `python tools/generate.py`. Do not edit.
# ruff: noqa: S105 (a token is a piece of text here, not a secret)
"""Names, units, buckets and legal values of everything that we emit."""

from typing import Final, NamedTuple


class Metric(NamedTuple):
    """One metric of the contract. `instrument` is counter, histogram, updowncounter or gauge; `value` int or double."""

    name: str
    scope: str
    """The instrumentation scope that it is in."""
    subject: str
    """The file of the contract that defines it."""
    instrument: str
    unit: str
    value: str
    description: str
    buckets: tuple[float, ...] | None
    attributes: tuple[str, ...]
    """Every attribute key that a point may carry."""
'''


def render(contract: Contract) -> str:
    """The text of semconv.py."""
    sections = (
        _scopes(contract),
        _attributes(contract),
        _enums(contract),
        _buckets(contract),
        _sets(contract),
        _metrics(contract),
    )
    return HEAD + "".join("\n\n" + "\n".join(lines) + "\n" for lines in map(list, sections))


def _scopes(contract: Contract) -> Iterator[str]:
    yield "# Instrumentation scopes and their schema URLs"
    for scope in contract.scopes:
        yield f'{scope["constant"]}: Final = "{scope["name"]}"'
        url = f'"{scope["schema_url"]}"' if scope["schema_url"] else "None"
        yield f"{scope['schema_url_constant']}: Final[str | None] = {url}  # {scope['note']}"


def _attributes(contract: Contract) -> Iterator[str]:
    yield "# Attribute keys"
    for attribute in contract.attributes.values():
        yield f'{attribute_constant(attribute)}: Final = "{attribute.key}"'


def _enums(contract: Contract) -> Iterator[str]:
    yield "# Legal values of closed enums; of open ones, those that we use"
    for attribute in contract.attributes.values():
        if attribute.constant:
            yield from _enum(attribute)


def _enum(attribute: Attribute) -> list[str]:
    return _tuple(f"{attribute.constant}: Final", [f'"{member}"' for member in attribute.members])


def _buckets(contract: Contract) -> Iterator[str]:
    yield "# Histogram boundaries"
    for name, row in contract.buckets.items():
        yield from _tuple(f"BUCKETS_{name.upper()}: Final[tuple[float, ...]]", [str(bound) for bound in row["bounds"]])


def _sets(contract: Contract) -> Iterator[str]:
    yield "# Attributes that several metrics share"
    for name in sorted({metric.extends for metric in contract.metrics if metric.extends}):
        keys = [attribute_constant(contract.attributes[use.key]) for use in contract.sets[name]]
        yield from _tuple(f"{_set_name(name)}: Final[tuple[str, ...]]", keys)


def _set_name(identity: str) -> str:
    return "_" + constant_name(identity.removeprefix("attributes."))


def _metrics(contract: Contract) -> Iterator[str]:
    yield "# Metrics"
    yield "# fmt: off"
    for metric in contract.metrics:
        yield from _metric(metric, contract)
    yield "# fmt: on"
    yield ""
    yield from _tuple("METRICS: Final[tuple[Metric, ...]]", [metric.constant for metric in contract.metrics])


def _metric(metric: Metric, contract: Contract) -> Iterator[str]:
    shared = {use.key for use in contract.sets[metric.extends]} if metric.extends else set()
    keys = [f"*{_set_name(metric.extends)}"] if metric.extends else []
    keys += [attribute_constant(contract.attributes[key]) for key in metric.keys if key not in shared]
    attributes = _set_name(metric.extends) if metric.extends and len(keys) == 1 else _one_line(keys)
    yield f"{metric.constant}: Final = Metric("
    for names in (("name", "scope", "subject"), ("instrument", "unit", "value")):
        yield "    " + " ".join(f'{name}="{getattr(metric, name)}",' for name in names)
    yield f'    description="{metric.brief}",'
    yield f"    buckets={f'BUCKETS_{metric.bucket_set.upper()}' if metric.bucket_set else None},"
    line = f"    attributes={attributes},"
    yield from [line] if len(line) <= WIDTH else ["    attributes=(", *(f"        {key}," for key in keys), "    ),"]
    yield ")"


def _one_line(items: Sequence[str]) -> str:
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def _tuple(target: str, items: Sequence[str]) -> list[str]:
    """An assignment of a tuple, on one line or filled: the formatter would give each item a line of its own."""
    line = f"{target} = {_one_line(items)}"
    if len(line) <= WIDTH:
        return [line]
    filled = wrap(", ".join(items) + ",", WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return ["# fmt: off", f"{target} = (", *(f"    {part}" for part in filled), ")", "# fmt: on"]
