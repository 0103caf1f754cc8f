"""What the SDK does with attributes and series of histograms, which differs between its versions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import opentelemetry.attributes
import opentelemetry.sdk.metrics._internal._view_instrument_match as matches

Attributes = Mapping[str, Any]

OVERFLOW: Attributes = {"otel.metric.overflow": True}
"""The attributes of the point for all sets beyond the limit."""


def _frozen(attributes: Attributes) -> Hashable:
    return frozenset(attributes.items())


_clean: Callable[[Attributes, None], Attributes] | None = getattr(
    opentelemetry.attributes, "_clean_attribute_value", None
)
key_of: Callable[[Attributes], Hashable] = getattr(matches, "_hash_attributes", _frozen)
"""What two sets of attributes of one series have in common. Before 1.45 `1` and `True` were the same to the SDK."""


def cleaned(attributes: Attributes) -> Attributes:
    """A copy; from 1.45 on without what an attribute cannot be."""
    return dict(attributes) if _clean is None else _clean(attributes, None)


def limit_of(reader: Any, instrument: type[Any]) -> int:
    """How many sets of attributes an instrument may have; before 1.45 any number."""
    limits: Mapping[type[Any], int] = getattr(reader, "_instrument_class_cardinality_limit", {})
    return limits.get(instrument, sys.maxsize)


def measures_itself(reader: Any) -> bool:
    """Whether the SDK records metrics of its own collections."""
    return type(getattr(reader, "_metrics", None)).__name__ == "MetricReaderMetrics"
