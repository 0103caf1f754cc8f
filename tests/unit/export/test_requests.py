"""Metrics in parts: every point once, each part within the limit as it is encoded."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

from ai_otel.export.requests import split

LIMIT = 20_000


def data(series: int, text: str = "x") -> MetricsData:
    """Points of each type in two scopes, some with exemplars."""
    reader = InMemoryMetricReader()
    view = View(instrument_name="exponential", aggregation=ExponentialBucketHistogramAggregation())
    provider = MeterProvider([reader], Resource({"service.name": 30 * text}), views=[view], shutdown_on_exit=False)
    span = trace.SpanContext(1, 1, is_remote=False, trace_flags=trace.TraceFlags(1))
    context = trace.set_span_in_context(trace.NonRecordingSpan(span))
    for scope in ("first", "second"):
        meter = provider.get_meter(scope, "1.0", attributes={"a": text})
        for number in range(series):
            attributes = {"model": f"{number} {40 * text}", "n": number, "list": (text, text), "flag": True}
            meter.create_counter("counter", "1", 50 * text).add(number, attributes, context)
            meter.create_gauge("gauge").set(number / 7, attributes)
            for value in (0.001, 5.0, -70.0, 1e6):
                meter.create_histogram("histogram", "s").record(abs(value), attributes, context)
                meter.create_histogram("exponential").record(abs(value), attributes)
    found = reader.get_metrics_data()
    assert found is not None
    return found


def points(parts: list[MetricsData]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (resource.resource, scope.scope.name, metric.name, metric.unit, type(metric.data), repr(point))
        for part in parts
        for resource in part.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    )


def sizes(parts: list[MetricsData]) -> list[int]:
    return [encode_metrics(part).ByteSize() for part in parts]


@pytest.mark.parametrize("text", ["x", "ü", "模", "😀"])
def test_each_part_fits_and_no_point_is_lost(text: str) -> None:
    whole = data(100, text)
    parts = list(split(whole, LIMIT))
    assert len(parts) > 5
    assert points(parts) == points([whole])
    assert max(sizes(parts)) <= LIMIT
    assert sum(sizes(parts)) > 0.3 * LIMIT * len(parts), "the parts are not much smaller than they may be"


def test_what_fits_stays_as_it_is() -> None:
    whole = data(1)
    (part,) = split(whole, LIMIT)
    assert part is whole
    empty = MetricsData([])
    assert list(split(empty, LIMIT)) == [empty]


def test_a_point_above_the_limit_is_a_part_of_its_own() -> None:
    whole = data(2, "x" * 100)
    parts = list(split(whole, 100))
    assert len(parts) == sum(points([whole]).values())
    assert points(parts) == points([whole])
