from __future__ import annotations

from typing import Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData

from ai_otel.export.pauses import Paused
from ai_otel.export.points import paused


def measured() -> MetricsData:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    for scope in ("first", "second"):
        meter = provider.get_meter(scope, "1", "https://example.com")
        meter.create_observable_gauge("gauge", [lambda _: [Observation(value, {"n": value}) for value in range(3)]])
        meter.create_counter("sum", unit="1", description="A sum").add(1, {"a": "b"})
        meter.create_histogram("histogram").record(0.5)
    data = reader.get_metrics_data()
    assert data is not None
    return data


def test_what_is_encoded_with_pauses_is_the_same() -> None:
    data = measured()
    slow = paused(data)
    assert slow == data
    assert encode_metrics(slow) == encode_metrics(data)
    lists: list[Any] = [scope.metrics for scope in slow.resource_metrics[0].scope_metrics]
    lists += [metric.data.data_points for metrics in lists for metric in metrics]
    assert {type(each) for each in lists} == {Paused}
    assert len(lists) == 8
