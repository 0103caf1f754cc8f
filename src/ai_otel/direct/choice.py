"""Whether a signal of own providers can be made directly, with this SDK, these exporters and these variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Found = list[tuple[str, type[Any]]]
"""Exporters of a signal, by name and class."""


def for_spans(found: Found, environment: Mapping[str, str]) -> tuple[type[Any], Found] | None:
    """
    The class of tracer provider, and the exporter with the class that takes its spans; `None` where the SDK does it.

    The SDK's metrics about itself count its own spans.
    """
    counted = environment.get("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "").strip().lower() == "true"
    if counted or len(found) != 1:
        return None
    try:
        from ai_otel.direct.sending import directly
        from ai_otel.direct.tracer import DirectTracerProvider
    except ImportError:  # another version of the SDK, or no OTLP
        return None
    ((name, exporter),) = found
    direct = directly(exporter)
    return None if direct is None else (DirectTracerProvider, [(name, direct)])
