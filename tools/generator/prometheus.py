"""How an OpenTelemetry metric is called in Prometheus."""

from __future__ import annotations

import re

UNITS = {"s": "seconds", "By": "bytes", "J": "joules", "W": "watts", "Cel": "celsius", "Hz": "hertz", "V": "volts"}


def prometheus_name(name: str, unit: str, instrument: str) -> str:
    """
    The name that the Collector and Prometheus' own OTLP receiver give by default.

    A gauge of unit `1` gets `_ratio` there, and not from the Python exporter. A histogram adds `_bucket`, `_sum` and
    `_count`. A unit that the name already has is not repeated.
    """
    words = re.split(r"[^a-zA-Z0-9]+", name)
    suffix = UNITS.get(unit)
    if suffix and suffix not in words:
        words.append(suffix)
    if unit == "1" and instrument == "gauge":
        words = [*(word for word in words if word != "ratio"), "ratio"]
    if instrument == "counter":
        words = [*(word for word in words if word != "total"), "total"]
    return "_".join(words)
