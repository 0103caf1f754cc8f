"""Statements on the data points of a normaliser: their attributes and values, and which of them mean nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from ai_otel.contract import Engine, MetricMapping
from ai_otel.contract.mapping import NO_KIND, no_value
from generator import ottl
from generator.mapping_row import Row, instruments, one_of
from generator.model import Tree


def points(engine: Engine, rows: Sequence[Row], *, otlp: bool) -> Iterator[str]:
    """Attributes and values of the copies' points; those that mean nothing are marked."""
    for label, kept in engine.get("only", {}).items():
        wanted = ottl.either(f"{ottl.point(label)} == {ottl.text(value)}" for value in _list(kept))
        yield ottl.mark(ottl.DROP, f"{ottl.point(label)} != nil and not ({wanted})")
    counted = [kind for kind in ("counter", "updowncounter") if any(row.metric.instrument == kind for row in rows)]
    if counted:
        # Of the two values, the one that it is not reads 0. The sum of a summary may be no number.
        negative = "(datapoint.value_double < 0.0 or datapoint.value_int < 0 or datapoint.value_double * 0.0 != 0.0)"
        yield ottl.skip("value", ottl.every(ottl.either(map(instruments, counted)), negative))
    if not otlp and any(row.metric.instrument == "histogram" for row in rows):
        yield ottl.skip("value", ottl.every(instruments("histogram"), _IMPOSSIBLE_SUM))
    yield from _constants(engine, rows)
    for label, target in engine["labels"].items():
        yield _none(label, target)
        yield _label(label, target)
    yield from _shared(rows, otlp=otlp)
    for row in rows:
        yield from _point(row, otlp=otlp)
    yield from _required(engine, rows)


# The receiver reads 0 for a sum that the endpoint lacks; above the first bucket nothing adds up to it.
_ABOVE_FIRST = f"IsMatch(Format({ottl.text('%v')}, [datapoint.bucket_counts]), {ottl.text(' [0-9]*[1-9]')})"
_IMPOSSIBLE_SUM = f"(datapoint.sum < 0.0 or (datapoint.sum == 0.0 and {_ABOVE_FIRST}))"
_WHOLE = "^[0-9]{1,18}$"
"""More digits fit into no integer."""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _required(engine: Engine, rows: Sequence[Row]) -> Iterator[str]:
    """A point without an attribute that its metric requires says nothing that anyone could use."""
    lacking: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        certain = {*engine["attributes"], *row.tree.get("set", {})}
        for use in row.metric.uses:
            if use.level == "required" and use.key not in certain:
                lacking[use.key].append(row)
    for key, found in lacking.items():
        yield ottl.skip("attribute", ottl.every(f"{ottl.point(key)} == nil", _kept(), one_of(found, rows)))


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
    return one_of([row for row in rows if key in row.metric.keys], rows)


def _none(label: str, target: Tree, where: str = "") -> str:
    """A label that says that there is no value is as one that is not there."""
    said = ottl.call("IsMatch", ottl.point(label), ottl.text(no_value(target.get("none", ()))))
    return ottl.do(ottl.call("delete_key", "datapoint.attributes", ottl.text(label)), ottl.every(where, said))


def _label(label: str, target: Tree, where: str = "") -> str:
    kind = target.get("type", "string")
    source = ottl.point(label)
    if kind == "string":
        return ottl.do(ottl.call("set", ottl.point(target["attribute"]), source), ottl.every(where, f"{source} != nil"))
    cast, form = {"int": ("Int", "^-?[0-9]{1,18}$"), "double": ("Double", r"^-?[0-9.eE+-]+$")}[kind]
    where = ottl.every(where, f"{source} != nil", ottl.call("IsMatch", source, ottl.text(form)))
    return ottl.do(ottl.call("set", ottl.point(target["attribute"]), ottl.call(cast, source)), where)


def _shared(rows: Sequence[Row], *, otlp: bool) -> Iterator[str]:
    """What several rows do alike: the points that they are not of, and the attributes that they set."""
    dropped: dict[str, list[Row]] = defaultdict(list)
    skipped: dict[str, list[Row]] = defaultdict(list)
    assigned: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        for label, values in row.tree.get("where", {}).items():
            chosen = ottl.either(f"{ottl.point(label)} == {ottl.text(value)}" for value in values)
            dropped[f"not ({chosen})"].append(row)
            # What is not chosen is left out on purpose; what says nothing about itself is lost.
            skipped[f"not ({chosen}) and {_says(label, NO_KIND)}"].append(row)
        for condition in _meaningless(row.tree, otlp=otlp):
            dropped[condition].append(row)
        for pair in row.tree.get("set", {}).items():
            assigned[pair].append(row)
    for condition, found in dropped.items():
        yield ottl.mark(ottl.DROP, ottl.every(one_of(found, rows), condition))
    for condition, found in skipped.items():
        yield ottl.skip("attribute", ottl.every(one_of(found, rows), condition))
    for (key, value), found in assigned.items():
        yield ottl.do(ottl.call("set", ottl.point(key), ottl.text(value)), one_of(found, rows))


def _says(label: str, pattern: str) -> str:
    return ottl.call("IsMatch", ottl.point(label), ottl.text(pattern))


def _point(row: Row, *, otlp: bool) -> Iterator[str]:
    tree, is_row = row.tree, ottl.named(row.name)
    for label, target in tree.get("labels", {}).items():
        if "attribute" in target:
            yield _none(label, target, is_row)
            yield _label(label, target, is_row)
        for native_value, assigned in target.get("values", {}).items():
            where = ottl.every(is_row, f"{ottl.point(label)} == {ottl.text(native_value)}")
            yield from (ottl.do(ottl.call("set", ottl.point(k), ottl.text(v)), where) for k, v in assigned.items())
    yield from _value(row, is_row)
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


def _value(row: Row, is_row: str) -> Iterator[str]:
    """The number that is in labels; where the sample itself is a time, that is kept beside it."""
    value: Tree = row.tree.get("value", {})
    if "newest" in row.tree:
        yield from _time(row, is_row)
    if "product_of_labels" in value:
        yield from _product(value, is_row)
    if "count_of_label" in value:
        yield from _count(value, is_row)
    if "newest" in row.tree:
        ordered = f'Int(datapoint.cache["time"] * 1000000.0) * {NEWEST} + Int(datapoint.value_double)'
        yield ottl.do(ottl.call("set", "datapoint.value_int", ordered), f"{is_row} and {_kept()}")


def _kept() -> str:
    return f"{ottl.point(ottl.DROP)} == nil"


def _product(value: Tree, is_row: str) -> Iterator[str]:
    known, product = _product_of(value["product_of_labels"])
    yield ottl.do(ottl.call("set", "datapoint.value_double", product), ottl.every(is_row, known))
    otherwise = value.get("else")
    if otherwise:
        # Only where a label of the first is not there at all: one that is there and no number says that there is none.
        lacking = ottl.either(f"{ottl.point(label)} == nil" for label in value["product_of_labels"])
        second, product = _product_of(otherwise["product_of_labels"])
        none = [_is_none(label) for label in otherwise.get("none", ())]
        second = ottl.every(lacking, second, *none)
        yield ottl.do(ottl.call("set", "datapoint.value_double", product), ottl.every(is_row, second))
        known = f"({known} or ({second}))"
    yield ottl.skip("value", ottl.every(is_row, f"not ({known})"))


def _is_none(label: str) -> str:
    said = ottl.call("IsMatch", ottl.point(label), ottl.text(no_value()))
    return f"({ottl.point(label)} == nil or {said})"


def _product_of(labels: Sequence[str]) -> tuple[str, str]:
    """Whether all of them are numbers, and their product."""
    known = (f"IsMatch({ottl.point(label)}, {ottl.text(_WHOLE)})" for label in labels)
    return ottl.every(*known), " * ".join(f"Double({ottl.point(label)})" for label in labels)


def _count(value: Tree, is_row: str) -> Iterator[str]:
    label = ottl.point(value["count_of_label"])
    names = f"Len(Split({label}, {ottl.text(',')}))"
    yield ottl.do(ottl.call("set", "datapoint.value_double", "0.0"), is_row)
    some = f'{label} != nil and {label} != ""'
    yield ottl.do(ottl.call("set", "datapoint.value_double", f"Double({names})"), ottl.every(is_row, some))
    if "at_most" in value:
        known, most = _product_of([value["at_most"]])
        yield ottl.skip("value", ottl.every(is_row, f"not ({known})"))
        more = f"datapoint.value_double > {most}"
        yield ottl.do(ottl.call("set", "datapoint.value_double", most), ottl.every(is_row, known, more))


# ---------------------------------------------------------------- the newest of several samples

NEWEST = 2048
"""A time in microseconds is multiplied by it and the value added: the largest number is that of the newest sample."""


def _time(row: Row, is_row: str) -> Iterator[str]:
    """The sample is the time at which its labels held. Processes that share an endpoint may add theirs up: no time."""
    now = "Double(datapoint.time_unix_nano) / 1000000000.0"
    yield ottl.do(ottl.call("set", 'datapoint.cache["time"]', "datapoint.value_double"), is_row)
    impossible = f"(datapoint.value_double < 0.0 or datapoint.value_double > {now} + 3600.0)"
    yield ottl.do(ottl.call("set", ottl.resource(ottl.SEEN + row.name), "true"), f"{is_row} and {impossible}")
    yield ottl.skip("value", f"{is_row} and {impossible}")


def newest(rows: Sequence[Row]) -> Iterator[str]:
    """Take the value out again, and what separated the sources."""
    for row in rows:
        if "newest" in row.tree:
            is_row = ottl.named(row.name)
            yield ottl.mark(ottl.DROP, f"{is_row} and {ottl.resource(ottl.SEEN + row.name)} != nil")
            value = f"Double(datapoint.value_int - datapoint.value_int / {NEWEST} * {NEWEST})"
            yield ottl.do(ottl.call("set", "datapoint.value_double", value), is_row)
            kept = ottl.texts([*row.metric.keys, ottl.DROP])
            yield ottl.do(ottl.call("keep_keys", "datapoint.attributes", kept), is_row)


# ---------------------------------------------------------------- what stays


def closed(rows: Sequence[Row]) -> Iterator[str]:
    """Only the attributes that the common metric has stay; the rest of the labels goes."""
    for kind, row in {row.kind: row for row in rows}.items():
        kept = ottl.texts([*row.metric.keys, *row.tree.get("newest", ()), ottl.DROP])
        keep = ottl.call("keep_keys", "datapoint.attributes", kept)
        yield ottl.do(keep, f"HasPrefix(metric.name, {ottl.text(kind)})")


# ---------------------------------------------------------------- what is only known together


def present(rows: Sequence[Row]) -> Iterator[str]:
    """Note which series of a combination have each of its natives."""
    required = {(row.tree["to"], native) for row in rows for native in requirements(row)}
    for row in rows:
        adds = (row.tree["to"], row.tree["native"]) in required and row.tree.get("factor", 1) > 0
        if adds:
            noted = ottl.call("set", f"resource.attributes[{_series(row, row.tree['native'])}]", "true")
            yield ottl.do(noted, f"{ottl.named(row.name)} and {_kept()}")


def incomplete(rows: Sequence[Row]) -> Iterator[str]:
    """A part of a sum is no sum: it goes where another part of the same series is missing."""
    for row in rows:
        for required in row.tree.get("requires", ()):
            missing = ottl.every(*(f"resource.attributes[{_series(row, native)}] == nil" for native in _list(required)))
            yield ottl.skip("incomplete", f"{ottl.named(row.name)} and {_kept()} and {missing}")


def requirements(row: Row) -> Iterator[str]:
    """The natives that must be there; of a list one must."""
    for required in row.tree.get("requires", ()):
        yield from _list(required)


def _series(row: Row, native: str) -> str:
    """The name of a mark: the common metric, the native, and the attributes of the point."""
    start = ottl.text(f"{ottl.SEEN}{row.tree['to']} {native} ")
    return f"Concat([{start}, String(datapoint.attributes)], {ottl.text('')})"
