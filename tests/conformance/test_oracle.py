"""The oracle passes what is right, and finds every kind of wrong: from the SDK's objects and from OTLP alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.metrics import Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from oracle import check_metrics, check_resource, check_spans

from ai_otel import semconv

GOOD = {
    semconv.GEN_AI_OPERATION_NAME: "chat",
    semconv.GEN_AI_PROVIDER_NAME: "vllm",
    semconv.GEN_AI_REQUEST_MODEL: "tiny",
    semconv.AI_OTEL_OUTCOME: "finished",
    semconv.GEN_AI_USAGE_INPUT_TOKENS: 12,
    semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: 8,
    semconv.GEN_AI_RESPONSE_FINISH_REASONS: ("stop",),
    semconv.AI_OTEL_TIME_TO_FIRST_TOKEN: 0.2,
}
FAILED = {semconv.AI_OTEL_OUTCOME: "failed", semconv.ERROR_TYPE: "500"}


def span_tree(
    attributes: Mapping[str, Any] = GOOD,
    *,
    name: str = "chat tiny",
    kind: SpanKind = SpanKind.SERVER,
    parent: str = "absent",
    error: bool = False,
    child: str = "prefill",
    child_kind: SpanKind = SpanKind.INTERNAL,
    child_attributes: Mapping[str, Any] | None = None,
    scope: str = semconv.SCOPE_GEN_AI,
    schema_url: str | None = None,
) -> list[ReadableSpan]:
    """A request span with one child, as the SDK finishes them."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer(scope, schema_url=schema_url)
    context = None
    if parent != "absent":
        identity = SpanContext(1, 2, is_remote=parent == "remote", trace_flags=TraceFlags(TraceFlags.SAMPLED))
        context = set_span_in_context(NonRecordingSpan(identity))
    span = tracer.start_span(name, context, kind, dict(attributes))
    tracer.start_span(child, set_span_in_context(span), child_kind, dict(child_attributes or {})).end()
    if error:
        span.set_status(StatusCode.ERROR)
    span.end()
    return list(exporter.get_finished_spans())


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key not in keys}


# ---------------------------------------------------------------- spans


@pytest.mark.parametrize(
    "right",
    [
        {},
        {"parent": "remote"},
        {"parent": "local", "kind": SpanKind.INTERNAL},
        {"attributes": {**GOOD, **FAILED}, "error": True},
        {"attributes": {**GOOD, **FAILED, semconv.AI_OTEL_OUTCOME: "cancelled"}},
        {
            "attributes": {
                **GOOD,
                semconv.AI_OTEL_OUTCOME: "rejected",
                semconv.ERROR_TYPE: "404",
                semconv.HTTP_RESPONSE_STATUS_CODE: 404,
            }
        },
        {"attributes": without(semconv.GEN_AI_REQUEST_MODEL), "name": "chat"},
        {"child": "chat tiny", "child_attributes": GOOD},
        {"scope": "another.library", "attributes": {"gen_ai.system": "theirs"}, "name": "anything"},
    ],
)
def test_right_spans_pass(right: dict[str, Any]) -> None:
    spans = span_tree(**right)
    assert check_spans(spans) == []
    assert check_spans(encode_spans(spans)) == []


WRONG_SPANS: list[tuple[dict[str, Any], str]] = [
    ({"name": "tiny"}, "its name should be 'chat tiny'"),
    ({"name": "chat"}, "its name should be 'chat tiny'"),
    ({"kind": SpanKind.CLIENT}, "its kind is client, not server, because its parent is remote or absent"),
    ({"kind": SpanKind.INTERNAL}, "its kind is internal, not server, because its parent is remote or absent"),
    ({"kind": SpanKind.INTERNAL, "parent": "remote"}, "because its parent is remote or absent"),
    ({"parent": "local"}, "its kind is server, not internal, because its parent is local"),
    ({"child_kind": SpanKind.SERVER}, "its kind is server, not internal"),
    ({"child": "chat tiny", "child_attributes": GOOD, "child_kind": SpanKind.SERVER}, "its kind is server"),
    ({"child": "sleep"}, "not a request, an inference or a phase"),
    ({"child_attributes": {semconv.HTTP_ROUTE: "/v1"}}, "http.route does not belong here"),
    ({"attributes": without(semconv.GEN_AI_PROVIDER_NAME)}, "the required gen_ai.provider.name is absent"),
    ({"attributes": without(semconv.AI_OTEL_OUTCOME)}, "the required ai_otel.outcome is absent"),
    ({"attributes": {**GOOD, "ai_otel.mood": "fine"}}, "ai_otel.mood does not belong here"),
    ({"attributes": {**GOOD, "gen_ai.input.messages": "hello"}}, "gen_ai.input.messages does not belong here"),
    ({"attributes": {**GOOD, "gen_ai.system": "vllm"}}, "the conventions deprecated gen_ai.system"),
    ({"attributes": {**GOOD, "gen_ai.usage.prompt_tokens": 1}}, "deprecated gen_ai.usage.prompt_tokens"),
    ({"attributes": {**GOOD, semconv.AI_OTEL_OUTCOME: "ok"}}, "ai_otel.outcome: 'ok' is not a legal value"),
    ({"attributes": {**GOOD, semconv.GEN_AI_PROVIDER_NAME: "VLLM"}}, "'VLLM' is not a legal value"),
    ({"attributes": {**GOOD, semconv.GEN_AI_RESPONSE_FINISH_REASONS: ("abort",)}}, "'abort' is not a legal value"),
    ({"attributes": {**GOOD, semconv.GEN_AI_USAGE_INPUT_TOKENS: "12"}}, "'12', which is no int"),
    ({"attributes": {**GOOD, semconv.AI_OTEL_REQUEST_PRIORITY: True}}, "True, which is no int"),
    ({"attributes": {**GOOD, semconv.AI_OTEL_TIME_TO_FIRST_TOKEN: 1}}, "1, which is no double"),
    ({"attributes": {**GOOD, semconv.GEN_AI_RESPONSE_FINISH_REASONS: "stop"}}, "which is no string[]"),
    ({"attributes": {**GOOD, **FAILED}}, "it is failed, so it needs the status Error"),
    ({"attributes": {**GOOD, semconv.AI_OTEL_OUTCOME: "failed"}, "error": True}, "so it needs error.type"),
    ({"attributes": {**GOOD, semconv.ERROR_TYPE: "500"}}, "it is finished, and still has error.type"),
    ({"error": True}, "it has the status Error, but no error.type"),
    ({"attributes": {**GOOD, **FAILED, semconv.ERROR_TYPE: "no luck today"}, "error": True}, "'no luck today'"),
    ({"attributes": {**GOOD, semconv.SERVER_PORT: 8000}}, "server.port without server.address"),
    ({"attributes": {**GOOD, semconv.GEN_AI_REQUEST_STREAM: False}}, "gen_ai.request.stream is true or absent"),
    ({"attributes": {**GOOD, semconv.GEN_AI_REQUEST_CHOICE_COUNT: 1}}, "choice.count is absent where it is 1"),
    ({"attributes": {**GOOD, semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: 0.1}}, "first_chunk is for streams"),
    ({"attributes": {**GOOD, semconv.GEN_AI_USAGE_INPUT_TOKENS: 7}}, "is more than gen_ai.usage.input_tokens"),
    ({"scope": "ai_otel.other"}, "its scope is ai_otel.other"),
    ({"schema_url": "https://opentelemetry.io/schemas/0.0.1"}, "its scope's schema URL is"),
]


@pytest.mark.parametrize(("wrong", "sentence"), WRONG_SPANS, ids=[sentence for _, sentence in WRONG_SPANS])
def test_a_wrong_span_is_found(wrong: dict[str, Any], sentence: str) -> None:
    spans = span_tree(**wrong)
    for found in (check_spans(spans), check_spans(encode_spans(spans)), check_spans([encode_spans(spans)])):
        assert any(sentence in each for each in found), found


# ---------------------------------------------------------------- metrics

REQUEST = {semconv.GEN_AI_OPERATION_NAME: "chat", semconv.GEN_AI_PROVIDER_NAME: "vllm"}
PROVIDER = {semconv.GEN_AI_PROVIDER_NAME: "vllm"}


def collected(record: Callable[[Meter], None], scope: str = semconv.SCOPE, schema_url: str | None = None) -> Any:
    reader = InMemoryMetricReader()
    record(MeterProvider([reader]).get_meter(scope, "1", schema_url))
    return reader.get_metrics_data()


def duration(
    *, name: str = "gen_ai.server.request.duration", unit: str = "s", value: float = 0.5, **changed: Any
) -> Callable[[Meter], None]:
    buckets = changed.get("buckets", semconv.BUCKETS_DURATION)

    def record(meter: Meter) -> None:
        histogram = meter.create_histogram(name, unit, explicit_bucket_boundaries_advisory=buckets)
        histogram.record(value, changed.get("attributes", REQUEST))

    return record


def counter(name: str, unit: str, value: float, attributes: Mapping[str, Any]) -> Callable[[Meter], None]:
    return lambda meter: meter.create_counter(name, unit).add(value, attributes)


def state(name: str, unit: str, value: float, attributes: Mapping[str, Any]) -> Callable[[Meter], None]:
    def record(meter: Meter) -> None:
        meter.create_observable_up_down_counter(name, [lambda _: [Observation(value, attributes)]], unit)

    return record


def gauge(name: str, unit: str, value: float, attributes: Mapping[str, Any]) -> Callable[[Meter], None]:
    def record(meter: Meter) -> None:
        meter.create_observable_gauge(name, [lambda _: [Observation(value, attributes)]], unit)

    return record


@pytest.mark.parametrize(
    ("record", "scope", "schema_url"),
    [
        (duration(), semconv.SCOPE_GEN_AI, None),
        (duration(attributes={**REQUEST, semconv.AI_OTEL_ENGINE_INDEX: 1}), semconv.SCOPE_GEN_AI, None),
        (counter("ai_otel.usage.output_tokens", "{token}", 3, PROVIDER), semconv.SCOPE, None),
        (state("ai_otel.request.running", "{request}", 3, PROVIDER), semconv.SCOPE, None),
        (gauge("ai_otel.kv_cache.utilization", "1", 0.25, PROVIDER), semconv.SCOPE, None),
        (gauge("hw.gpu.utilization", "1", 0.25, {"hw.id": "GPU-1"}), semconv.SCOPE_HW, semconv.SCHEMA_URL_CORE),
        (counter("anything", "ms", 1, {}), "another.library", None),
    ],
)
def test_right_metrics_pass(record: Callable[[Meter], None], scope: str, schema_url: str | None) -> None:
    collection = collected(record, scope, schema_url)
    assert check_metrics(collection) == []
    assert check_metrics(encode_metrics(collection)) == []


WRONG_METRICS: list[tuple[Callable[[Meter], None], str, str]] = [
    (duration(unit="ms"), semconv.SCOPE_GEN_AI, "its unit is 'ms', not 's'"),
    (duration(buckets=(1, 2)), semconv.SCOPE_GEN_AI, "its buckets are [1.0, 2.0], not [0.01"),
    (duration(attributes=PROVIDER), semconv.SCOPE_GEN_AI, "the required gen_ai.operation.name is absent"),
    (duration(attributes={**REQUEST, "user": "x"}), semconv.SCOPE_GEN_AI, "user does not belong here"),
    (duration(attributes={**REQUEST, semconv.SERVER_PORT: 1}), semconv.SCOPE_GEN_AI, "port without server.address"),
    (duration(attributes={**REQUEST, "gen_ai.system": "x"}), semconv.SCOPE_GEN_AI, "deprecated gen_ai.system"),
    (duration(), semconv.SCOPE, "its scope is ai_otel, not ai_otel.gen_ai"),
    (duration(name="gen_ai.client.inference.duration"), semconv.SCOPE_GEN_AI, "must not emit the caller's"),
    (duration(name="gen_ai.client.token.usage"), semconv.SCOPE_GEN_AI, "the conventions deprecated this name"),
    (duration(name="ai_otel.request.duration"), semconv.SCOPE, "the contract has no such metric"),
    (
        gauge("gen_ai.server.request.duration", "s", 0.5, REQUEST),
        semconv.SCOPE_GEN_AI,
        "its instrument is gauge, not histogram",
    ),
    (
        duration(
            name="gen_ai.server.time_to_first_token",
            buckets=semconv.BUCKETS_FIRST_TOKEN,
            attributes={**REQUEST, semconv.ERROR_TYPE: "500"},
        ),
        semconv.SCOPE_GEN_AI,
        "error.type does not belong here",
    ),
    (
        counter("ai_otel.request.running", "{request}", 1, PROVIDER),
        semconv.SCOPE,
        "its instrument is counter, not updowncounter",
    ),
    (
        state("ai_otel.usage.output_tokens", "{token}", 1, PROVIDER),
        semconv.SCOPE,
        "its instrument is updowncounter, not counter",
    ),
    (counter("ai_otel.usage.output_tokens", "{token}", 1.0, PROVIDER), semconv.SCOPE, "its value is double, not int"),
    (gauge("ai_otel.kv_cache.utilization", "1", 1, PROVIDER), semconv.SCOPE, "its value is int, not double"),
    (gauge("ai_otel.kv_cache.utilization", "1", 25.0, PROVIDER), semconv.SCOPE, "25.0, not between 0 and 1"),
    (
        state("ai_otel.request.waiting", "{request}", 1, {**PROVIDER, semconv.AI_OTEL_WAIT_REASON: "bored"}),
        semconv.SCOPE,
        "'bored' is not a legal value",
    ),
    (
        state("ai_otel.request.running", "{request}", 1, {**PROVIDER, semconv.AI_OTEL_ENGINE_INDEX: "0"}),
        semconv.SCOPE,
        "'0', which is no int",
    ),
    (gauge("hw.gpu.utilization", "1", 0.25, {"hw.id": "GPU-1"}), semconv.SCOPE_HW, "its scope's schema URL is ''"),
]


@pytest.mark.parametrize(
    ("record", "scope", "sentence"), WRONG_METRICS, ids=[sentence for _, _, sentence in WRONG_METRICS]
)
def test_a_wrong_metric_is_found(record: Callable[[Meter], None], scope: str, sentence: str) -> None:
    collection = collected(record, scope)
    for found in (check_metrics(collection), check_metrics(encode_metrics(collection)), check_metrics([collection])):
        assert any(sentence in each for each in found), found


def test_a_histogram_of_whole_numbers_is_found_before_it_is_encoded() -> None:
    """OTLP has only a double for the sum, so the wire cannot show this one."""
    found = check_metrics(collected(duration(value=1), semconv.SCOPE_GEN_AI))
    assert found == ["metric gen_ai.server.request.duration: its value is int, not double."]


def test_nothing_collected_is_nothing_wrong() -> None:
    assert check_metrics(None) == []
    assert check_spans([]) == []


# ---------------------------------------------------------------- resource


def test_a_resource_needs_its_identity_and_may_hold_what_the_user_likes() -> None:
    right = {
        "service.name": "a",
        "service.instance.id": "b",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": "1",
        "team": "search",
    }
    assert check_resource(right) == []
    assert check_resource({**right, "service.name": 1}) == ["resource: service.name is 1, which is no string."]
    del right["service.instance.id"]
    assert check_resource(right) == ["resource: the required service.instance.id is absent."]
