"""Builds PromQL expressions: what all queries have in common.

The rules, so that a query says what its title says:
* `rate` before `sum`; counters only ever as rates, gauges never;
* a quantile of summed buckets, never a mean of quantiles. Only buckets with the same bounds may be added up, and bounds
  are an engine's own: engine and instrumentation stand in every such `by`;
* a ratio of sums, never a mean of ratios.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from names import SCOPE, Contract, Metric, UnknownNameError

WINDOW = "$__rate_interval"

# Variables of the dashboards, and the attribute that each chooses from.
FILTERS = {
    "cluster": "k8s.cluster.name",
    "namespace": "k8s.namespace.name",
    "engine": "gen_ai.provider.name",
    "model": "gen_ai.request.model",
    "instance": "service.instance.id",
}
SPLIT = "split"


class Queries:
    """Makes expressions of the contract's metrics. `where` are label matchers, `by` is a list of labels."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.metric, self.label, self.value = contract.metric, contract.label, contract.value
        self.engine = contract.label("gen_ai.provider.name")
        self.model = contract.label("gen_ai.request.model")
        self._pod = contract.label("k8s.pod.name")
        self._instance = contract.label("service.instance.id")
        # A page that is read over localhost has the same address in every pod.
        self.instance = f"{self._pod}, {self._instance}"
        self.one_server = f"{self.engine}, {self.instance}"
        self.by_split = f"${SPLIT}"
        self._filters = {name: f'{contract.label(key)}=~"${name}"' for name, key in FILTERS.items()}

    @property
    def splits(self) -> dict[str, str]:
        """What the variable `split` offers: how finely a panel separates series, and the labels for it."""
        return {
            "engine": self.engine,
            "engine, model": f"{self.engine}, {self.model}",
            "engine, model, instance": f"{self.engine}, {self.model}, {self.instance}",
        }

    @property
    def legend(self) -> str:
        """Names a series under every split; labels that it does not have stay empty."""
        return shown(self.engine, self.model, self._pod, self._instance)

    def series(self, metric: Metric, *where: str, suffix: str = "", of_any: str = "") -> str:
        """The series of a metric that the dashboard's variables choose; `of_any` is one that is not asked."""
        for matcher in where:
            label = re.match(r"\w+", matcher)
            if label is None or label[0] not in metric.labels:
                raise UnknownNameError(f"{metric.name} has no label of {matcher}")
        matchers = [*where, *(text for name, text in self._filters.items() if name != of_any)]
        return f"{metric.prometheus}{suffix}{{{', '.join(matchers)}}}"

    def rate(self, metric: Metric, *where: str, suffix: str = "") -> str:
        """Growth per second of a counter, or with `suffix` of a part of a histogram."""
        if not suffix and metric.instrument != "counter":
            raise TypeError(f"{metric.name} is a {metric.instrument}: only what always grows has a rate")
        return f"rate({self.series(metric, *where, suffix=suffix)}[{WINDOW}])"

    def gauge(self, metric: Metric, *where: str, of_any: str = "") -> str:
        """The present value."""
        if metric.instrument not in {"gauge", "updowncounter"}:
            raise TypeError(f"{metric.name} is a {metric.instrument}: it has no present value")
        return self.series(metric, *where, of_any=of_any)

    def quantile(self, share: float, metric: Metric, by: str, *where: str) -> str:
        """The value that `share` of the samples do not exceed, interpolated within its bucket."""
        if metric.instrument != "histogram":
            raise TypeError(f"{metric.name} is a {metric.instrument}: it has no quantile")
        buckets = self.rate(metric, *where, suffix="_bucket")
        return f"histogram_quantile({share}, {total(f'le, {by}, {SCOPE}', buckets)})"


def shown(*labels: str) -> str:
    """Labels' values, for a legend."""
    return " ".join(f"{{{{{label}}}}}" for label in labels)


def total(by: str, expression: str) -> str:
    """The sum by the labels in `by`."""
    return f"sum by ({by}) ({expression})"


def highest(by: str, expression: str) -> str:
    """The maximum by the labels in `by`: for ratios, which cannot be added."""
    return f"max by ({by}) ({expression})"


def ratio(part: str, whole: str) -> str:
    """One sum of another; nothing where the whole is 0, because of nothing there is no share."""
    return f"{part} / ({whole} > 0)"


def first_of(sources: Sequence[str], on: str) -> str:
    """All series of the first source; of each next one those whose `on` no earlier source has."""
    return f" or on ({on}) ".join(f"({source})" for source in sources)
