"""The metrics that arrived, in Prometheus text format, under the names that Prometheus gives OTLP metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from ai_otel.demo.sink import ArrivedMetric, Sink

_UNITS = {"s": "seconds", "By": "bytes", "J": "joules", "W": "watts", "Hz": "hertz", "Cel": "celsius", "%": "percent"}


def render(sink: Sink) -> tuple[str, bytes]:
    """Content type and content of the metrics endpoint."""
    registry = CollectorRegistry()
    registry.register(_Arrived(sink))
    return CONTENT_TYPE_LATEST, generate_latest(registry)


def prometheus_name(metric: ArrivedMetric) -> str:
    """The name without `_total`: dots become underscores, and the unit stands at the end."""
    name = re.sub(r"[^a-zA-Z0-9_:]", "_", metric.name)
    unit = _UNITS.get(metric.unit, "ratio" if metric.unit == "1" and metric.kind == "gauge" else "")
    return f"{name}_{unit}" if unit and not name.endswith(f"_{unit}") else name


class _Arrived(Collector):
    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def collect(self) -> Iterator[Any]:
        """One family for each metric."""
        for metric in sorted(self._sink.metrics.values(), key=lambda each: each.name):
            yield _family(metric)


def _family(metric: ArrivedMetric) -> Any:
    points = list(metric.points.items())
    # A family has one set of label names; a point that lacks one has it empty, which to Prometheus is the same.
    names = list(dict.fromkeys(name for labels, _ in points for name, _ in labels))
    family = _KINDS[metric.kind if metric.kind != "sum" or metric.monotonic else "gauge"](
        prometheus_name(metric), metric.description, labels=[re.sub(r"[^a-zA-Z0-9_]", "_", name) for name in names]
    )
    for labels, point in points:
        values = [dict(labels).get(name, "") for name in names]
        if metric.kind == "histogram":
            family.add_metric(values, _buckets(point), point.sum)
        else:
            family.add_metric(values, getattr(point, point.WhichOneof("value")))
    return family


_KINDS: dict[str, Any] = {"gauge": GaugeMetricFamily, "sum": CounterMetricFamily, "histogram": HistogramMetricFamily}


def _buckets(point: Any) -> list[tuple[str, float]]:
    bounds = [*(str(float(bound)) for bound in point.explicit_bounds), "+Inf"]
    total, buckets = 0, []
    for bound, count in zip(bounds, point.bucket_counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
