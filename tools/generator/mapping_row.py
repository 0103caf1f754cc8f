"""A row of an engine's mapping, with the metric that it becomes and the source metric that it reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ai_otel.contract import Engine, Metric, MetricMapping
from generator import ottl
from generator.model import Contract, SourceMetric


@dataclass(frozen=True)
class Row:
    """One row of the mapping, the metric that it becomes, and the native that it reads."""

    tree: MetricMapping
    metric: Metric
    native: SourceMetric
    name: str
    """The name of its copy until the end."""

    @property
    def kind(self) -> str:
        """What the names of all rows of its kind begin with."""
        return self.name.rpartition("/")[0] + "/"

    @property
    def copies(self) -> bool:
        """Whether the whole native is taken, rather than the sum or the count of a histogram."""
        return not self.tree.get("part")

    @property
    def usable(self) -> str:
        """
        Whether the native has a type that the row can use.

        Numbers are numbers: a page that calls a counter a gauge, or says nothing, is read by the name. A histogram
        without its type arrives in pieces, and is no histogram.
        """
        if not self.copies:
            return ottl.either(f"metric.type == METRIC_DATA_TYPE_{kind}" for kind in ("HISTOGRAM", "SUMMARY"))
        if self.metric.instrument == "histogram":
            return "metric.type == METRIC_DATA_TYPE_HISTOGRAM"
        return NUMBER


def measured(engine: Engine) -> set[str]:
    """The metrics that the library measures; where it runs, the endpoint's are not taken."""
    return {row["metric"] for row in engine["library"]}


NUMBER = ottl.either(f"metric.type == METRIC_DATA_TYPE_{kind}" for kind in ("GAUGE", "SUM"))
"""Whether the metric is of numbers."""


def rows_of(name: str, contract: Contract) -> list[Row]:
    """
    Every row of an engine.

    The name of a row's copy is `row/<kind>/<native>`, with more after a space where a native has several rows. Rows of
    one kind have the same instrument and the same attributes, so that a statement can be of all of them.
    """
    inventory = contract.inventories[name]
    mappings = contract.engines[name]["metrics"]
    kinds: dict[tuple[str, ...], str] = {}
    found = []
    for tree, row in zip(mappings, row_names(mappings), strict=True):
        metric = contract.metric(tree["to"])
        if metric is None:
            raise ValueError(f"{name}: {tree['to']} is not a metric of the contract")
        native = inventory.get(tree["native"], SourceMetric("?", ("?",)))
        kept = (metric.instrument, *metric.keys, "newest", *tree.get("newest", ()))
        kind = kinds.setdefault(kept, f"{metric.instrument[0]}{len(kinds)}")
        found.append(Row(tree, metric, native, f"{ottl.ROW}{kind}/{row}"))
    return found


def instruments(instrument: str) -> str:
    """Whether the metric is the copy of a row with this instrument."""
    return f"HasPrefix(metric.name, {ottl.text(ottl.ROW + instrument[0])})"


def one_of(wanted: Sequence[Row], rows: Sequence[Row]) -> str:
    """Whether the metric is the copy of one of the wanted rows, of all; empty where all are wanted."""
    names = {row.name for row in wanted}
    if len(names) == len(rows):
        return ""
    kinds: dict[str, list[str]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row.name)
    conditions = []
    for kind, members in kinds.items():
        if names.issuperset(members) and len(members) > 1:
            conditions.append(f"HasPrefix(metric.name, {ottl.text(kind)})")
        else:
            conditions += [ottl.named(member) for member in members if member in names]
    return ottl.either(conditions)


def row_names(mappings: Sequence[MetricMapping]) -> list[str]:
    """
    Names of an engine's rows, unique and independent of the rows' positions.

    A row has the name of its source metric. Where a source metric has several rows, the part of the histogram or the
    end of the common name follows, then a number among the rows that are still alike.
    """
    candidates = [[tree["native"]] for tree in mappings]
    parts = [tree.get("part", "") for tree in mappings]
    ends = [tree["to"].rpartition(".")[2] for tree in mappings]
    for additions in (parts, ends):
        shared = Counter(map(" ".join, candidates))
        alike = [shared[" ".join(names)] > 1 for names in candidates]
        for names, added, is_alike in zip(candidates, additions, alike, strict=True):
            if is_alike and added:
                names.append(added)
    shared, seen = Counter(map(" ".join, candidates)), Counter[str]()
    result = []
    for name in map(" ".join, candidates):
        seen[name] += 1
        result.append(f"{name} {seen[name]}" if shared[name] > 1 else name)
    return result
