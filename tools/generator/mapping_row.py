"""A row of an engine's mapping, with the metric that it becomes and the source metric that it reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
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


def rows_of(name: str, contract: Contract) -> Iterator[Row]:
    """Every row of an engine."""
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
