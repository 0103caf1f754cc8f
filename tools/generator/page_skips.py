"""Statements of a normaliser that report each native that the mapping knows and could not use, with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ai_otel.contract import Engine
from generator import ottl
from generator.mapping_row import Row, measured
from generator.model import Contract

METRIC, SOURCE, REASON = "ai_otel.source.skipped", "ai_otel.source.metric", "ai_otel.skip.reason"


def _noted(native: str) -> str:
    """The resource's mark of a native: the reason."""
    return f"resource.attributes[Concat([{ottl.text(ottl.SKIP)}, {native}], {ottl.text('')})]"


# A copy's description is its native's name. What the mapping itself drops (`where`, `drop_values`) has no reason.
POINTS = ottl.do(
    ottl.call("set", _noted("metric.description"), ottl.point(ottl.DROP)),
    ottl.call("IsString", ottl.point(ottl.DROP)),
)
ATTRIBUTES = [
    ottl.call("keep_keys", "datapoint.attributes", "[]"),
    ottl.call("set", ottl.point(SOURCE), "metric.description"),
    ottl.call("set", ottl.point(REASON), _noted("metric.description")),
    ottl.call("set", "datapoint.value_double", "1.0"),
]


def types(engine: Engine, rows: Sequence[Row]) -> Iterator[str]:
    """Note natives that came with a type that no row can use, and histograms that came in pieces."""
    library = measured(engine)
    for inside in (False, True):
        by_type: dict[str, list[str]] = {}
        for row in rows:
            if (row.metric.name in library) == inside:
                by_type.setdefault(row.usable, []).append(row.tree["native"])
        outside = f"{ottl.resource(ottl.LIBRARY)} == nil" if inside else ""
        for usable, natives in by_type.items():
            names = list(dict.fromkeys(natives))
            set_type = ottl.call("set", _noted("metric.name"), ottl.text("type"))
            yield ottl.do(set_type, ottl.every(ottl.named(*names), f"not ({usable})", outside))
        pieces = [
            f"{row.tree['native']}_bucket"
            for row in rows
            if row.metric.instrument == "histogram" and (row.metric.name in library) == inside
        ]
        if pieces:
            whole = "Substring(metric.name, 0, Len(metric.name) - 7)"
            set_type = ottl.call("set", _noted(whole), ottl.text("type"))
            yield ottl.do(set_type, ottl.every(ottl.named(*dict.fromkeys(pieces)), outside))


def copies(rows: Sequence[Row]) -> Iterator[str]:
    """One metric for each native that has a mark."""
    for native in dict.fromkeys(row.tree["native"] for row in rows):
        copy = ottl.call("copy_metric", f"name={ottl.text(ottl.SKIPPED)}", f"description={ottl.text(native)}")
        yield ottl.do(copy, f"{ottl.resource(ottl.SKIP + native)} != nil")


def metric(contract: Contract) -> Iterator[str]:
    """Its name in the contract, after which all of them are one metric."""
    found = contract.metric(METRIC)
    if found is None:
        raise ValueError(f"{METRIC} is not a metric of the contract")
    yield ottl.call("set", "metric.unit", ottl.text(found.unit))
    yield ottl.call("set", "metric.description", ottl.text(found.brief))
    yield ottl.call("set", "metric.name", ottl.text(METRIC))
