"""Spans that are written as OTLP when they end. They wait in the queue of the SDK's processor like its own spans."""

from __future__ import annotations

import logging
import struct
import traceback
from collections.abc import Mapping
from time import time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from ai_otel.direct.encoding import MAX_VALUES, BoundedParts, Kept, delimited, varint

if TYPE_CHECKING:
    from ai_otel.direct.tracer import DirectTracer

log = logging.getLogger("ai_otel")

SAMPLED = int(TraceFlags.SAMPLED)

# The fields that every span has, tags and values in one go.
IDS = struct.Struct(">2s16s2sQ").pack
_IDS_OF_CHILD = struct.Struct(">2s16s2sQ2sQ").pack
_TIMES = struct.Struct("<cQcQ").pack
# Whether the parent is remote: `SpanFlags` of trace.proto. Before it the status.
_LOCAL, _REMOTE = b"\x85\x01\x00\x01\x00\x00", b"\x85\x01\x00\x03\x00\x00"
_UNSET = b"\x7a\x00"
_UNSET_LOCAL, _UNSET_REMOTE = _UNSET + _LOCAL, _UNSET + _REMOTE
_HEADS = [b"\x12" + varint(size) for size in range(2048)]
"""Tag and length of a span in its `ScopeSpans`."""

INTERNAL, SERVER = SpanKind.INTERNAL, SpanKind.SERVER


class Trace:
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
        trace_: Trace,
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
            self._context = SpanContext(
                own.id, self.id, is_remote=False, trace_flags=TraceFlags(own.flags), trace_state=own.state
            )
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
            ids = IDS(b"\x0a\x10", own.id_bytes, b"\x12\x08", self.id)
        names = tracer.internal if kind is INTERNAL else tracer.server if kind is SERVER else names_of(kind)
        name, times = names[self.name], _TIMES(b"\x39", self._start_ns, b"\x41", end_ns)
        rest = (_UNSET_REMOTE if self._remote else _UNSET_LOCAL) if self._plain else self._rest()
        size = len(ids) + len(own.state_bytes) + len(name) + len(times) + len(attributes) + len(rest)
        head = _HEADS[size] if size < 2048 else b"\x12" + varint(size)
        self.encoded = b"".join((head, ids, own.state_bytes, name, times, attributes, rest))
        if own.flags & SAMPLED:
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
        if self._is_over("add_link") or not (context.is_valid or attributes or context.trace_state):
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
            "exception.type": kind.__qualname__
            if kind.__module__ == "builtins"
            else f"{kind.__module__}.{kind.__qualname__}",
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
