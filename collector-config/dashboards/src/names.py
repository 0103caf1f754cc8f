"""The contract for the dashboards: metrics and labels under their Prometheus names, and the engines that have them.

A name that is not in the contract stops the build, so no dashboard queries a metric that does not exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ai_otel.contract import Metric as Definition
from ai_otel.contract.compiled import from_tree

CONTRACT = Path(__file__).parents[3] / "src/ai_otel/schema/contract.json"

# Resource attributes that every shipped path to Prometheus puts on the series themselves: `resource_constant_labels` of
# ../../backends/prometheus.yaml, `promote_resource_attributes` of ../../examples/prometheus.yml.
PROMOTED = (
    "service.name",
    "service.namespace",
    "service.instance.id",
    "ai_otel.engine.name",
    "k8s.cluster.name",
    "k8s.namespace.name",
    "k8s.pod.name",
    "k8s.node.name",
    "k8s.deployment.name",
)

# The instrumentation that made a series: ai-otel, or the Collector that scraped the engine. Not in the contract,
# because it is no attribute; empty if a backend omits it.
SCOPE = "otel_scope_name"


class UnknownNameError(LookupError):
    """The contract has no such metric, label or value: it was renamed or removed, and the dashboard must follow."""


@dataclass(frozen=True)
class Metric:
    """One metric of the contract, with the labels of its series and its sources."""

    definition: Definition
    labels: frozenset[str]
    sources: tuple[str, ...]
    """Each engine that has it, and from where: `vLLM (library, page)`."""

    @property
    def name(self) -> str:
        """OpenTelemetry's name."""
        return self.definition.name

    @property
    def prometheus(self) -> str:
        """Prometheus' name."""
        return self.definition.prometheus

    @property
    def instrument(self) -> str:
        """`counter`, `updowncounter`, `gauge` or `histogram`."""
        return self.definition.instrument

    @property
    def count(self) -> str:
        """The series that counts: the counter itself, or the histogram's `_count`."""
        return f"{self.prometheus}_count" if self.instrument == "histogram" else self.prometheus


class Contract:
    """Metrics, labels and values of the compiled contract. Unknown names raise `UnknownNameError`."""

    def __init__(self, path: Path = CONTRACT) -> None:
        self._contract = from_tree(json.loads(path.read_text(encoding="utf-8")))
        self._metrics = {metric.constant: metric for metric in self._contract.metrics}
        self._keys = {*self._contract.attributes, *(use.key for use in self._contract.resource)}
        self._promoted = frozenset(self.label(key) for key in PROMOTED)

    def metric(self, constant: str) -> Metric:
        """The metric of a constant in `ai_otel.semconv`."""
        found = self._metrics.get(constant)
        if found is None:
            raise UnknownNameError(f"the contract has no metric {constant}; see docs/metrics.md")
        labels = frozenset(map(self.label, found.keys)) | self._promoted | {SCOPE}
        return Metric(found, labels, tuple(self._sources(found.name)))

    def label(self, key: str) -> str:
        """The Prometheus label of an attribute."""
        if key not in self._keys:
            raise UnknownNameError(f"the contract has no attribute {key}; see docs/metrics.md")
        return re.sub(r"[^a-zA-Z0-9]+", "_", key)

    def value(self, key: str, value: str) -> str:
        """Return `value` if the enum attribute `key` has it."""
        attribute = self._contract.attributes.get(key)
        members = attribute.members if attribute else ()
        if value not in members:
            raise UnknownNameError(f"{key} is never {value}; it is one of {', '.join(members)}")
        return value

    def metrics_in(self, expressions: Iterable[str]) -> list[Metric]:
        """The metrics that PromQL expressions read, in the order of their first mention."""
        constants = {metric.prometheus: constant for constant, metric in self._metrics.items()}
        series = re.findall(r"(\w+)(?=\{)", " ".join(expressions))
        names = [name if name in constants else re.sub(r"_(bucket|count|sum)$", "", name) for name in series]
        return [self.metric(constants[name]) for name in dict.fromkeys(names)]

    def _sources(self, name: str) -> Iterator[str]:
        for engine in self._contract.engines.values():
            sources = [
                *(["library"] if any(row["metric"] == name for row in engine["library"]) else ()),
                *(["page"] if any(row["to"] == name for row in engine["metrics"]) else ()),
            ]
            if sources:
                yield f"{engine['title']} ({', '.join(sources)})"

    def silent_about_failures(self, finished: Metric) -> list[str]:
        """
        Provider names of engines that count finished requests and never report failures.

        The library reports failures, and so does a metrics endpoint with an error type or the finish reason `error`.
        """
        silent = set()
        for engine in self._contract.engines.values():
            rows = [row for row in engine["metrics"] if row["to"] == finished.name]
            reported = json.dumps([(row.get("set"), row.get("labels")) for row in rows])
            measured = any(row["metric"] == finished.name for row in engine["library"])
            if rows and not measured and "error" not in reported:
                silent.add(engine["attributes"]["gen_ai.provider.name"])
        return sorted(silent)
