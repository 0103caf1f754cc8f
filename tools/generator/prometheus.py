"""How an OpenTelemetry metric is called in Prometheus."""

from __future__ import annotations

import re

from generator.model import Metric

UNITS = {"s": "seconds", "By": "bytes", "J": "joules", "W": "watts", "Cel": "celsius", "Hz": "hertz", "V": "volts"}


def prometheus_name(metric: Metric) -> str:
    """
    The name that the Collector and Prometheus' own OTLP receiver give by default.

    A gauge of unit `1` gets `_ratio` there, and not from the Python exporter. A histogram adds `_bucket`, `_sum` and
    `_count`.
    """
    parts = [re.sub(r"[^a-zA-Z0-9]+", "_", metric.name)]
    unit = UNITS.get(metric.unit)
    if unit and not parts[0].endswith(f"_{unit}"):
        parts.append(unit)
    if metric.unit == "1" and metric.instrument == "gauge":
        parts.append("ratio")
    if metric.instrument == "counter":
        parts.append("total")
    return "_".join(parts)
