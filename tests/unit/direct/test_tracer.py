from __future__ import annotations

import random
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags

from ai_otel.direct.sending import encode
from ai_otel.direct.tracer import DirectTracer, DirectTracerProvider


class Ended(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[Any] = []

    def on_end(self, span: Any) -> None:
        self.spans.append(span)


@pytest.fixture
def ended() -> Ended:
    return Ended()


@pytest.fixture
def tracer(ended: Ended) -> Any:
    provider = DirectTracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(ended)
    return provider.get_tracer("test")


def only(ended: Ended) -> Any:
    """The one span that ended, as it would arrive."""
    (each,) = ExportTraceServiceRequest.FromString(encode(ended.spans)).resource_spans
    return each.scope_spans[0].spans[0]


def test_the_current_span_is_the_parent_of_one_without_a_context(tracer: DirectTracer, ended: Ended) -> None:
    with tracer.start_as_current_span("outer") as outer:
        assert trace.get_current_span() is outer
        tracer.start_span("inner").end()
    assert [span.name for span in ended.spans] == ["inner", "outer"]
    assert ended.spans[0].context.trace_id == outer.get_span_context().trace_id


def test_a_current_span_that_is_left_by_an_exception_has_it(tracer: DirectTracer, ended: Ended) -> None:
    with pytest.raises(KeyError), tracer.start_as_current_span("chat"):
        raise KeyError("model")
    span = only(ended)
    assert (span.status.code, span.status.message) == (StatusCode.ERROR.value, "KeyError: 'model'")
    recorded = {pair.key: pair.value.string_value for pair in span.events[0].attributes}
    assert recorded.pop("exception.stacktrace").endswith("KeyError: 'model'\n")
    assert recorded["exception.type"] == "KeyError"


def test_a_span_that_has_ended_does_not_change(
    tracer: DirectTracer, ended: Ended, caplog: pytest.LogCaptureFixture
) -> None:
    span = tracer.start_span("chat", Context())
    span.end()
    before = ended.spans[0].encoded
    span.set_attribute("key", 1)
    span.add_event("event")
    span.add_link(SpanContext(1, 2, is_remote=True))
    span.set_status(Status(StatusCode.ERROR))
    span.update_name("other")
    span.end()
    assert not span.is_recording()
    assert (ended.spans[0].encoded, ended.spans[0].name, len(ended.spans)) == (before, "chat", 1)
    assert len(caplog.messages) == 6


def test_a_span_without_times_has_those_of_its_calls(tracer: DirectTracer, ended: Ended) -> None:
    span = tracer.start_span("chat", Context())
    span.add_event("event")
    span.end()
    found = only(ended)
    assert 0 < found.start_time_unix_nano <= found.events[0].time_unix_nano <= found.end_time_unix_nano


def test_children_of_several_contexts_keep_their_parents(tracer: DirectTracer, ended: Ended) -> None:
    """The tracer keeps the last context that it read."""
    parents = [tracer.start_span("chat", Context()) for _ in range(3)]
    contexts = [trace.set_span_in_context(parent, Context()) for parent in parents]
    order = random.Random(1).choices(range(3), k=30)
    children = [tracer.start_span("queue", contexts[index]) for index in order]
    found = [child.get_span_context().trace_id for child in children]
    assert found == [parents[index].get_span_context().trace_id for index in order]


def test_an_unsampled_parent_makes_no_span(tracer: DirectTracer, ended: Ended) -> None:
    remote = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(0))
    parent = trace.set_span_in_context(NonRecordingSpan(remote), Context())
    span = tracer.start_span("chat", parent, attributes={"key": 1})
    child = tracer.start_span("queue", trace.set_span_in_context(span, Context()))
    assert [each.is_recording() for each in (span, child)] == [False, False]
    assert {each.get_span_context().trace_id for each in (span, child)} == {1}
    child.end()
    span.end()
    assert ended.spans == []


def test_a_disabled_sdk_makes_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracer = DirectTracerProvider(shutdown_on_exit=False).get_tracer("test")
    assert not isinstance(tracer, DirectTracer)
    assert not tracer.start_span("chat").is_recording()


def test_a_span_that_cannot_be_encoded_costs_only_itself(tracer: DirectTracer, ended: Ended) -> None:
    """With the SDK it would cost its batch."""
    broken = tracer.start_span("\ud800", Context())
    with pytest.raises(UnicodeEncodeError):
        broken.end()
    tracer.start_span("chat", Context()).end()
    assert only(ended).name == "chat"
