"""
The contract as Python values, for the commands, the generators and the dashboards.

`compiled.py` loads it from `schema/contract.json`; the generators build it from the YAML files, of which the JSON is
compiled. Fields that exist only in the YAML have a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ai_otel.contract.mapping import Engine


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute key. `members` is empty for anything but an enum; `own` marks attributes that ai-otel defines."""

    key: str
    type: str
    brief: str = ""
    members: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    own: bool = False
    briefs: tuple[str, ...] = ()
    """YAML only: the description of each member."""
    constant: str | None = None
    """YAML only: the Python constant that holds the members."""
    original: str = ""
    """YAML only: the key before renames."""


@dataclass(frozen=True, slots=True)
class Use:
    """An attribute of a signal: `level` is `required`, `conditionally_required`, `recommended` or `opt_in`."""

    key: str
    level: str
    condition: str = ""
    sampling: bool = False


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `constant` is its name in `ai_otel.semconv`, `prometheus` its name in Prometheus."""

    name: str
    constant: str
    subject: str
    scope: str
    instrument: str
    """`counter`, `updowncounter`, `gauge` or `histogram`."""
    unit: str
    value: str
    """`int` or `double`."""
    brief: str
    note: str
    buckets: tuple[float, ...] | None
    """Bucket boundaries of a histogram."""
    prometheus: str
    uses: tuple[Use, ...]
    original: str = ""
    """YAML only: the name before renames."""
    bucket_set: str | None = None
    """YAML only: the name of the boundaries in `buckets.yaml`."""
    extends: str | None = None
    """YAML only: the attribute set that it extends."""
    refines: str | None = None
    """YAML only: the refinement of the conventions that it follows."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of every attribute that a point may carry."""
        return tuple(use.key for use in self.uses)


@dataclass(frozen=True, slots=True)
class Span:
    """One kind of span."""

    id: str
    role: str
    name: str
    kinds: tuple[str, ...]
    brief: str
    uses: tuple[Use, ...]
    note: str = ""
    """YAML only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """Every name that ai-otel emits, and its source in each engine."""

    attributes: Mapping[str, Attribute]
    metrics: tuple[Metric, ...]
    spans: tuple[Span, ...]
    resource: tuple[Use, ...]
    scopes: tuple[Mapping[str, Any], ...]
    engines: Mapping[str, Engine]
    renames: Mapping[str, Any]
    deprecated: frozenset[str]

    def metric(self, name: str) -> Metric | None:
        """Return the metric with this name, or `None`."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    @property
    def common(self) -> tuple[str, ...]:
        """The names of the metrics that describe requests and engines."""
        return tuple(metric.name for metric in self.metrics if metric.subject not in ("hardware", "health"))
