"""
Requests of encoded spans, sent by the SDK's own exporters.

The SDK's OTLP exporters, over HTTP and gRPC and in all versions from 1.31 on, have one method that calls the function
`encode_spans` of their module. `directly` makes a class in which that method calls `encode` below, and nothing else
differs: endpoint, headers, TLS, compression, retries, timeouts and shutdown are the SDK's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import FunctionType
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import DEFAULT_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from ai_otel.direct.encoding import varint
from ai_otel.direct.spans import DirectSpan
from ai_otel.direct.tracer import DirectTracer, DirectTracerProvider

_ENCODER = encode_spans.__name__
_EXPORTERS = {
    "opentelemetry.exporter.otlp.proto.http.trace_exporter": False,
    "opentelemetry.exporter.otlp.proto.grpc.trace_exporter": True,
}
"""Modules of the SDK's exporters, and whether they send a message where the other sends bytes."""


class _Encoded:
    """A request that is encoded already, for an exporter that encodes a message."""

    __slots__ = ("_request",)

    def __init__(self, request: bytes) -> None:
        self._request = request

    def SerializePartialToString(self) -> bytes:  # noqa: N802 - of protobuf's messages
        return self._request

    SerializeToString = SerializePartialToString


def encode(spans: Sequence[DirectSpan]) -> bytes:
    """The request with these spans: an `ExportTraceServiceRequest`."""
    groups: dict[DirectTracer, list[bytes]] = {}
    for span in spans:
        groups.setdefault(span.tracer, []).append(span.encoded or b"")
    parts: list[bytes] = []
    for tracer, encoded in groups.items():
        frame = tracer.frame
        size = len(frame.scope) + sum(map(len, encoded)) + len(frame.scope_end)
        within = b"\x12" + varint(size)
        size += len(frame.resource) + len(within) + len(frame.resource_end)
        parts += (b"\x0a" + varint(size), frame.resource, within, frame.scope)
        parts += encoded
        parts += (frame.scope_end, frame.resource_end)
    return b"".join(parts)  # once: a request is up to a megabyte


def _encoded(spans: Sequence[DirectSpan]) -> _Encoded:
    return _Encoded(encode(spans))


def _message(spans: Sequence[DirectSpan]) -> Any:
    return ExportTraceServiceRequest.FromString(encode(spans))


def directly(exporter: type[Any]) -> type[Any] | None:
    """A class that sends encoded spans as this exporter sends the SDK's; `None` where that is not known to work."""
    sends_message = _EXPORTERS.get(exporter.__module__)
    calling = {
        name: method
        for name, method in vars(exporter).items()
        if isinstance(method, FunctionType) and _ENCODER in method.__code__.co_names
        # Another program may have put its own there.
        if method.__globals__.get(_ENCODER) is encode_spans
    }
    if sends_message is None or len(calling) != 1 or not agrees():
        return None
    ((name, method),) = calling.items()
    names = {**method.__globals__, _ENCODER: _message if sends_message else _encoded}
    changed = FunctionType(method.__code__, names, name, method.__defaults__, method.__closure__)
    changed.__kwdefaults__ = method.__kwdefaults__
    return type(exporter.__name__, (exporter,), {name: changed, "direct": True, "__module__": exporter.__module__})


# Whether this version of the SDK encodes spans as we do.


class _Ids(RandomIdGenerator):
    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def generate_span_id(self) -> int:
        return next(self._numbers)

    def generate_trace_id(self) -> int:
        return next(self._numbers)


class _Ended(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[Any] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def agrees() -> bool:
    """Whether spans of every kind are, written directly, what the SDK makes of them."""
    try:
        made = [_sample(kind) for kind in (TracerProvider, DirectTracerProvider)]
        return bool(_message(made[1]) == encode_spans(made[0]))
    except (AttributeError, ImportError, LookupError, TypeError, ValueError):
        return False


def _sample(kind: type[TracerProvider]) -> list[Any]:
    ended = _Ended()
    resource = Resource({"service.name": "sample"}, "https://example.com/resource")
    # All given: what is not is read from the variables.
    limits = SpanLimits(
        max_attributes=128,
        max_events=128,
        max_links=128,
        max_span_attributes=128,
        max_event_attributes=128,
        max_link_attributes=128,
        max_attribute_length=SpanLimits.UNSET,
        max_span_attribute_length=SpanLimits.UNSET,
    )
    provider = kind(DEFAULT_ON, resource, shutdown_on_exit=False, id_generator=_Ids(), span_limits=limits)
    provider.add_span_processor(ended)
    tracer = provider.get_tracer("sample", "1", "https://example.com/scope")
    state = TraceState([("a", "1"), ("b", "2")])
    remote = SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED), trace_state=state)
    attributes: dict[str, Any] = {
        "text": "é",
        "int": -1,
        "float": 0.5,
        "bool": True,
        "texts": ("a", "b"),
        "ints": (1, 2),
    }
    link = Link(remote, attributes)
    parent = set_span_in_context(NonRecordingSpan(remote), Context())
    span = tracer.start_span("remote", parent, SpanKind.SERVER, attributes, [link], 1)
    child = tracer.start_span("child", set_span_in_context(span, Context()), start_time=2)
    child.end(3)
    span.add_event("event", attributes, 2)
    span.set_status(Status(StatusCode.ERROR, "failed"))
    span.end(4)
    tracer.start_span("root", Context(), SpanKind.CLIENT, start_time=5).end(6)
    return ended.spans
