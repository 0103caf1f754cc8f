"""
Spans that are written as OTLP when they end.

They have the ids, decisions, limits and flags that the SDK's tracer would give them, and wait in the queue of the SDK's
processor. `DirectTracerProvider` is the SDK's provider but for its tracers.
"""

from __future__ import annotations

import logging
import struct
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import time_ns
from typing import Any

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer as SdkTracer, TracerProvider as SdkTracerProvider, sampling
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from ai_otel.direct.encoding import MAX_VALUES, AttributeEncoder, BoundedParts, Frame, Kept, delimited, varint

log = logging.getLogger("ai_otel")

_SAMPLED = int(TraceFlags.SAMPLED)
_RANDOM = int(getattr(TraceFlags, "RANDOM_TRACE_ID", 0))

# The fields that every span has, tags and values in one go.
_IDS = struct.Struct(">2s16s2sQ").pack
_IDS_OF_CHILD = struct.Struct(">2s16s2sQ2sQ").pack
_TIMES = struct.Struct("<cQcQ").pack
_TIME_OF_EVENT = struct.Struct("<cQ").pack
# Whether the parent is remote: `SpanFlags` of trace.proto. Before it the status.
_LOCAL, _REMOTE = b"\x85\x01\x00\x01\x00\x00", b"\x85\x01\x00\x03\x00\x00"
_UNSET = b"\x7a\x00"
_UNSET_LOCAL, _UNSET_REMOTE = _UNSET + _LOCAL, _UNSET + _REMOTE
_HEADS = [b"\x12" + varint(size) for size in range(2048)]
"""Tag and length of a span in its `ScopeSpans`."""

_INTERNAL, _SERVER = SpanKind.INTERNAL, SpanKind.SERVER


class _Trace:
    """What the spans of this process in one trace have in common."""

    __slots__ = ("flags", "id", "id_bytes", "state", "state_bytes")

    def __init__(self, trace_id: int, flags: int, state: Any) -> None:
        self.id = trace_id
        self.id_bytes = trace_id.to_bytes(16, "big")
        self.flags = flags
        self.state = state
        text = ",".join(f"{key}={value}" for key, value in state.items()) if state else ""
        self.state_bytes = delimited(b"\x1a", text.encode()) if text else b""


class DirectSpan(trace.Span):
    """A span that is recorded. Ended, it is what the exporter gets: `name`, and `encoded`, a field of `ScopeSpans`."""

    # What few spans have. No slots: the API's class has none either.
    encoded: bytes | None = None
    _context: SpanContext | None = None
    _events: BoundedParts | None = None
    _links: BoundedParts | None = None
    _status: Status | None = None
    _plain = True

    def __init__(
        self,
        tracer: DirectTracer,
        name: str,
        trace_: _Trace,
        parent_id: int,
        remote: bool,
        kind: SpanKind,
        attributes: Mapping[str, Any] | None,
        start_ns: int | None,
    ) -> None:
        self.tracer = tracer
        self.name = name
        self.trace = trace_
        self.id = tracer.new_span_id()
        self._parent_id = parent_id
        self._remote = remote
        self._kind = kind
        self._start_ns = time_ns() if start_ns is None else start_ns
        # At once, as the SDK copies them at once.
        if attributes:
            self._given = attributes
            self._attributes, self._dropped = tracer.attributes.encode(attributes)
            if self._dropped:
                self._plain = False
        else:
            self._given, self._attributes, self._dropped = _NONE, b"", 0

    @property
    def context(self) -> SpanContext:
        """The span's context, as a property like that of the SDK's spans."""
        if self._context is None:
            own = self.trace
            self._context = SpanContext(own.id, self.id, is_remote=False, trace_flags=TraceFlags(own.flags), trace_state=own.state)
        return self._context

    @property
    def overhead(self) -> int:
        """Bytes that a request with this span has beside its spans."""
        return self.tracer.frame.size

    def get_span_context(self) -> SpanContext:
        """Return the span's context."""
        return self.context

    def is_recording(self) -> bool:
        """Whether the span has not ended."""
        return self.encoded is None

    def end(self, end_time: int | None = None) -> None:
        """End the span and queue it."""
        if self.encoded is not None:
            log.warning("ai-otel: end() of a span that has ended")
            return
        end_ns = time_ns() if end_time is None else end_time
        own, kind, tracer, attributes = self.trace, self._kind, self.tracer, self._attributes
        if self._parent_id:
            ids = _IDS_OF_CHILD(b"\x0a\x10", own.id_bytes, b"\x12\x08", self.id, b"\x22\x08", self._parent_id)
        else:
            ids = _IDS(b"\x0a\x10", own.id_bytes, b"\x12\x08", self.id)
        names = tracer.internal if kind is _INTERNAL else tracer.server if kind is _SERVER else names_of(kind)
        name, times = names[self.name], _TIMES(b"\x39", self._start_ns, b"\x41", end_ns)
        if self._plain:
            rest = _UNSET_REMOTE if self._remote else _UNSET_LOCAL
        else:
            rest = self._rest()
        size = len(ids) + len(own.state_bytes) + len(name) + len(times) + len(attributes) + len(rest)
        head = _HEADS[size] if size < 2048 else b"\x12" + varint(size)
        self.encoded = b"".join((head, ids, own.state_bytes, name, times, attributes, rest))
        if own.flags & _SAMPLED:
            tracer.queue(self)

    def _rest(self) -> bytes:
        """The fields from the dropped attributes on."""
        parts = [b"\x50" + varint(self._dropped)] if self._dropped else []
        if self._events is not None:
            parts.append(self._events.encoded(b"\x60"))
        if self._links is not None:
            parts.append(self._links.encoded(b"\x70"))
        parts.append(_UNSET if self._status is None else _encoded_status(self._status))
        parts.append(_REMOTE if self._remote else _LOCAL)
        return b"".join(parts)

    def _is_over(self, call: str) -> bool:
        if self.encoded is not None:
            log.warning("ai-otel: %s() on a span that has ended", call)
        self._plain = False
        return self.encoded is not None

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes. Slow: give them to `start_span`."""
        if self._is_over("set_attributes"):
            return
        if not isinstance(self._given, BoundedAttributes):
            self._given = self.tracer.attributes.bounded(self._given)
        bounded = self._given
        for key, value in attributes.items():
            bounded[key] = value
        self._attributes, self._dropped = self.tracer.attributes.encode_by_sdk(bounded)

    def set_attribute(self, key: str, value: Any) -> None:
        """Add an attribute."""
        self.set_attributes({key: value})

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        """Add an event."""
        if self._is_over("add_event"):
            return
        if self._events is None:
            self._events = BoundedParts(self.tracer.limits.max_events)
        self._events.append(self.tracer.encoded_event(name, attributes, timestamp))

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        """Add a link."""
        if self._is_over("add_link") or not (context and (context.is_valid or attributes or context.trace_state)):
            return
        if self._links is None:
            self._links = BoundedParts(self.tracer.limits.max_links)
        self._links.append(self.tracer.encoded_link(context, attributes))

    def update_name(self, name: str) -> None:
        """Rename the span."""
        if not self._is_over("update_name"):
            self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status; one that is OK stays."""
        if self._is_over("set_status"):
            return
        given = status if isinstance(status, Status) else Status(status, description)
        is_ok = self._status is not None and self._status.status_code is StatusCode.OK
        if not is_ok and given.status_code is not StatusCode.UNSET:
            self._status = given

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an exception as an event."""
        kind = type(exception)
        recorded = {
            "exception.type": kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}",
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**recorded, **(attributes or {})}, timestamp)


_NONE: Mapping[str, Any] = {}


def names_of(kind: SpanKind) -> Kept:
    """The fields `name` and `kind` of spans of a kind, by their name."""
    number = varint(kind.value + 1)
    return Kept(lambda name: delimited(b"\x2a", name.encode()) + b"\x30" + number, MAX_VALUES)


def _encoded_status(status: Status) -> bytes:
    description = status.description
    message = delimited(b"\x12", description.encode()) if description else b""
    return delimited(b"\x7a", message + b"\x18" + varint(status.status_code.value))


class DirectTracer(trace.Tracer):
    """Makes spans as the SDK's tracer `sdk` would, and puts those that end into `queue`."""

    def __init__(self, sdk: SdkTracer, queue: Callable[[Any], None]) -> None:
        self.sdk = sdk
        self.queue = queue
        self.limits: Any = sdk._span_limits  # noqa: SLF001 - no public name for it
        self.scope = sdk._instrumentation_scope  # noqa: SLF001
        self.new_span_id = sdk.id_generator.generate_span_id
        self._frame: Frame | None = None
        limits = self.limits
        self.attributes = AttributeEncoder(0x4A, limits.max_span_attributes, limits.max_span_attribute_length)
        self._of_events = AttributeEncoder(0x1A, limits.max_event_attributes, limits.max_attribute_length)
        self._of_links = AttributeEncoder(0x22, limits.max_link_attributes, limits.max_attribute_length)
        self.internal, self.server = names_of(_INTERNAL), names_of(_SERVER)
        self._sampler = sdk.sampler
        # What is known without asking: these sample whatever has no parent or a sampled one, and leave all as it is.
        self._samples = self._sampler is sampling.DEFAULT_ON or self._sampler is sampling.ALWAYS_ON
        # These decide for a child as for its parent, where the parent is a sampled span of this process.
        self._children_follow = self._samples or (
            self._sampler is sampling.DEFAULT_OFF
            or type(self._sampler) in (sampling.TraceIdRatioBased, sampling.ParentBasedTraceIdRatio)
        )
        is_random = getattr(sdk.id_generator, "is_trace_id_random", None) if _RANDOM else None
        self._is_random: Callable[[], bool] = is_random or (lambda: False)
        self._context: Context | None = None
        self._parent: DirectSpan

    @property
    def frame(self) -> Frame:
        """What requests have around the spans of this tracer."""
        resource = self.sdk.resource  # another in the child of a fork
        if self._frame is None or self._frame.of is not resource:
            self._frame = Frame(resource, self.scope)
        return self._frame

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        """Start a span. The last two arguments have no effect but with `start_as_current_span`."""
        if context is None or context is not self._context:
            parent = _parent_in(context)
            if not (self._children_follow and self._is_own(parent)):
                return self._start(name, context, parent, kind, attributes, links or (), start_time)
            # Read once for all its children; a context never changes.
            self._context, self._parent = context, parent
        own = self._parent
        span = DirectSpan(self, name, own.trace, own.id, False, kind, attributes, start_time)
        for link in filter(None, links or ()):
            span.add_link(link.context, link.attributes)
        return span

    def _is_own(self, parent: trace.Span | None) -> bool:
        return type(parent) is DirectSpan and parent.tracer is self and bool(parent.trace.flags & _SAMPLED)

    def _start(
        self,
        name: str,
        context: Context | None,
        local: trace.Span | None,
        kind: SpanKind,
        attributes: Mapping[str, Any] | None,
        links: Sequence[Link],
        start_time: int | None,
    ) -> trace.Span:
        """Start a span as the SDK does it: with a trace id if it has no parent, and a decision of the sampler."""
        parent = local.get_span_context() if local is not None else None
        if parent is None or not parent.is_valid:
            parent, trace_id = None, self.sdk.id_generator.generate_trace_id()
            flags = _RANDOM if self._is_random() else 0
        else:
            trace_id, flags = parent.trace_id, parent.trace_flags & _RANDOM
        if self._samples and (parent is None or parent.trace_flags & _SAMPLED):
            flags, state = flags | _SAMPLED, parent.trace_state if parent is not None else None
        else:
            result = self._sampler.should_sample(context, trace_id, name, kind, attributes, links)
            flags, state = flags | (_SAMPLED if result.decision.is_sampled() else 0), result.trace_state
            if not result.decision.is_recording():
                found = SpanContext(trace_id, self.new_span_id(), False, TraceFlags(flags), state)  # noqa: FBT003
                return NonRecordingSpan(found)
            attributes = result.attributes
        parent_id, remote = (parent.span_id, parent.is_remote) if parent is not None else (0, False)
        own = _Trace(trace_id, flags, state)
        span = DirectSpan(self, name, own, parent_id, remote, kind, attributes, start_time)
        for link in filter(None, links):
            span.add_link(link.context, link.attributes)
        return span

    @contextmanager
    def start_as_current_span(self, name: str, *arguments: Any, **options: Any) -> Iterator[trace.Span]:
        """Start a span and make it the current one. As it is no generator of the API's kind, it is no decorator."""
        handling = {key: options.pop(key, True) for key in ("record_exception", "set_status_on_exception")}
        end_on_exit = options.pop("end_on_exit", True)
        span = self.start_span(name, *arguments, **options)
        with trace.use_span(span, end_on_exit, **handling):
            yield span

    def encoded_event(self, name: str, attributes: Mapping[str, Any] | None, time: int | None) -> bytes:
        """An event as a field of a span."""
        encoded, dropped = self._of_events.encode(attributes)
        content = (
            _TIME_OF_EVENT(b"\x09", time_ns() if time is None else time),
            delimited(b"\x12", name.encode()),
            encoded,
            b"\x20" + varint(dropped) if dropped else b"",
        )
        return delimited(b"\x5a", b"".join(content))

    def encoded_link(self, context: SpanContext, attributes: Mapping[str, Any] | None) -> bytes:
        """A link as a field of a span."""
        encoded, dropped = self._of_links.encode(attributes)
        content = (
            _IDS(b"\x0a\x10", context.trace_id.to_bytes(16, "big"), b"\x12\x08", context.span_id),
            encoded,
            b"\x28" + varint(dropped) if dropped else b"",
            b"\x35\x00\x03\x00\x00" if context.is_remote else b"\x35\x00\x01\x00\x00",
        )
        return delimited(b"\x6a", b"".join(content))


def _parent_in(context: Context | None) -> trace.Span | None:
    return trace.get_current_span(context) if context is None or context else None


class DirectTracerProvider(SdkTracerProvider):
    """The SDK's provider, whose tracers write spans directly. It has one processor, which is there before them."""

    direct = True

    def get_tracer(self, *arguments: Any, **options: Any) -> trace.Tracer:
        """Return a tracer; one that the SDK disables is the SDK's."""
        made = super().get_tracer(*arguments, **options)
        if type(made) is not SdkTracer:
            return made
        processors = getattr(made.span_processor, "_span_processors", ())
        queue = getattr(processors[0], "on_end_encoded", None) if len(processors) == 1 else None
        return DirectTracer(made, queue or made.span_processor.on_end)
