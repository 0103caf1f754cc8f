"""
Which source metrics of a metrics endpoint the mapping knows and cannot use, and why.

The Collector's normaliser decides the same from the same mapping and reports `ai_otel.source.skipped`; a test holds the
two against each other. Here it is for `ai-otel doctor` and `ai-otel collector explain`, which have only the page.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ai_otel.contract.mapping import NO_KIND, Engine, MetricMapping, no_value
from ai_otel.contract.model import Contract

_WHOLE = re.compile(r"[0-9]{1,18}")
_CASTS = {"int": re.compile(r"-?[0-9]{1,18}"), "double": re.compile(r"-?[0-9.eE+-]+")}
_AN_HOUR_S = 3600.0


class Sample(NamedTuple):
    """One line of a page."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Scrape:
    """A page: its samples by name, and the type of the family that each name belongs to."""

    samples: Mapping[str, Sequence[Sample]]
    types: Mapping[str, str]


@dataclass(frozen=True)
class Skipped:
    """A source metric that the mapping knows and cannot use."""

    native: str
    metric: str
    """The common metric that it is missing from."""
    reason: str
    """A value of `ai_otel.skip.reason`."""
    says: str


def read_page(text: str) -> Scrape:
    """Read Prometheus text format; raises `ValueError` for any other text."""
    from prometheus_client.parser import text_string_to_metric_families

    samples: dict[str, list[Sample]] = {}
    types: dict[str, str] = {}
    for family in text_string_to_metric_families(text):
        types[family.name] = family.type
        for name, labels, value, *_ in family.samples:
            types[name] = family.type
            samples.setdefault(name, []).append(Sample({k: v for k, v in labels.items() if v}, value))
    return Scrape(samples, types)


def skipped(contract: Contract, name: str, scrape: Scrape) -> Iterator[Skipped]:
    """Yield what cannot be used of a page of the engine `name`, at most once for each source and common metric."""
    reader = _Reader(contract, contract.engines[name], scrape)
    seen = set[tuple[str, str]]()
    for each in reader.skipped():
        if (each.native, each.metric) not in seen:
            seen.add((each.native, each.metric))
            yield each


class _Reader:
    """One page and the mapping of its engine."""

    def __init__(self, contract: Contract, engine: Engine, scrape: Scrape) -> None:
        self._engine, self._scrape = engine, scrape
        self._metrics = {metric.name: metric for metric in contract.metrics}
        self._no_value = re.compile(no_value())

    def skipped(self) -> Iterator[Skipped]:
        rows = [row for row in self._engine["metrics"] if not self._gives_way(row)]
        there = {self._series(row, sample) for row in rows for sample in self._kept(row) if row.get("factor", 1) > 0}
        for row in rows:
            wrong = self._wrong_type(row)
            if wrong:
                yield Skipped(row["native"], row["to"], "type", wrong)
            for sample in self._samples(row):
                unplaced = self._unplaced(row, sample)
                if unplaced:
                    yield Skipped(row["native"], row["to"], "attribute", unplaced)
            for sample in self._meant(row):
                reason = self._problem(row, sample) or self._lacking(row, sample, there)
                if reason:
                    yield Skipped(row["native"], row["to"], *reason)

    def _gives_way(self, row: MetricMapping) -> bool:
        other = row.get("unless")
        return other is not None and (other in self._scrape.samples or f"{other}_count" in self._scrape.samples)

    # Types.

    def _wrong_type(self, row: MetricMapping) -> str | None:
        """What is wrong with the type, as a sentence; `None` where nothing is, or where the page lacks the metric."""
        native, samples = row["native"], self._scrape.samples
        declared = self._scrape.types.get(native, "unknown")
        if self._is_number(row):
            usable = declared not in ("histogram", "summary", "gaugehistogram")
        elif "part" in row:
            usable = declared in ("histogram", "summary") or f"{native}_{row['part']}" in samples
        else:
            usable = declared == "histogram"
        pieces = () if usable else ("_bucket", "_sum", "_count")
        if usable or not any(f"{native}{end}" in samples for end in ("", *pieces)):
            return None
        needed = "a number" if self._is_number(row) else "a histogram"
        return f"is {needed}, and the endpoint declares {'no type' if declared == 'unknown' else f'a {declared}'}"

    def _is_number(self, row: MetricMapping) -> bool:
        return "part" not in row and self._metrics[row["to"]].instrument != "histogram"

    # Samples.

    def _meant(self, row: MetricMapping) -> Iterator[Sample]:
        """The samples that the row is of; without those that the mapping drops."""
        for sample in self._samples(row):
            chosen = all(sample.labels.get(label) in values for label, values in row.get("where", {}).items())
            dropped = sample.value in row.get("drop_values", ()) or sample.value >= row.get("drop_above", float("inf"))
            if chosen and self._only(sample) and not dropped:
                yield sample

    def _samples(self, row: MetricMapping) -> Sequence[Sample]:
        if self._wrong_type(row):
            return ()
        name = row["native"] if self._is_number(row) else f"{row['native']}_{row.get('part', 'count')}"
        return self._scrape.samples.get(name, ())

    def _unplaced(self, row: MetricMapping, sample: Sample) -> str | None:
        """A label that would choose the sample, and says that it has no value."""
        for label, values in row.get("where", {}).items():
            text = sample.labels.get(label)
            if text is not None and text not in values and re.match(NO_KIND, text):
                return f"has no value in its label {label}"
        return None

    def _only(self, sample: Sample) -> bool:
        """Whether it is one of the series that are kept of those that differ in a label."""
        for label, kept in self._engine.get("only", {}).items():
            if sample.labels.get(label) not in (None, *(kept if isinstance(kept, list) else [kept])):
                return False
        return True

    def _kept(self, row: MetricMapping) -> Iterator[Sample]:
        return (sample for sample in self._meant(row) if self._problem(row, sample) is None)

    def _problem(self, row: MetricMapping, sample: Sample) -> tuple[str, str] | None:
        """The reason, and the sentence that says it."""
        value = self._value_problem(row, sample)
        if value:
            return "value", value
        attributes = self._attributes(row, sample)
        for use in self._metrics[row["to"]].uses:
            if use.level == "required" and use.key not in attributes:
                return "attribute", f"has no label that {use.key} could be taken from"
        return None

    def _value_problem(self, row: MetricMapping, sample: Sample) -> str | None:
        value: dict[str, Any] = row.get("value", {})
        if self._metrics[row["to"]].instrument in ("counter", "updowncounter") and sample.value < 0:
            return f"is {sample.value:g}, below zero"
        if "part" in row and math.isnan(sample.value):
            return "has a sum that is no number"
        if self._metrics[row["to"]].instrument == "histogram" and (problem := self._sum_problem(row, sample)):
            return problem
        if "newest" in row and not 0 <= sample.value <= time.time() + _AN_HOUR_S:
            return f"is a time, and {sample.value:g}: servers that share the endpoint have added theirs"
        labels = [*value.get("product_of_labels", ()), *filter(None, [value.get("at_most")])]
        unknown = [label for label in labels if not _WHOLE.fullmatch(sample.labels.get(label, ""))]
        if not unknown or self._other_product(value, sample):
            return None
        return f"has no number in its label {' or '.join(unknown)}"

    def _sum_problem(self, row: MetricMapping, count: Sample) -> str | None:
        samples = self._scrape.samples
        total = next((s.value for s in samples.get(f"{row['native']}_sum", ()) if s.labels == count.labels), 0.0)
        buckets = [s for s in samples.get(f"{row['native']}_bucket", ()) if {**count.labels, **s.labels} == s.labels]
        if total < 0:
            return f"is a histogram, and its sum {total:g}"
        if total == 0 and buckets and min(bucket.value for bucket in buckets) < count.value:
            return "is a histogram without its sum"
        return None

    def _other_product(self, value: Mapping[str, Any], sample: Sample) -> bool:
        otherwise = value.get("else")
        if otherwise is None or all(label in sample.labels for label in value["product_of_labels"]):
            return False
        known = all(_WHOLE.fullmatch(sample.labels.get(label, "")) for label in otherwise["product_of_labels"])
        return known and all(self._no_value.match(sample.labels.get(label, "")) for label in otherwise.get("none", ()))

    # Attributes, and sums of several source metrics.

    def _attributes(self, row: MetricMapping, sample: Sample) -> dict[str, str]:
        found = {**self._engine["attributes"]}
        for label, target in self._engine["labels"].items():
            found.update(self._attribute(label, target, sample))
        found.update(row.get("set", {}))
        for label, target in row.get("labels", {}).items():
            found.update(self._attribute(label, target, sample) if "attribute" in target else {})
            found.update(target.get("values", {}).get(sample.labels.get(label), {}))
        keys = self._metrics[row["to"]].keys
        return {key: str(value) for key, value in found.items() if key in keys}

    def _attribute(self, label: str, target: Mapping[str, Any], sample: Sample) -> dict[str, str]:
        text = sample.labels.get(label)
        cast = _CASTS.get(target.get("type", ""))
        if text is None or re.match(no_value(target.get("none", ())), text) or (cast and not cast.fullmatch(text)):
            return {}
        return {target["attribute"]: text}

    def _series(self, row: MetricMapping, sample: Sample, native: str = "") -> tuple[str, str, str]:
        return row["to"], native or row["native"], json.dumps(self._attributes(row, sample), sort_keys=True)

    def _lacking(self, row: MetricMapping, sample: Sample, there: set[tuple[str, str, str]]) -> tuple[str, str] | None:
        for required in row.get("requires", ()):
            natives = required if isinstance(required, list) else [required]
            if all(self._series(row, sample, native) not in there for native in natives):
                return "incomplete", f"is a part of a sum that needs {' or '.join(natives)}"
        return None
