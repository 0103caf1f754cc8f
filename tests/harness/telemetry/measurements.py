"""Metrics as an SDK sends them: one export, cumulative, all points of one time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from harness.telemetry.traffic import attributes

CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
BOUNDS = (0.1, 1.0)

Labels = Mapping[str, Any]


def counter(name: str, points: Iterable[tuple[Labels, int]]) -> Metric:
    """A sum that only rises."""
    now = time.time_ns()
    found = [
        NumberDataPoint(attributes=attributes(labels), as_int=value, start_time_unix_nano=1, time_unix_nano=now)
        for labels, value in points
    ]
    return Metric(name=name, sum=Sum(data_points=found, is_monotonic=True, aggregation_temporality=CUMULATIVE))


def gauge(name: str, points: Iterable[tuple[Labels, float]]) -> Metric:
    now = time.time_ns()
    found = [
        NumberDataPoint(attributes=attributes(labels), as_double=value, time_unix_nano=now) for labels, value in points
    ]
    return Metric(name=name, gauge=Gauge(data_points=found))


def histogram(name: str, points: Iterable[tuple[Labels, tuple[int, int, int]]]) -> Metric:
    """With two bounds; every value is as large as the next bound, and 10 above the last."""
    now = time.time_ns()
    found = [
        HistogramDataPoint(
            attributes=attributes(labels),
            count=sum(counts),
            sum=sum(count * value for count, value in zip(counts, (*BOUNDS, 10.0), strict=True)),
            bucket_counts=counts,
            explicit_bounds=BOUNDS,
            start_time_unix_nano=1,
            time_unix_nano=now,
        )
        for labels, counts in points
    ]
    return Metric(name=name, histogram=Histogram(data_points=found, aggregation_temporality=CUMULATIVE))


def metrics_request(*metrics: Metric, resource: Labels | None = None) -> bytes:
    """One export of one process."""
    of = Resource(attributes=attributes(resource or {"service.name": "proxy", "service.instance.id": "1"}))
    found = ResourceMetrics(resource=of, scope_metrics=[ScopeMetrics(metrics=metrics)])
    return ExportMetricsServiceRequest(resource_metrics=[found]).SerializeToString()
