"""The contract: the names, units and values of everything that ai-otel emits, and what each engine's metrics become."""

from __future__ import annotations

from ai_otel.contract.compiled import load, read
from ai_otel.contract.mapping import Engine, LibraryMetric, MetricMapping, Unmapped
from ai_otel.contract.model import Attribute, Contract, Metric, Span, Use

__all__ = [
    "Attribute",
    "Contract",
    "Engine",
    "LibraryMetric",
    "Metric",
    "MetricMapping",
    "Span",
    "Unmapped",
    "Use",
    "load",
    "read",
]
