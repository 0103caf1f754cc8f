"""Every instrument that requests record goes out the same by direct histograms as by the SDK's."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from ai_otel import semconv
from ai_otel.emit.metrics import MetricEmitter
from ai_otel.engine_counters import EngineCounters
from harness.telemetry.points_both_ways import CUMULATIVE, DELTA, Pair, metrics_of
from records import EVERY_KIND, call, inference

pytest.importorskip("ai_otel.direct.meters", exc_type=ImportError)  # an SDK that keeps its parts elsewhere


def contexts() -> Any:
    """A span for each record, every third one not sampled; now and then none, as where spans are switched off."""
    for number in itertools.count(1):
        flags = TraceFlags(TraceFlags.SAMPLED if number % 3 else TraceFlags.DEFAULT)
        span = NonRecordingSpan(SpanContext(number, number + 1, is_remote=False, trace_flags=flags))
        yield trace.set_span_in_context(span) if number % 5 else None


@pytest.mark.parametrize("temporality", [CUMULATIVE, DELTA])
def test_every_kind_of_record_has_the_same_points_either_way(temporality: AggregationTemporality) -> None:
    pair = Pair(temporality)
    context = contexts()
    names: set[str] = set()
    for _ in range(3):
        for make in EVERY_KIND.values():
            record, where = make(), next(context)
            record.settle()
            pair.emit(record, "fake", where)
        names |= {metric.name for metric in metrics_of(pair.compare())}
    recorded = {m.name for m in semconv.METRICS if m.instrument == "histogram" and m.subject != "hardware"}
    written = {name for name in recorded if name.startswith(("gen_ai.server.", "ai_otel.request."))}
    assert len(written) >= 10
    assert names >= written


def test_more_models_than_a_metric_may_have_share_one_name_either_way() -> None:
    pair = Pair(CUMULATIVE)
    for number in range(300):
        record = call(inference(model=f"model {number}"))
        record.settle()
        pair.emit(record, "fake", None)
    pair.compare()


def test_counters_that_were_cleared_count_from_zero_again() -> None:
    """As in the child of a fork, which keeps the emitter of a user's provider."""
    counters = EngineCounters()
    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    emitter = MetricEmitter(provider.get_meter("a"), provider.get_meter("b"), counters)
    record = call(inference())
    record.settle()
    for _ in range(2):
        counters.clear()
        emitter.emit(record, "fake", None)
        assert [value for _, value in counters.values(semconv.AI_OTEL_USAGE_INPUT_TOKENS.name)] == [7]
