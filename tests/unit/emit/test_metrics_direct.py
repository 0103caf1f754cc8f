"""Every instrument that requests record goes out the same by direct histograms as by the SDK's."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics import Histogram, MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from ai_otel import semconv
from ai_otel.emit.metrics import MetricEmitter
from ai_otel.engine_counters import EngineCounters
from records import EVERY_KIND, call, inference

meters = pytest.importorskip("ai_otel.direct.meters", exc_type=ImportError)  # an SDK that keeps its parts elsewhere


class Way:
    """An emitter on a provider of its own."""

    def __init__(self, temporality: AggregationTemporality, *, direct: bool) -> None:
        self.reader = InMemoryMetricReader(preferred_temporality={Histogram: temporality})
        provider: MeterProvider = SdkMeterProvider([self.reader], resource=Resource({}), shutdown_on_exit=False)
        if direct:
            provider = meters.directed(provider)
            assert isinstance(provider, meters.DirectMeterProvider)
        self.emitter = MetricEmitter(
            provider.get_meter(semconv.SCOPE_GEN_AI, "1", semconv.SCHEMA_URL_GEN_AI),
            provider.get_meter(semconv.SCOPE, "1"),
            EngineCounters(),
        )

    def exported(self) -> Any:
        """What is exported, without its times."""
        data = self.reader.get_metrics_data()
        assert data is not None
        request = encode_metrics(data)
        for metric in (m for each in request.resource_metrics for scope in each.scope_metrics for m in scope.metrics):
            for point in (*metric.histogram.data_points, *metric.sum.data_points, *metric.gauge.data_points):
                point.start_time_unix_nano = point.time_unix_nano = 0
                for exemplar in point.exemplars:
                    exemplar.time_unix_nano = 0
        return request


def contexts() -> Any:
    """A span for each record, every third one not sampled; now and then none, as where spans are switched off."""
    for number in itertools.count(1):
        flags = TraceFlags(TraceFlags.SAMPLED if number % 3 else TraceFlags.DEFAULT)
        span = NonRecordingSpan(SpanContext(number, number + 1, is_remote=False, trace_flags=flags))
        yield trace.set_span_in_context(span) if number % 5 else None


@pytest.mark.parametrize("temporality", [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])
def test_every_kind_of_record_has_the_same_points_either_way(temporality: AggregationTemporality) -> None:
    ways = [Way(temporality, direct=direct) for direct in (False, True)]
    context = contexts()
    names: set[str] = set()
    for _ in range(3):
        for make in EVERY_KIND.values():
            record, where = make(), next(context)
            record.settle()
            for way in ways:
                way.emitter.emit(record, "fake", where)
        sdk, direct = (way.exported() for way in ways)
        assert sdk == direct
        names |= {m.name for each in direct.resource_metrics for scope in each.scope_metrics for m in scope.metrics}
    recorded = {m.name for m in semconv.METRICS if m.instrument == "histogram" and m.subject != "hardware"}
    written = {name for name in recorded if name.startswith(("gen_ai.server.", "ai_otel.request."))}
    assert len(written) >= 10
    assert names >= written


def test_more_models_than_a_metric_may_have_share_one_name_either_way() -> None:
    ways = [Way(AggregationTemporality.CUMULATIVE, direct=direct) for direct in (False, True)]
    for number in range(300):
        record = call(inference(model=f"model {number}"))
        record.settle()
        for way in ways:
            way.emitter.emit(record, "fake", None)
    sdk, direct = (way.exported() for way in ways)
    assert sdk == direct


def test_counters_that_were_cleared_count_from_zero_again() -> None:
    """As in the child of a fork, which keeps the emitter of a user's provider."""
    counters = EngineCounters()
    provider = SdkMeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    emitter = MetricEmitter(provider.get_meter("a"), provider.get_meter("b"), counters)
    record = call(inference())
    record.settle()
    for _ in range(2):
        counters.clear()
        emitter.emit(record, "fake", None)
        assert [value for _, value in counters.values(semconv.AI_OTEL_USAGE_INPUT_TOKENS.name)] == [7]
