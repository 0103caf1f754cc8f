"""What the dashboards know of the contract: metrics and labels as Prometheus has them, and which engine has which.

A name that the contract does not have stops the build, so no dashboard can ask for a metric that nobody emits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

# Which instrumentation made a series: ai-otel itself, or the Collector that read the page. No attribute, so not in the
# contract; empty where a backend leaves it out.
SCOPE = "otel_scope_name"


class UnknownNameError(LookupError):
    """The contract has no such metric, label or value: it was renamed or removed, and the dashboard must follow."""


@dataclass(frozen=True)
class Metric:
    """One metric of the contract."""

    name: str
    prometheus: str
    instrument: str
    brief: str
    note: str
    labels: frozenset[str]
    sources: tuple[str, ...]
    """Each engine that has it, with where: `vLLM (library, page)`."""

    @property
    def count(self) -> str:
        """Name of the series that counts: of the counter itself, or of the histogram's samples."""
        return f"{self.prometheus}_count" if self.instrument == "histogram" else self.prometheus


class Contract:
    """The compiled contract, by the names that its Python constants have."""

    def __init__(self, path: Path = CONTRACT) -> None:
        self._tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self._rows = {row["constant"]: row for row in self._tree["metrics"]}
        self._promoted = frozenset(self.label(key) for key in PROMOTED)

    def metric(self, constant: str) -> Metric:
        """The metric that `ai_otel.semconv` calls so."""
        row = self._rows.get(constant)
        if row is None:
            raise UnknownNameError(f"the contract has no metric {constant}; see docs/metrics.md")
        return Metric(
            name=row["name"],
            prometheus=row["prometheus"],
            instrument=row["instrument"],
            brief=row["brief"],
            note=row["note"],
            labels=frozenset(map(self.label, row["attributes"])) | self._promoted | {SCOPE},
            sources=tuple(self._sources(row["name"])),
        )

    def label(self, key: str) -> str:
        """The label that an attribute becomes."""
        if key not in self._tree["attributes"] and key not in self._tree["resource"]:
            raise UnknownNameError(f"the contract has no attribute {key}; see docs/metrics.md")
        return re.sub(r"[^a-zA-Z0-9]+", "_", key)

    def value(self, key: str, value: str) -> str:
        """The same value, if the closed attribute `key` can have it."""
        members = self._tree["attributes"].get(key, {}).get("members", [])
        if value not in members:
            raise UnknownNameError(f"{key} is never {value}; it is one of {', '.join(members)}")
        return value

    def metrics_in(self, expressions: Iterable[str]) -> list[Metric]:
        """The metrics that PromQL expressions read, in the order of their first mention."""
        named = {row["prometheus"]: constant for constant, row in self._rows.items()}
        series = re.findall(r"(\w+)(?=\{)", " ".join(expressions))
        bases = [name if name in named else re.sub(r"_(bucket|count|sum)$", "", name) for name in series]
        return [self.metric(named[base]) for base in dict.fromkeys(bases)]

    def _sources(self, name: str) -> Iterator[str]:
        for engine in self._tree["engines"].values():
            ways = [
                *(["library"] if any(row["metric"] == name for row in engine["library"]) else ()),
                *(["page"] if any(row["to"] == name for row in engine["metrics"]) else ()),
            ]
            if ways:
                yield f"{engine['title']} ({', '.join(ways)})"

    def silent_about_failures(self, finished: Metric) -> list[str]:
        """
        Engines that count what has ended without ever telling that it failed, as provider names.

        Where the library measures it, or a page has an error's kind or a finish reason `error`, failures are told.
        """
        silent = set()
        for engine in self._tree["engines"].values():
            rows = [row for row in engine["metrics"] if row["to"] == finished.name]
            told = json.dumps([(row.get("set"), row.get("labels")) for row in rows])
            measured = any(row["metric"] == finished.name for row in engine["library"])
            if rows and not measured and "error" not in told:
                silent.add(engine["attributes"]["gen_ai.provider.name"])
        return sorted(silent)
