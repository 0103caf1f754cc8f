"""Any spans, made by the SDK and written directly, are equal as OTLP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from ai_otel.direct.sending import encode
from ai_otel.direct.tracer import DirectTracerProvider


class CountingIds(RandomIdGenerator):
    """The same ids in every run, of which a sampler by ratio takes some."""

    def __init__(self) -> None:
        self._number = 0

    def _next(self, bits: int) -> int:
        self._number += 1
        return self._number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**bits or 1

    def generate_span_id(self) -> int:
        return self._next(64)

    def generate_trace_id(self) -> int:
        return self._next(128)


class Ended(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[Any] = []

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self.spans.append(span)


class Changing(Sampler):
    """Records all and samples one of two; adds an attribute and replaces the trace state."""

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *arguments: Any, **_: Any) -> SamplingResult:
        decision = Decision.RECORD_ONLY if trace_id % 2 else Decision.RECORD_AND_SAMPLE
        return SamplingResult(decision, {"sampler": name}, TraceState([("sampler", "1")]))

    def get_description(self) -> str:
        return "Changing"


SAMPLERS = {
    "always_on": ALWAYS_ON,
    "always_off": ALWAYS_OFF,
    "parentbased_always_on": DEFAULT_ON,
    "parentbased_always_off": DEFAULT_OFF,
    "traceidratio": TraceIdRatioBased(0.5),
    "parentbased_traceidratio": ParentBasedTraceIdRatio(0.5),
    "another": Changing(),
}
STATE = TraceState([("vendor", "1"), ("other", "a=b")])
REMOTE = {
    sampled: SpanContext(77, 88, is_remote=True, trace_flags=TraceFlags(sampled), trace_state=state)
    for sampled, state in ((0, STATE), (1, STATE), (2, None), (3, None))
}
FOREIGN = SpanContext(99, 11, is_remote=False, trace_flags=TraceFlags(1), trace_state=STATE)

text = st.text(max_size=12) | st.sampled_from(["chat", "x" * 200, "é" * 130, "\ud800"])
integer = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 127, 128, 16383, 16384, -1, 2**63, -(2**64)])
plain = text | integer | st.floats(width=64) | st.booleans()
value = (
    plain
    | st.none()
    | st.binary(max_size=3)
    | st.lists(text, max_size=3)
    | st.lists(plain, max_size=3).map(tuple)
    | st.just({"a": 1})
    | st.just(object)
)
key = st.sampled_from([f"key{number}" for number in range(6)]) | st.text(max_size=3)
attributes = st.none() | st.dictionaries(key, value, max_size=8)
name = st.sampled_from(["", "chat tiny", "é", "n" * 300]) | st.from_regex(r"[a-z]{0,5}", fullmatch=True)
time = st.integers(1, 2**63)
contexts = st.sampled_from([*REMOTE.values(), FOREIGN, trace.INVALID_SPAN_CONTEXT])


@dataclass
class Call:
    """One span: `parent` is the index of an earlier one, a context, or nothing."""

    name: str
    parent: Any
    kind: SpanKind
    attributes: Any
    links: list[tuple[SpanContext, Any]]
    events: list[tuple[str, Any, int]]
    status: list[tuple[StatusCode, str | None]]
    later: Any
    start: int
    end: int
    renamed: str | None = None
    added: list[tuple[SpanContext, Any]] = field(default_factory=list)


calls = st.builds(
    Call,
    name,
    st.none() | st.integers(0, 3) | contexts,
    st.sampled_from(SpanKind),
    attributes,
    st.lists(st.tuples(contexts, attributes), max_size=3),
    st.lists(st.tuples(name, attributes, time), max_size=3),
    st.lists(st.tuples(st.sampled_from(StatusCode), st.none() | st.sampled_from(["", "é" * 200])), max_size=2),
    st.none() | st.none() | attributes,
    time,
    time,
    st.none() | name,
    st.lists(st.tuples(contexts, attributes), max_size=1),
)
limit = st.none() | st.integers(0, 4)
limits = st.builds(
    dict,
    max_span_attributes=limit,
    max_event_attributes=limit,
    max_link_attributes=limit,
    max_events=limit,
    max_links=limit,
    max_attribute_length=limit,
    max_span_attribute_length=limit,
)


def made(kind: type[TracerProvider], sampler: Sampler, bounds: dict[str, int | None], calls: list[Call]) -> list[Any]:
    """What a provider makes of these spans."""
    ended = Ended()
    unset = {each: SpanLimits.UNSET if bound is None else bound for each, bound in bounds.items()}
    provider = kind(
        sampler,
        Resource({"service.name": "test", "list": ["a", "b"]}, "https://example.com/resource"),
        shutdown_on_exit=False,
        id_generator=CountingIds(),
        span_limits=SpanLimits(**unset) if bounds else None,
    )
    provider.add_span_processor(ended)
    tracers = [provider.get_tracer("one", "1", "https://example.com/scope"), provider.get_tracer("two")]
    spans: list[trace.Span] = []
    for index, call in enumerate(calls):
        spans.append(started(tracers[index % 5 == 4], call, spans))
    for span, call in zip(spans, calls, strict=True):
        finish(span, call)
    return ended.spans


def started(tracer: trace.Tracer, call: Call, spans: list[trace.Span]) -> trace.Span:
    parent = Context()
    if isinstance(call.parent, SpanContext):
        parent = trace.set_span_in_context(NonRecordingSpan(call.parent), parent)
    elif call.parent is not None and call.parent < len(spans):
        parent = trace.set_span_in_context(spans[call.parent], parent)
    links = [Link(*link) for link in call.links]
    return tracer.start_span(call.name, parent, call.kind, call.attributes, links, call.start)


def finish(span: trace.Span, call: Call) -> None:
    for event in call.events:
        span.add_event(*event)
    for status in call.status:
        span.set_status(*status) if status[1] is None else span.set_status(Status(*status))
    if call.later is not None:
        span.set_attributes(call.later)
        span.set_attribute("later", 1)
    if call.renamed is not None:
        span.update_name(call.renamed)
    for link in call.added:
        span.add_link(*link)
    span.end(call.end)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(each) for each in ("opentelemetry", "ai_otel")]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    yield
    for logger in loggers:
        logger.setLevel(logging.NOTSET)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(sampler=st.sampled_from(sorted(SAMPLERS)), bounds=st.just({}) | limits, calls=st.lists(calls, max_size=7))
def test_spans_are_equal_both_ways(sampler: str, bounds: dict[str, int | None], calls: list[Call]) -> None:
    by_sdk = made(TracerProvider, SAMPLERS[sampler], bounds, calls)
    directly = made(DirectTracerProvider, SAMPLERS[sampler], bounds, calls)
    assert [span.context for span in directly] == [span.context for span in by_sdk]
    assert ungrouped(directly) == ungrouped(by_sdk)


def ungrouped(spans: list[Any]) -> Any:
    """The request; spans of the same resource in one message, as the SDK groups them."""
    request = encode_spans(spans) if spans and isinstance(spans[0], ReadableSpan) else None
    found = request or ExportTraceServiceRequest.FromString(encode(spans))
    for further in list(found.resource_spans)[1:]:
        assert further.resource == found.resource_spans[0].resource
        found.resource_spans[0].scope_spans.extend(further.scope_spans)
    del found.resource_spans[1:]
    return found.SerializeToString(deterministic=True)
