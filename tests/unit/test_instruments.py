"""No single point costs an export: numbers that OTLP cannot carry have no point."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from ai_otel import semconv
from ai_otel.direct.binding import Adapted, BindableHistogram
from ai_otel.gpu.metrics import observe
from ai_otel.gpu.snapshot import DeviceSample, Snapshot
from ai_otel.gpu.source import Device, GpuReading
from ai_otel.instruments import LARGEST, histogram, observable, silencer
from ai_otel.semconv import Metric

IMPOSSIBLE = (2**63, -(2**63) - 1, 10**400, float("nan"), float("inf"), float("-inf"))
METRICS = [each for each in vars(semconv).values() if isinstance(each, Metric) and each.instrument != "histogram"]


def exported(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    """Return metric → values of the export, encoded as for a Collector."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    found: dict[str, list[Any]] = {}
    for resource in encode_metrics(data).resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                points = [*metric.gauge.data_points, *metric.sum.data_points]
                found[metric.name] = [getattr(point, point.WhichOneof("value")) for point in points]
    return found


@pytest.mark.fault(
    "export",
    "one instrument observes an integer beyond 64 bits, NaN or infinity",
    "that point is left out, and all others are exported",
)
def test_a_number_that_otlp_cannot_carry_costs_its_point_only() -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("test")
    assert len(METRICS) > 50
    for metric in METRICS:
        values = [1, LARGEST, *IMPOSSIBLE, 0.5]
        observable(meter, metric, lambda values=values: [Observation(v, {"n": n}) for n, v in enumerate(values)])
    found = exported(reader)
    assert found == {metric.name: [1, LARGEST, 0.5] for metric in METRICS}


@pytest.mark.parametrize("value", IMPOSSIBLE)
def test_an_impossible_value_of_a_third_partys_source_costs_its_point_only(value: float) -> None:
    broken = GpuReading()
    for each in dataclasses.fields(GpuReading):
        if each.type in ("float | None", "int | None"):
            setattr(broken, each.name, value)
    broken.io_bytes, broken.throttle_s = {("nvlink", "receive"): value}, {"power_cap": value}  # type: ignore[dict-item]
    samples = (
        DeviceSample(Device("GPU-1", "other"), broken, 1.0),
        DeviceSample(Device("GPU-2", "other"), GpuReading(power_w=100.0), 1.0),
    )
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("test")
    observe(meter, meter, lambda: Snapshot(samples=samples, taken_s=1.0), clock=lambda: 1.0)
    assert exported(reader)["hw.power"] == [100.0]


def test_the_latest_observation_of_a_meter_counts_until_it_is_silenced() -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("test")
    metric = semconv.AI_OTEL_RECORD_OPEN
    observable(meter, metric, lambda: [Observation(1)])
    first = silencer(meter)
    assert exported(reader) == {metric.name: [1]}
    observable(meter, metric, lambda: [Observation(2)])
    first()
    assert exported(reader) == {metric.name: [2]}
    silencer(meter)()
    assert exported(reader) == {}


@pytest.mark.parametrize("direct", [True, False])
def test_a_histogram_is_bound_to_attributes_be_it_the_sdks_or_direct(direct: bool) -> None:
    reader = InMemoryMetricReader()
    provider: Any = MeterProvider([reader], shutdown_on_exit=False)
    if direct:
        provider = pytest.importorskip("ai_otel.direct.meters", exc_type=ImportError).directed(provider, [reader])
    meter = provider.get_meter("test")
    metric = semconv.GEN_AI_SERVER_REQUEST_DURATION
    made = histogram(meter, metric)
    assert isinstance(made, BindableHistogram if direct else Adapted)
    bound = made.bind({"a": "b"})
    bound.record(1.0, None)
    bound.record(2.0, None)
    data = reader.get_metrics_data()
    assert data is not None
    ((found,),) = [scope.metrics for scope in data.resource_metrics[0].scope_metrics]
    (point,) = found.data.data_points
    assert (found.name, found.unit, found.description) == (metric.name, metric.unit, metric.description)
    assert (point.attributes, point.sum, point.explicit_bounds) == ({"a": "b"}, 3.0, metric.buckets)  # type: ignore[union-attr]
