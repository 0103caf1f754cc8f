"""Statements of a normaliser that report each native that the mapping knows and could not use, with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ai_otel.contract import Engine
from generator import ottl
from generator.mapping_row import NUMBER, Row, measured
from generator.model import Contract

METRIC, SOURCE, REASON = "ai_otel.source.skipped", "ai_otel.source.metric", "ai_otel.skip.reason"
END = " skipped"
"""What the name of a copy ends in that becomes a point of the metric."""


def _noted(name: str) -> str:
    """The resource's mark of a metric: the reason."""
    return f"resource.attributes[Concat([{ottl.text(ottl.SKIP)}, {name}], {ottl.text('')})]"


# What the mapping itself drops (`where`, `drop_values`) has no reason.
POINTS = ottl.do(
    ottl.call("set", _noted("metric.name"), ottl.point(ottl.DROP)), ottl.call("IsString", ottl.point(ottl.DROP))
)
NOTED = f"{_noted('metric.name')} != nil"
COPIES = [
    ottl.do(ottl.call("copy_metric", f"name=Concat([metric.name, {ottl.text(END)}], {ottl.text('')})"), NUMBER),
    ottl.do(ottl.call("extract_count_metric", "true", ottl.text(END)), f"not ({NUMBER})"),
]
IS_SKIPPED = f"HasSuffix(metric.name, {ottl.text(END)})"
_NAME = f"Substring(metric.name, 0, Len(metric.name) - {len(END)})"
# A copy has its native's name behind its kind, and perhaps more after a space; a piece of a histogram has its ending.
ATTRIBUTES = [
    ottl.call("keep_keys", "datapoint.attributes", "[]"),
    ottl.call("set", ottl.point(REASON), _noted(_NAME)),
    ottl.call("set", ottl.point(SOURCE), 'Split(metric.name, " ")[0]'),
    ottl.do(
        ottl.call("set", ottl.point(SOURCE), f'Split({ottl.point(SOURCE)}, "/")[2]'),
        f"HasPrefix(metric.name, {ottl.text(ottl.ROW)})",
    ),
    ottl.call("replace_pattern", ottl.point(SOURCE), ottl.text("_bucket$"), ottl.text("")),
    ottl.call("set", "datapoint.value_double", "1.0"),
]


def types(engine: Engine, rows: Sequence[Row]) -> Iterator[str]:
    """Note natives that came with a type that no row can use, and histograms that came in pieces."""
    library = measured(engine)
    noted = ottl.call("set", _noted("metric.name"), ottl.text("type"))
    for inside in (False, True):
        outside = f"{ottl.resource(ottl.LIBRARY)} == nil" if inside else ""
        found = [row for row in rows if (row.metric.name in library) == inside]
        by_type: dict[str, list[str]] = {}
        for row in found:
            by_type.setdefault(row.usable, []).append(row.tree["native"])
        for usable, natives in by_type.items():
            yield ottl.do(noted, ottl.every(f"not ({usable})", outside, ottl.named(*dict.fromkeys(natives))))
        pieces = [f"{row.tree['native']}_bucket" for row in found if row.metric.instrument == "histogram"]
        if pieces:
            yield ottl.do(noted, ottl.every(outside, ottl.named(*dict.fromkeys(pieces))))


def metric(contract: Contract) -> Iterator[str]:
    """Its name in the contract, after which all of them are one metric."""
    found = contract.metric(METRIC)
    if found is None:
        raise ValueError(f"{METRIC} is not a metric of the contract")
    yield ottl.call("convert_sum_to_gauge")
    yield ottl.call("set", "metric.unit", ottl.text(found.unit))
    yield ottl.call("set", "metric.description", ottl.text(found.brief))
    yield ottl.call("set", "metric.name", ottl.text(METRIC))
