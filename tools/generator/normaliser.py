"""
Writes collector-config/generated/engines/<engine>.yaml: the mapping of one engine as a transform processor.

Every mapped native is copied once for each of its rows, the copy is worked on under a name of its own (`ROW`), and gets
its common name last: so no statement can meet what another one has already renamed. What stays behind under a native
name is dropped by `filter/page`, unless `dual_emit` is on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import yaml

from ai_otel.contract import Engine
from generator import ottl, page_points, page_skips
from generator.mapping_row import NUMBER, Row, measured, rows_of
from generator.model import Contract, Tree

HEAD = """\
# Generated from src/ai_otel/schema/engines/{name}.yaml by `make generate`. Do not edit.
# {title}: source metrics into the common names. Not a configuration of its own, but a part of one:
#     ai-otel collector render --role sidecar --engine {name}
"""
PAGE_TAIL = ("filter/page", "groupbyattrs/page", "transform/page_end")


def render(name: str, contract: Contract) -> str:
    """The text of the file."""
    return HEAD.format(name=name, title=contract.engines[name]["title"]) + dump(fragment(name, contract))


def dump(tree: Tree) -> str:
    """YAML in the order in which it was built, one statement a line."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=10_000)


def fragment(name: str, contract: Contract) -> Tree:
    """The processor, and the pipelines that it belongs into."""
    engine = contract.engines[name]
    processor = f"transform/{name}"
    statements = [group for group in _groups(name, contract) if group["statements"]]
    pipelines = {"metrics/pages": {"processors": [processor]}}
    if engine.get("source") == "otlp":
        # What a page's pipeline does anyhow: drop what is marked, add what belongs together.
        pipelines = {"metrics/otlp": {"processors": [processor, *PAGE_TAIL]}}
    return {
        "processors": {processor: {"error_mode": "ignore", "metric_statements": statements}},
        "service": {"pipelines": pipelines},
    }


def _groups(name: str, contract: Contract) -> Iterator[Tree]:
    engine = contract.engines[name]
    rows = list(rows_of(name, contract))
    otlp = engine.get("source") == "otlp"
    guard = f"{ottl.resource(ottl.ENGINE)} == {ottl.text(name)}"
    if otlp:
        guard = f"HasPrefix(scope.name, {ottl.text(engine['scope'])})"
    own = ottl.every(guard, f"HasPrefix(metric.name, {ottl.text(ottl.ROW + name + '.')})")
    # Of a page everything is meant; over OTLP other scopes may share the resource, so natives are marked one by one.
    normalised = ottl.call("set", ottl.resource(ottl.NORMALISED), ottl.text("scope") if otlp else "true")
    yield _group("scope" if otlp else "resource", guard, [normalised])
    yield _group("metric", guard, list(_seen(rows)))
    yield _group("metric", guard, [statement for row in rows for statement in _take(row, engine)])
    yield _group("metric", guard, [statement for row in rows if not row.copies for statement in _name_part(row)])
    if otlp:
        yield _group("datapoint", guard, list(_mark_natives(name, contract)))
    yield _group("datapoint", own, list(page_points.points(engine, rows, otlp=otlp)))
    yield _group("datapoint", own, list(page_points.closed(rows)))
    yield _group("datapoint", own, list(page_points.present(rows)))
    yield _group("datapoint", own, list(page_points.incomplete(rows)))
    if not otlp:
        yield _group("metric", guard, list(page_skips.types(engine, rows)))
        yield _group("datapoint", own, [page_skips.POINTS])
    yield _group("metric", own, [_merged(row, "max") for row in rows if "newest" in row.tree])
    yield _group("datapoint", own, list(page_points.newest(rows)))
    yield _group("metric", own, list(_typed(rows)))
    yield _group("metric", own, [statement for row in rows for statement in _shape(row)])
    yield _group("metric", own, [_rename(row) for row in rows])
    if not otlp:
        # Each scrape has an `up`, of which a metric can be made that the page does not have.
        yield _group("metric", ottl.every(guard, ottl.named("up")), list(page_skips.copies(rows)))
        yield _group("datapoint", ottl.every(guard, ottl.named(ottl.SKIPPED)), page_skips.ATTRIBUTES)
        yield _group("metric", ottl.every(guard, ottl.named(ottl.SKIPPED)), list(page_skips.metric(contract)))


def _group(context: str, condition: str, statements: Sequence[str]) -> Tree:
    group: Tree = {"context": context}
    if condition:
        group["conditions"] = [condition]
    return {**group, "statements": list(statements)}


def _seen(rows: Sequence[Row]) -> Iterator[str]:
    """Note which of the natives are there, and usable, that others give way to."""
    usable = {row.tree["native"]: row.usable for row in rows}
    for other in dict.fromkeys(row.tree["unless"] for row in rows if "unless" in row.tree):
        there = ottl.every(ottl.named(other), usable[other])
        yield ottl.do(ottl.call("set", ottl.resource(ottl.SEEN + other), "true"), there)


def _take(row: Row, engine: Engine) -> Iterator[str]:
    """Copy the native, or extract the part of it; a part that has come without its type is a number by itself."""
    native, conditions = row.tree["native"], []
    if "unless" in row.tree:
        conditions.append(f"{ottl.resource(ottl.SEEN + row.tree['unless'])} == nil")
    if row.metric.name in measured(engine):
        conditions.append(f"{ottl.resource(ottl.LIBRARY)} == nil")
    # Until the end its description is the native's name, so that what is skipped can be reported.
    copy = ottl.call("copy_metric", f"name={ottl.text(row.name)}", f"description={ottl.text(native)}")
    if row.copies:
        yield ottl.do(copy, ottl.every(ottl.named(native), row.usable, *conditions))
        return
    part = row.tree["part"]
    extract = ottl.call(f"extract_{part}_metric", "true", ottl.text(_suffix(row)))
    yield ottl.do(extract, ottl.every(ottl.named(native), row.usable, *conditions))
    yield ottl.do(copy, ottl.every(ottl.named(f"{native}_{part}"), NUMBER, *conditions))


def _suffix(row: Row) -> str:
    return f".{row.name}"


def _name_part(row: Row) -> Iterator[str]:
    is_part = ottl.named(row.tree["native"] + _suffix(row))
    yield ottl.do(ottl.call("set", "metric.description", ottl.text(row.tree["native"])), is_part)
    yield ottl.do(ottl.call("set", "metric.name", ottl.text(row.name)), is_part)


def _mark_natives(name: str, contract: Contract) -> Iterator[str]:
    natives = list(contract.inventories[name])
    for start in range(0, len(natives), 20):
        yield ottl.mark(ottl.NATIVE, ottl.named(*natives[start : start + 20]))


# ---------------------------------------------------------------- metrics


def _typed(rows: Sequence[Row]) -> Iterator[str]:
    """The instrument of the common metric, however the page calls the numbers."""
    by_instrument: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_instrument[row.metric.instrument].append(row.name)
    for instrument in ("counter", "updowncounter"):
        if instrument in by_instrument:
            named, monotonic = ottl.named(*by_instrument[instrument]), ottl.text(instrument == "counter")
            yield ottl.do(ottl.call("convert_gauge_to_sum", ottl.text("cumulative"), monotonic), named)
            yield ottl.do(ottl.call("set", "metric.is_monotonic", monotonic), named)
    if "gauge" in by_instrument:
        yield ottl.do(ottl.call("convert_sum_to_gauge"), ottl.named(*by_instrument["gauge"]))


def _shape(row: Row) -> Iterator[str]:
    """Scale, unit and description of the copy; then points that have become the same are merged."""
    is_row = ottl.named(row.name)
    if "factor" in row.tree:
        yield ottl.do(ottl.call("scale_metric", ottl.number(abs(row.tree["factor"]))), is_row)
    yield ottl.do(ottl.call("set", "metric.unit", ottl.text(row.metric.unit)), is_row)
    yield ottl.do(ottl.call("set", "metric.description", ottl.text(row.metric.brief)), is_row)
    yield _merged(row, row.tree.get("merge", "max" if row.metric.instrument == "gauge" else "sum"))


def _merged(row: Row, how: str) -> str:
    return ottl.do(ottl.call("aggregate_on_attributes", ottl.text(how)), ottl.named(row.name))


def _rename(row: Row) -> str:
    return ottl.do(ottl.call("set", "metric.name", ottl.text(row.metric.name)), ottl.named(row.name))
