from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags

from ai_otel.propagation import FOREIGN_PARENT, Parent, capture, extract, http_span_of, parent_of
from ai_otel.record import Exchange, RequestRecord
from ai_otel.settings import Settings

CALLER, OTHER = 0xA1, 0xB2
HEADERS = {"traceparent": f"00-{CALLER:032x}-{7:016x}-01", "tracestate": "vendor=1"}


def span(trace_id: int, span_id: int, *, remote: bool = False, sampled: bool = True) -> Span:
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=remote, trace_flags=flags))


def context_with(current: Span) -> Context:
    return trace.set_span_in_context(current, Context())


def record(
    *,
    headers: Mapping[str, str] | None = None,
    local: Span | None = None,
    inner: Span | None = None,
    edge: bool = False,
) -> RequestRecord:
    made = RequestRecord(headers=headers, context=context_with(local) if local is not None else Context())
    if edge or inner is not None:
        made.exchange = Exchange("POST", inner_context=context_with(inner) if inner is not None else made.context)
    return made


def summary(parent: Parent) -> tuple[int, int, SpanKind, list[int]]:
    """Trace and span id of the parent, our kind, and the spans that are linked."""
    found = trace.get_current_span(parent.context).get_span_context()
    return found.trace_id, found.span_id, parent.kind, [link.context.span_id for link in parent.links]


ROOT = (0, 0, SpanKind.SERVER, [])
REMOTE = (CALLER, 7, SpanKind.SERVER, [])


def test_a_request_without_a_caller_is_a_root() -> None:
    assert summary(parent_of(record(), same_provider=True)) == ROOT
    assert summary(parent_of(RequestRecord(), same_provider=False)) == ROOT


@pytest.mark.parametrize("same", [False, True])
def test_a_remote_caller_is_the_parent(same: bool) -> None:
    parent = parent_of(record(headers=HEADERS), same_provider=same)
    assert summary(parent) == REMOTE
    found = trace.get_current_span(parent.context).get_span_context()
    assert found.is_remote
    assert found.trace_state.get("vendor") == "1"


@pytest.mark.parametrize(
    "headers", [{}, {"traceparent": "rubbish"}, {"traceparent": f"00-{0:032x}-{7:016x}-01"}, {"content-type": "x"}]
)
def test_headers_that_say_nothing_make_a_root(headers: dict[str, str]) -> None:
    assert summary(parent_of(record(headers=headers), same_provider=False)) == ROOT
    assert extract(None) == Context()


def test_a_local_span_of_the_same_provider_is_the_parent() -> None:
    made = record(headers=HEADERS, local=span(OTHER, 9))
    assert summary(parent_of(made, same_provider=True)) == (OTHER, 9, SpanKind.INTERNAL, [])


@pytest.mark.parametrize(
    ("foreign", "expected"),
    [
        ("link", (0, 0, SpanKind.SERVER, [9])),
        ("parent", (OTHER, 9, SpanKind.INTERNAL, [])),
        ("ignore", ROOT),
    ],
)
def test_a_foreign_local_span_is_what_the_user_chose(foreign: str, expected: Any) -> None:
    made = record(local=span(OTHER, 9))
    assert summary(parent_of(made, same_provider=False, foreign=foreign)) == expected


def test_by_default_a_foreign_local_span_is_linked() -> None:
    assert summary(parent_of(record(local=span(OTHER, 9)), same_provider=False))[3] == [9]


def test_a_remote_caller_comes_before_a_foreign_local_span() -> None:
    made = record(headers=HEADERS, local=span(OTHER, 9))
    assert summary(parent_of(made, same_provider=False)) == (CALLER, 7, SpanKind.SERVER, [9])
    assert summary(parent_of(made, same_provider=False, foreign="ignore")) == REMOTE


def test_a_link_into_the_callers_own_trace_is_left_out() -> None:
    """It says nothing that the parent does not."""
    made = record(headers=HEADERS, local=span(CALLER, 9))
    assert summary(parent_of(made, same_provider=False)) == REMOTE


def test_an_unsampled_foreign_span_does_not_silence_us() -> None:
    parent = parent_of(record(local=span(OTHER, 9, sampled=False)), same_provider=False)
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("ai_otel")
    assert tracer.start_span("chat", parent.context).is_recording()


def test_a_span_that_is_remote_or_void_is_no_local_span() -> None:
    for current in (span(OTHER, 9, remote=True), trace.INVALID_SPAN):
        assert summary(parent_of(record(local=current), same_provider=True)) == ROOT


# ---------------------------------------------------------------- an HTTP span inside the HTTP middleware


def test_the_http_span_of_this_very_request_is_the_parent() -> None:
    made = record(headers=HEADERS, inner=span(CALLER, 11))
    assert summary(parent_of(made, same_provider=True)) == (CALLER, 11, SpanKind.INTERNAL, [])


def test_the_span_that_was_current_before_is_no_http_span() -> None:
    outer = span(OTHER, 9)
    assert http_span_of(record(local=outer, edge=True)) is None
    assert http_span_of(record(local=outer, inner=outer)) is None
    assert http_span_of(record(local=outer)) is None


@pytest.mark.parametrize(
    ("kind", "attributes", "found"),
    [
        (SpanKind.SERVER, {"http.request.method": "POST"}, True),
        (SpanKind.SERVER, {}, False),
        (SpanKind.INTERNAL, {"http.request.method": "POST"}, False),
    ],
)
def test_an_http_span_around_the_middleware_is_found(kind: SpanKind, attributes: dict[str, str], found: bool) -> None:
    """FastAPI's own telemetry opens it there."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("fastapi")
    around = tracer.start_span("POST", kind=kind, attributes=attributes)
    assert http_span_of(record(local=around, inner=around)) is (around if found else None)


def test_an_http_span_inside_the_middleware_is_found() -> None:
    outer, inner = span(OTHER, 9), span(OTHER, 11)
    assert http_span_of(record(local=outer, inner=inner)) is inner


def test_a_foreign_http_span_is_linked() -> None:
    made = record(headers=HEADERS, inner=span(OTHER, 11))
    assert summary(parent_of(made, same_provider=False)) == (CALLER, 7, SpanKind.SERVER, [11])


# ---------------------------------------------------------------- odds and ends


def test_the_context_that_is_captured_is_the_current_one() -> None:
    token = attach(context_with(span(OTHER, 9)))
    try:
        assert trace.get_current_span(capture()).get_span_context().span_id == 9
    finally:
        detach(token)


def test_the_choices_are_those_of_the_setting() -> None:
    for choice in FOREIGN_PARENT:
        assert Settings.from_environment({"AI_OTEL_FOREIGN_PARENT": choice}).foreign_parent == choice


@pytest.mark.fault(
    "requests",
    "each request of a client has 60 kB of `baggage`",
    "the trace context is read; the server's log does not have the header",
)
def test_baggage_beyond_the_limit_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    context = extract({**HEADERS, "baggage": "a=%ff" * 12_000})
    assert trace.get_current_span(context).get_span_context().trace_id == CALLER
    assert sum(map(len, caplog.messages)) < 1000
