"""Which histograms are direct, and how their metrics join the SDK's."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions, MeterProvider, NoOpMeter, Observation
from opentelemetry.sdk.metrics import ExemplarFilter, Histogram, MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import (
    DefaultAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.resources import Resource

meters = pytest.importorskip("ai_otel.direct.meters", exc_type=ImportError)  # an SDK that keeps its parts elsewhere
DirectMeterProvider = meters.DirectMeterProvider
DirectHistogram = meters.DirectHistogram


class Kept(MetricExporter):
    """Keeps what is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.exports: list[MetricsData] = []

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
        self.exports.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        pass


class EveryOther(ExemplarFilter):
    def should_sample(self, *_: Any) -> bool:
        return False


def provider_of(*readers: Any, **options: Any) -> SdkMeterProvider:
    return SdkMeterProvider(readers or [InMemoryMetricReader()], shutdown_on_exit=False, **options)


def directed(provider: SdkMeterProvider) -> MeterProvider:
    known: Any = provider  # its configuration held them before 1.43
    readers = known._metric_readers if hasattr(known, "_metric_readers") else known._sdk_config.metric_readers
    made: MeterProvider = meters.directed(provider, list(readers))
    return made


def names(data: MetricsData | None) -> dict[str, list[str]]:
    """Scope → its metrics."""
    found: dict[str, list[str]] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            assert scope.scope.name not in found
            found[scope.scope.name] = [metric.name for metric in scope.metrics]
    return found


# ---------------------------------------------------------------- which way


@pytest.mark.parametrize(
    "aggregation", [DefaultAggregation(), ExplicitBucketHistogramAggregation(), ExplicitBucketHistogramAggregation([7])]
)
def test_explicit_buckets_are_direct(aggregation: Any) -> None:
    bounds = []
    for through in (directed, lambda provider: provider):
        reader = InMemoryMetricReader(preferred_aggregation={Histogram: aggregation})
        provider = through(provider_of(reader))
        made = provider.get_meter("test").create_histogram("h", explicit_bucket_boundaries_advisory=[1, 2])
        assert isinstance(made, DirectHistogram) is (through is directed)
        made.record(1.0)
        data = reader.get_metrics_data()
        assert data is not None
        (point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
        bounds.append(point.explicit_bounds)  # type: ignore[union-attr]
    assert bounds[0] == bounds[1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: provider_of(
            InMemoryMetricReader(preferred_aggregation={Histogram: ExponentialBucketHistogramAggregation()})
        ),
        lambda: provider_of(views=[View(instrument_name="*")]),
        lambda: provider_of(InMemoryMetricReader(), InMemoryMetricReader()),
        lambda: SdkMeterProvider([], shutdown_on_exit=False),
        lambda: provider_of(exemplar_filter=EveryOther()),
    ],
    ids=["exponential", "a view", "two readers", "no reader", "a filter of its own"],
)
def test_what_is_not_known_stays_the_sdks(make: Callable[[], SdkMeterProvider]) -> None:
    provider = make()
    assert directed(provider) is provider


def test_metrics_of_the_sdk_itself_stay_the_sdks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    reader = InMemoryMetricReader()
    if not hasattr(reader, "_metrics"):
        pytest.skip("this version of the SDK has none")
    provider = provider_of(reader)
    assert directed(provider) is provider


@pytest.mark.fault(
    "export", "a version of the SDK keeps its parts elsewhere", "points are recorded through the SDK's public interface"
)
@pytest.mark.parametrize(
    ("part", "name"), [("provider", "_sdk_config"), ("reader", "_instrument_class_aggregation"), ("reader", "_collect")]
)
def test_another_sdk_stays_the_sdks(part: str, name: str) -> None:
    reader = InMemoryMetricReader()
    provider = provider_of(reader)
    del vars({"provider": provider, "reader": reader}[part])[name]
    assert meters.directed(provider, [reader]) is provider


def test_a_histogram_without_min_and_max_is_the_sdks() -> None:
    aggregation = ExplicitBucketHistogramAggregation(record_min_max=False)
    reader = InMemoryMetricReader(preferred_aggregation={Histogram: aggregation})
    made = directed(provider_of(reader)).get_meter("test").create_histogram("h")
    assert isinstance(made, Histogram)
    made.record(1.0)
    assert names(reader.get_metrics_data()) == {"test": ["h"]}


def test_a_histogram_whose_boundaries_are_unknown_is_the_sdks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExplicitBucketHistogramAggregation, "_create_aggregation", lambda: None)
    reader = InMemoryMetricReader(preferred_aggregation={Histogram: ExplicitBucketHistogramAggregation()})
    assert isinstance(directed(provider_of(reader)).get_meter("test").create_histogram("h"), Histogram)


def test_a_provider_that_is_switched_off_has_no_direct_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = directed(provider_of())
    provider.shutdown()  # type: ignore[attr-defined]
    assert isinstance(provider.get_meter("test"), NoOpMeter)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert isinstance(directed(provider_of()).get_meter("test"), NoOpMeter)


# ---------------------------------------------------------------- together with the SDK's metrics


def observed(provider: MeterProvider, scope: str, name: str, values: Sequence[float] = (1,)) -> None:
    def callback(_: CallbackOptions) -> list[Observation]:
        return [Observation(value) for value in values]

    provider.get_meter(scope).create_observable_gauge(name, [callback])


@pytest.mark.parametrize("through", [directed, lambda provider: provider], ids=["direct", "SDK"])
def test_both_kinds_are_collected_together_by_scope(through: Callable[[SdkMeterProvider], MeterProvider]) -> None:
    reader = InMemoryMetricReader()
    provider = through(provider_of(reader, resource=Resource({"service.name": "test"}, "https://example.com")))
    observed(provider, "both", "gauge")
    observed(provider, "gauges", "gauge")
    for scope in ("both", "histograms"):
        provider.get_meter(scope).create_histogram("h").record(1.0)
    data = reader.get_metrics_data()
    assert names(data) == {"both": ["h", "gauge"], "histograms": ["h"], "gauges": ["gauge"]}
    assert data is not None
    (resource,) = data.resource_metrics
    assert (resource.resource.attributes, resource.schema_url) == ({"service.name": "test"}, "https://example.com")


def test_nothing_recorded_is_nothing_collected() -> None:
    reader = InMemoryMetricReader()
    provider = directed(provider_of(reader))
    provider.get_meter("test").create_histogram("h")
    assert reader.get_metrics_data() is None


def test_all_other_instruments_are_the_sdks() -> None:
    reader = InMemoryMetricReader()
    meter = directed(provider_of(reader)).get_meter("test")
    meter.create_counter("counter").add(1)
    meter.create_up_down_counter("updown").add(-1)
    meter.create_gauge("gauge").set(1)
    for number, create in enumerate(
        (meter.create_observable_counter, meter.create_observable_up_down_counter, meter.create_observable_gauge)
    ):
        create(f"observed {number}".replace(" ", "."), [lambda _: [Observation(1)]])
    assert names(reader.get_metrics_data()) == {
        "test": ["counter", "updown", "gauge", "observed.0", "observed.1", "observed.2"]
    }


def test_a_flush_and_the_shutdown_export_what_is_new() -> None:
    kept = Kept()
    reader = PeriodicExportingMetricReader(kept, export_interval_millis=3_600_000)
    provider = directed(provider_of(reader))
    assert isinstance(provider, DirectMeterProvider)
    histogram = provider.get_meter("test").create_histogram("h")
    counts = []
    for end in (provider.force_flush, provider.force_flush, provider.shutdown):
        histogram.record(1.0)
        end()
        ((metric,),) = [scope.metrics for scope in kept.exports[-1].resource_metrics[0].scope_metrics]
        counts.append(metric.data.data_points[0].count)
    assert counts == [1, 2, 3]
    assert len(kept.exports) == 3


def test_the_child_of_a_fork_does_not_collect_its_parents_values(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    provider = directed(provider_of(reader))
    assert isinstance(provider, DirectMeterProvider)
    observed(provider, "test", "gauge")
    provider.get_meter("test").create_histogram("h").record(1.0)
    parent = os.getpid()
    monkeypatch.setattr(meters.os, "getpid", lambda: parent + 1)
    with provider._known.stream.lock:  # by a thread that the child does not have
        assert names(reader.get_metrics_data()) == {"test": ["gauge"]}
