"""
Writes collector-config/generated/engines/<engine>.yaml: the mapping of one engine as a transform processor.

Every mapped native is copied once for each of its rows, the copy is worked on under a name of its own (`ROW`), and gets
its common name last: so no statement can meet what another one has already renamed. What stays behind under a native
name is dropped by `filter/page`, unless `dual_emit` is on.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ai_otel.contract import Engine, Metric, MetricMapping
from generator import ottl
from generator.model import Contract, SourceMetric, Tree

HEAD = """\
# Generated from src/ai_otel/schema/engines/{name}.yaml by `make generate`. Do not edit.
# {title}: source metrics into the common names. Not a configuration of its own, but a part of one:
#     ai-otel collector render --role sidecar --engine {name}
"""


TYPES = {
    "counter": "METRIC_DATA_TYPE_SUM",
    "gauge": "METRIC_DATA_TYPE_GAUGE",
    "histogram": "METRIC_DATA_TYPE_HISTOGRAM",
    "summary": "METRIC_DATA_TYPE_SUMMARY",
}
PAGE_TAIL = ("filter/page", "groupbyattrs/page", "transform/page_end")


@dataclass(frozen=True)
class Row:
    """One row of the mapping, the metric that it becomes, and the native that it reads."""

    tree: MetricMapping
    metric: Metric
    native: SourceMetric
    name: str
    """The name of its copy until the end."""

    @property
    def copies(self) -> bool:
        """Whether the whole native is taken, rather than the sum or the count of a histogram."""
        return not self.tree.get("part")


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
    rows = list(_rows(name, contract))
    otlp = engine.get("source") == "otlp"
    guard = f"{ottl.resource(ottl.ENGINE)} == {ottl.text(name)}"
    if otlp:
        guard = f"HasPrefix(scope.name, {ottl.text(engine['scope'])})"
    own = ottl.every(guard, f"HasPrefix(metric.name, {ottl.text(ottl.ROW + name + '.')})")
    # Of a page everything is meant; over OTLP other scopes may share the resource, so natives are marked one by one.
    normalised = ottl.call("set", ottl.resource(ottl.NORMALISED), ottl.text("scope") if otlp else "true")
    yield _group("scope" if otlp else "resource", guard, [normalised])
    yield _group("metric", guard, list(_seen(rows)))
    yield _group("metric", guard, [_take(row, engine) for row in rows])
    yield _group("metric", guard, [_name_part(row) for row in rows if not row.copies])
    if otlp:
        yield _group("datapoint", guard, list(_mark_natives(name, contract)))
    yield _group("datapoint", own, list(_points(engine, rows, otlp=otlp)))
    yield _group("datapoint", own, list(_closed(rows)))
    yield _group("metric", own, [statement for row in rows for statement in _shape(row)])
    yield _group("metric", own, [_rename(row) for row in rows])


def _group(context: str, condition: str, statements: Sequence[str]) -> Tree:
    group: Tree = {"context": context}
    if condition:
        group["conditions"] = [condition]
    return {**group, "statements": list(statements)}


def _rows(name: str, contract: Contract) -> Iterator[Row]:
    inventory = contract.inventories[name]
    mappings = contract.engines[name]["metrics"]
    for tree, row in zip(mappings, row_names(mappings), strict=True):
        metric = contract.metric(tree["to"])
        if metric is None:
            raise ValueError(f"{name}: {tree['to']} is not a metric of the contract")
        native = inventory.get(tree["native"], SourceMetric("?", ("?",)))
        yield Row(tree, metric, native, f"{ottl.ROW}{name}.{row}")


def row_names(mappings: Sequence[MetricMapping]) -> list[str]:
    """
    Names of an engine's rows, unique and independent of the rows' positions.

    A row has the name of its source metric. Where a source metric has several rows, the part of the histogram or the
    end of the common name follows, then a number among the rows that are still alike.
    """
    candidates = [[re.sub(r"[^A-Za-z0-9_.]", "_", tree["native"].rpartition(":")[2])] for tree in mappings]
    parts = [tree.get("part", "") for tree in mappings]
    ends = [tree["to"].rpartition(".")[2] for tree in mappings]
    for additions in (parts, ends):
        shared = Counter(map(".".join, candidates))
        alike = [shared[".".join(names)] > 1 for names in candidates]
        for names, added, is_alike in zip(candidates, additions, alike, strict=True):
            if is_alike and added:
                names.append(added)
    shared, seen = Counter(map(".".join, candidates)), Counter[str]()
    result = []
    for name in map(".".join, candidates):
        seen[name] += 1
        result.append(f"{name}.{seen[name]}" if shared[name] > 1 else name)
    return result


def _seen(rows: Sequence[Row]) -> Iterator[str]:
    """Note which of the natives are there that others give way to."""
    for other in dict.fromkeys(row.tree["unless"] for row in rows if "unless" in row.tree):
        yield ottl.do(ottl.call("set", ottl.resource(ottl.SEEN + other), "true"), ottl.named(other))


def _take(row: Row, engine: Engine) -> str:
    """Copy the native, or extract the part of it."""
    conditions = [ottl.named(row.tree["native"])]
    if row.native.type in TYPES and engine.get("source") != "otlp":
        # A page that says another type is not the page that the mapping is of.
        conditions.append(f"metric.type == {TYPES[row.native.type]}")
    if "unless" in row.tree:
        conditions.append(f"{ottl.resource(ottl.SEEN + row.tree['unless'])} == nil")
    if row.metric.name in {measured["metric"] for measured in engine["library"]}:
        conditions.append(f"{ottl.resource(ottl.LIBRARY)} == nil")
    if row.copies:
        action = ottl.call("copy_metric", f"name={ottl.text(row.name)}")
    else:
        action = ottl.call(f"extract_{row.tree['part']}_metric", "true", ottl.text(_suffix(row)))
    return ottl.do(action, ottl.every(*conditions))


def _suffix(row: Row) -> str:
    return f".{row.name}"


def _name_part(row: Row) -> str:
    return ottl.do(ottl.call("set", "metric.name", ottl.text(row.name)), ottl.named(row.tree["native"] + _suffix(row)))


def _mark_natives(name: str, contract: Contract) -> Iterator[str]:
    natives = list(contract.inventories[name])
    for start in range(0, len(natives), 20):
        yield ottl.mark(ottl.NATIVE, ottl.named(*natives[start : start + 20]))


# ---------------------------------------------------------------- points


def _points(engine: Engine, rows: Sequence[Row], *, otlp: bool) -> Iterator[str]:
    """Attributes and values of the copies' points; those that mean nothing are marked."""
    for label, kept in engine.get("only", {}).items():
        wanted = ottl.either(f"{ottl.point(label)} == {ottl.text(value)}" for value in _list(kept))
        yield ottl.mark(ottl.DROP, f"{ottl.point(label)} != nil and not ({wanted})")
    yield from _constants(engine, rows)
    for label, target in engine["labels"].items():
        yield _label(label, target)
    for row in rows:
        yield from _point(row, otlp=otlp)
    yield from _required(engine, rows)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _required(engine: Engine, rows: Sequence[Row]) -> Iterator[str]:
    """A point without an attribute that its metric requires says nothing that anyone could use."""
    lacking: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        certain = {*engine["attributes"], *row.tree.get("set", {})}
        for use in row.metric.uses:
            if use.level == "required" and use.key not in certain:
                lacking[use.key].append(row.name)
    for key, names in lacking.items():
        yield ottl.mark(ottl.DROP, ottl.every(f"{ottl.point(key)} == nil", ottl.named(*names)))


def _constants(engine: Engine, rows: Sequence[Row]) -> Iterator[str]:
    settings = {"gen_ai.operation.name": ottl.OPERATION, "gen_ai.request.model": ottl.MODEL}
    for key, value in engine["attributes"].items():
        yield ottl.do(ottl.call("set", ottl.point(key), ottl.text(value)), _with(key, rows))
    for key in engine["configure"]:
        source = ottl.resource(settings[key])
        where = ottl.every(f"{source} != nil", _with(key, rows))
        yield ottl.do(ottl.call("set", ottl.point(key), source), where)


def _with(key: str, rows: Sequence[Row]) -> str:
    """Whether the row's metric has the attribute; empty where all have it."""
    having = [row.name for row in rows if key in row.metric.keys]
    return "" if len(having) == len(rows) else ottl.named(*having)


def _label(label: str, target: Tree, where: str = "") -> str:
    kind = target.get("type", "string")
    source = ottl.point(label)
    if kind == "string":
        return ottl.do(ottl.call("set", ottl.point(target["attribute"]), source), ottl.every(where, f"{source} != nil"))
    cast, form = {"int": ("Int", "^-?[0-9]+$"), "double": ("Double", r"^-?[0-9.eE+-]+$")}[kind]
    where = ottl.every(where, f"{source} != nil", ottl.call("IsMatch", source, ottl.text(form)))
    return ottl.do(ottl.call("set", ottl.point(target["attribute"]), ottl.call(cast, source)), where)


def _point(row: Row, *, otlp: bool) -> Iterator[str]:
    tree, is_row = row.tree, ottl.named(row.name)
    for label, values in tree.get("where", {}).items():
        one_of = ottl.either(f"{ottl.point(label)} == {ottl.text(value)}" for value in values)
        yield ottl.mark(ottl.DROP, ottl.every(is_row, f"not ({one_of})"))
    yield from (ottl.mark(ottl.DROP, ottl.every(is_row, condition)) for condition in _meaningless(tree, otlp=otlp))
    for key, value in tree.get("set", {}).items():
        yield ottl.do(ottl.call("set", ottl.point(key), ottl.text(value)), is_row)
    for label, target in tree.get("labels", {}).items():
        if "attribute" in target:
            yield _label(label, target, is_row)
        for native_value, assigned in target.get("values", {}).items():
            where = ottl.every(is_row, f"{ottl.point(label)} == {ottl.text(native_value)}")
            yield from (ottl.do(ottl.call("set", ottl.point(k), ottl.text(v)), where) for k, v in assigned.items())
    yield from _value(tree, is_row)
    if tree.get("factor", 0) < 0:
        # To be subtracted: `scale_metric` takes no negative literal.
        yield ottl.do(ottl.call("set", "datapoint.value_double", "0.0 - datapoint.value_double"), is_row)
    if otlp and "factor" in tree:
        # An integer would be cut off when it is scaled.
        as_double = ottl.call("set", "datapoint.value_double", "Double(datapoint.value_int)")
        yield ottl.do(as_double, ottl.every(is_row, "datapoint.value_int != 0"))


def _meaningless(tree: MetricMapping, *, otlp: bool) -> Iterator[str]:
    for value in tree.get("drop_values", ()):
        is_double = f"datapoint.value_double == {ottl.number(value)}"
        if not otlp:
            yield is_double  # what is scraped is a double
        elif value == 0:
            yield f"({is_double} and datapoint.value_int == 0)"  # of the two, the one that it is not reads 0
        else:
            yield f"({is_double} or Double(datapoint.value_int) == {ottl.number(value)})"
    if "drop_above" in tree:
        limit = ottl.number(tree["drop_above"])
        yield f"(datapoint.value_double >= {limit} or Double(datapoint.value_int) >= {limit})"


def _value(tree: MetricMapping, is_row: str) -> Iterator[str]:
    value: Tree = tree.get("value", {})
    if "product_of_labels" in value:
        labels = value["product_of_labels"]
        known = [f"IsMatch({ottl.point(label)}, {ottl.text('^[0-9]+$')})" for label in labels]
        product = " * ".join(f"Double({ottl.point(label)})" for label in labels)
        yield ottl.mark(ottl.DROP, ottl.every(is_row, f"not ({' and '.join(known)})"))
        yield ottl.do(ottl.call("set", "datapoint.value_double", product), ottl.every(is_row, *known))
    if "count_of_label" in value:
        label = ottl.point(value["count_of_label"])
        names = f"Len(Split({label}, {ottl.text(',')}))"
        yield ottl.do(ottl.call("set", "datapoint.value_double", "0.0"), is_row)
        some = f'{label} != nil and {label} != ""'
        yield ottl.do(ottl.call("set", "datapoint.value_double", f"Double({names})"), ottl.every(is_row, some))


def _closed(rows: Sequence[Row]) -> Iterator[str]:
    """Only the attributes that the common metric has stay; the rest of the labels goes."""
    by_keys: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in rows:
        by_keys[row.metric.keys].append(row.name)
    for keys, names in by_keys.items():
        kept = ottl.texts([*keys, ottl.DROP])
        yield ottl.do(ottl.call("keep_keys", "datapoint.attributes", kept), ottl.named(*names))


# ---------------------------------------------------------------- metrics


def _shape(row: Row) -> Iterator[str]:
    """Type, scale, unit and description of the copy; then points that have become the same are merged."""
    is_row = ottl.named(row.name)
    if row.metric.instrument in ("counter", "updowncounter") and row.copies:
        monotonic = ottl.text(row.metric.instrument == "counter")
        if row.native.type in ("gauge", "?"):
            yield ottl.do(ottl.call("convert_gauge_to_sum", ottl.text("cumulative"), monotonic), is_row)
    if "factor" in row.tree:
        yield ottl.do(ottl.call("scale_metric", ottl.number(abs(row.tree["factor"]))), is_row)
    yield ottl.do(ottl.call("set", "metric.unit", ottl.text(row.metric.unit)), is_row)
    yield ottl.do(ottl.call("set", "metric.description", ottl.text(row.metric.brief)), is_row)
    merge = row.tree.get("merge", "max" if row.metric.instrument == "gauge" else "sum")
    yield ottl.do(ottl.call("aggregate_on_attributes", ottl.text(merge)), is_row)


def _rename(row: Row) -> str:
    return ottl.do(ottl.call("set", "metric.name", ottl.text(row.metric.name)), ottl.named(row.name))
