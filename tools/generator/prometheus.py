"""How an OpenTelemetry metric is called in Prometheus."""

from __future__ import annotations

import re

from generator.model import Metric

UNITS = {"s": "seconds", "By": "bytes", "J": "joules", "W": "watts", "Cel": "celsius", "Hz": "hertz", "V": "volts"}


def prometheus_name(metric: Metric) -> str:
    """
    The name that the Collector and Prometheus' own OTLP receiver give by default.

    A gauge of unit `1` gets `_ratio` there, and not from the Python exporter. A histogram adds `_bucket`, `_sum` and
    `_count`. What the name holds already is not said twice.
    """
    words = re.split(r"[^a-zA-Z0-9]+", metric.name)
    unit = UNITS.get(metric.unit)
    if unit and unit not in words:
        words.append(unit)
    if metric.unit == "1" and metric.instrument == "gauge":
        words = [*(word for word in words if word != "ratio"), "ratio"]
    if metric.instrument == "counter":
        words = [*(word for word in words if word != "total"), "total"]
    return "_".join(words)
