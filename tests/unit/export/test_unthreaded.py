"""Export without a thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

from ai_otel import providers
from ai_otel.export import unthreaded
from ai_otel.export.unthreaded import UnthreadedMetricReader, UnthreadedSpanProcessor


class Spans(SpanExporter):
    def __init__(self) -> None:
        self.batches: list[int] = []
        self.is_shut_down = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.batches.append(len(spans))
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.is_shut_down = True


class Metrics(MetricExporter):
    def __init__(self) -> None:
        super().__init__({}, {})
        self.values: list[Any] = []
        self.is_shut_down = False

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
        (resource,) = metrics_data.resource_metrics
        ((metric,),) = (scope.metrics for scope in resource.scope_metrics)
        self.values.append(metric.data.data_points[0].value)  # type: ignore[union-attr]
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        self.is_shut_down = True


def end(provider: TracerProvider, count: int) -> None:
    for _ in range(count):
        provider.get_tracer("test").start_span("span").end()


def test_spans_are_exported_in_batches_and_at_the_end() -> None:
    exporter = Spans()
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(UnthreadedSpanProcessor(exporter))
    end(provider, unthreaded.BATCH + 3)
    assert exporter.batches == [unthreaded.BATCH]
    assert provider.force_flush()
    end(provider, 2)
    provider.shutdown()
    assert (exporter.batches, exporter.is_shut_down) == ([unthreaded.BATCH, 3, 2], True)


def test_spans_that_are_not_sampled_are_not_exported() -> None:
    exporter = Spans()
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(UnthreadedSpanProcessor(exporter))
    end(provider, 2)
    provider.shutdown()
    assert exporter.batches == []


def test_the_last_values_are_exported_at_shutdown() -> None:
    exporter = Metrics()
    provider = MeterProvider([UnthreadedMetricReader(exporter)], shutdown_on_exit=False)
    counter = provider.get_meter("test").create_counter("count")
    counter.add(1)
    provider.force_flush()
    counter.add(2)
    provider.shutdown()
    assert (exporter.values, exporter.is_shut_down) == ([1, 3], True)


def test_private_providers_do_without_threads_where_none_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr("threading.Thread.start", refuses)
    exporters: dict[str, Any] = {"traces": Spans(), "metrics": Metrics()}
    own = providers.own(Resource({}), {}, lambda signal, _name, _kind: (exporters[signal], None))
    own.tracer_provider.get_tracer("test").start_span("span").end()
    own.meter_provider.get_meter("test").create_counter("count").add(1)
    own.shutdown()
    assert (exporters["traces"].batches, exporters["metrics"].values) == ([1], [1])
