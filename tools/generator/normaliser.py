"""
Writes collector-config/generated/engines/<engine>.yaml: the mapping of one engine as a transform processor.

Every mapped native is copied once for each of its rows, the copy is worked on under a name of its own (`ROW`), and gets
its common name last: so no statement can meet what another one has already renamed. What stays behind under a native
name is dropped by `filter/page`, unless `dual_emit` is on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import yaml

from ai_otel.contract import Engine
from generator import ottl, page_points, page_skips
from generator.mapping_row import NUMBER, Row, instruments, measured, one_of, rows_of
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
    rows = rows_of(name, contract)
    otlp = engine.get("source") == "otlp"
    guard = f"{ottl.resource(ottl.ENGINE)} == {ottl.text(name)}"
    if otlp:
        guard = f"HasPrefix(scope.name, {ottl.text(engine['scope'])})"
    own = ottl.every(guard, f"HasPrefix(metric.name, {ottl.text(ottl.ROW)})")
    # Of a page everything is meant; over OTLP other scopes may share the resource, so natives are marked one by one.
    normalised = ottl.call("set", ottl.resource(ottl.NORMALISED), ottl.text("scope") if otlp else "true")
    yield _group("scope" if otlp else "resource", guard, [normalised])
    for statements in (_seen(rows), (each for row in rows for each in _take(row, engine))):
        yield from _by_type(guard, statements)
    if not all(row.copies for row in rows):
        yield _group("metric", guard, [PART])
    if otlp:
        yield _group("datapoint", guard, list(_mark_natives(name, contract)))
    yield _group("datapoint", own, list(page_points.points(engine, rows, otlp=otlp)))
    yield _group("datapoint", own, list(page_points.closed(rows)))
    yield _group("datapoint", own, list(page_points.present(rows)))
    yield _group("datapoint", own, list(page_points.incomplete(rows)))
    if not otlp:
        yield _group("metric", guard, list(page_skips.types(engine, rows)))
        yield _group("datapoint", own, [page_skips.POINTS])
        yield _group("metric", ottl.every(guard, page_skips.NOTED), page_skips.COPIES)
        yield _group("datapoint", ottl.every(guard, page_skips.IS_SKIPPED), page_skips.ATTRIBUTES)
        yield _group("metric", ottl.every(guard, page_skips.IS_SKIPPED), list(page_skips.metric(contract)))
    yield _group("metric", own, [_merged("max", ottl.named(row.name)) for row in rows if "newest" in row.tree])
    yield _group("datapoint", own, list(page_points.newest(rows)))
    yield _group("metric", own, list(_typed(rows)))
    yield _group("metric", own, list(_shape(rows)))
    yield _group("metric", own, list(_renamed(rows)))
    yield _group("metric", guard, list(_described(rows)))


# A part is extracted under the name of its native with the row's behind it.
PART = 'set(metric.name, Split(metric.name, ">")[1]) where IsMatch(metric.name, ">")'


def _by_type(guard: str, statements: Iterable[tuple[str, str]]) -> Iterator[Tree]:
    """A group for each type that metrics must have, of statements that come with it."""
    by_type: dict[str, list[str]] = defaultdict(list)
    for usable, statement in statements:
        by_type[usable].append(statement)
    for usable, found in by_type.items():
        yield _group("metric", ottl.every(guard, usable), found)


def _group(context: str, condition: str, statements: Sequence[str]) -> Tree:
    group: Tree = {"context": context}
    if condition:
        group["conditions"] = [condition]
    return {**group, "statements": list(statements)}


def _seen(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Note which of the natives are there, and usable, that others give way to."""
    usable = {row.tree["native"]: row.usable for row in rows}
    for other in dict.fromkeys(row.tree["unless"] for row in rows if "unless" in row.tree):
        yield usable[other], ottl.do(ottl.call("set", ottl.resource(ottl.SEEN + other), "true"), ottl.named(other))


def _take(row: Row, engine: Engine) -> Iterator[tuple[str, str]]:
    """Copy the native, or extract the part of it; a part that has come without its type is a number by itself."""
    native, conditions = row.tree["native"], []
    if "unless" in row.tree:
        conditions.append(f"{ottl.resource(ottl.SEEN + row.tree['unless'])} == nil")
    if row.metric.name in measured(engine):
        conditions.append(f"{ottl.resource(ottl.LIBRARY)} == nil")
    copy = ottl.call("copy_metric", f"name={ottl.text(row.name)}")
    if row.copies:
        yield row.usable, ottl.do(copy, ottl.every(ottl.named(native), *conditions))
        return
    part = row.tree["part"]
    extract = ottl.call(f"extract_{part}_metric", "true", ottl.text(f">{row.name}"))
    yield row.usable, ottl.do(extract, ottl.every(ottl.named(native), *conditions))
    yield NUMBER, ottl.do(copy, ottl.every(ottl.named(f"{native}_{part}"), *conditions))


def _mark_natives(name: str, contract: Contract) -> Iterator[str]:
    natives = list(contract.inventories[name])
    for start in range(0, len(natives), 20):
        yield ottl.mark(ottl.NATIVE, ottl.named(*natives[start : start + 20]))


# ---------------------------------------------------------------- metrics


def _typed(rows: Sequence[Row]) -> Iterator[str]:
    """The instrument of the common metric, however the page calls the numbers."""
    used = {row.metric.instrument for row in rows}
    for instrument in ("counter", "updowncounter"):
        if instrument in used:
            monotonic = ottl.text(instrument == "counter")
            convert = ottl.call("convert_gauge_to_sum", ottl.text("cumulative"), monotonic)
            yield ottl.do(convert, instruments(instrument))
            yield ottl.do(ottl.call("set", "metric.is_monotonic", monotonic), instruments(instrument))
    if "gauge" in used:
        yield ottl.do(ottl.call("convert_sum_to_gauge"), instruments("gauge"))


def _grouped(rows: Sequence[Row], key: Callable[[Row], Any]) -> Iterator[tuple[Any, str]]:
    """Each value of the key, and whether the metric is the copy of a row that has it."""
    by_key: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        by_key[key(row)].append(row)
    for value, found in by_key.items():
        yield value, one_of(found, rows)


def _shape(rows: Sequence[Row]) -> Iterator[str]:
    """Scale of the copies; then points that have become the same are merged."""
    for factor, are_rows in _grouped(rows, lambda row: abs(row.tree.get("factor", 1))):
        if factor != 1:
            yield ottl.do(ottl.call("scale_metric", ottl.number(factor)), are_rows)
    for how, are_rows in _grouped(rows, _how):
        yield _merged(how, are_rows)


def _how(row: Row) -> str:
    return row.tree.get("merge", "max" if row.metric.instrument == "gauge" else "sum")


def _merged(how: str, where: str) -> str:
    return ottl.do(ottl.call("aggregate_on_attributes", ottl.text(how)), where)


def _renamed(rows: Sequence[Row]) -> Iterator[str]:
    for name, are_rows in _grouped(rows, lambda row: row.metric.name):
        yield ottl.do(ottl.call("set", "metric.name", ottl.text(name)), are_rows)


def _described(rows: Sequence[Row]) -> Iterator[str]:
    """Unit and description of the common metrics."""
    for metric in {row.metric.name: row.metric for row in rows}.values():
        is_metric = ottl.named(metric.name)
        yield ottl.do(ottl.call("set", "metric.unit", ottl.text(metric.unit)), is_metric)
        yield ottl.do(ottl.call("set", "metric.description", ottl.text(metric.brief)), is_metric)
