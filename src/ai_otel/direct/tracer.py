"""
A tracer whose spans are written directly, and a provider of such tracers.

Its spans have the ids, decisions, limits and flags that the SDK's tracer would give them: it asks the same id generator
and the same sampler, except where the answer is known.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import time_ns
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer as SdkTracer, TracerProvider as SdkTracerProvider, sampling
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from ai_otel.direct.encoding import AttributeEncoder, Frame, delimited, varint
from ai_otel.direct.spans import IDS, INTERNAL, SAMPLED, SERVER, DirectSpan, Trace, names_of

_RANDOM = int(getattr(TraceFlags, "RANDOM_TRACE_ID", 0))
_TIME = struct.Struct("<cQ").pack


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
        self.internal, self.server = names_of(INTERNAL), names_of(SERVER)
        self._sampler: Any = sdk.sampler
        # What is known without asking: these sample each span without a parent or with a sampled one, unchanged.
        self._samples = self._sampler is sampling.DEFAULT_ON or self._sampler is sampling.ALWAYS_ON
        # These decide for a child as for its parent, where the parent is a sampled span of this process.
        self._children_follow = self._samples or (
            self._sampler is sampling.DEFAULT_OFF
            or type(self._sampler) in (sampling.TraceIdRatioBased, sampling.ParentBasedTraceIdRatio)
        )
        is_random = getattr(sdk.id_generator, "is_trace_id_random", None) if _RANDOM else None
        self._is_random: Callable[[], bool] = is_random or (lambda: False)
        self._latest: tuple[Context | None, Any] = (None, None)
        """The last context that had a span of this tracer, and that span."""

    def limit_client_values(self, limited: Callable[[Any], Any]) -> None:
        """Apply these limits to the attributes of spans and of events: the caller need not."""
        self.attributes.limit(limited)
        self._of_events.limit(limited)

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
        record_exception: bool = True,  # noqa: ARG002 - the API's
        set_status_on_exception: bool = True,  # noqa: ARG002
    ) -> trace.Span:
        """Start a span. The last two arguments have no effect but with `start_as_current_span`."""
        seen, own = self._latest
        if context is None or context is not seen:
            parent = _parent_in(context)
            if not self._children_follow or type(parent) is not DirectSpan or not self._is_own(parent):
                return self._start(name, context, parent, kind, attributes, links or (), start_time)
            # Read once for all its children; a context never changes.
            self._latest, own = (context, parent), parent
        span = DirectSpan(self, name, own.trace, own.id, False, kind, attributes, start_time)
        for link in filter(None, links or ()):
            span.add_link(link.context, link.attributes)
        return span

    def _is_own(self, parent: DirectSpan) -> bool:
        return parent.tracer is self and bool(parent.trace.flags & SAMPLED)

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
        if self._samples and (parent is None or parent.trace_flags & SAMPLED):
            flags, state = flags | SAMPLED, parent.trace_state if parent is not None else None
        else:
            result = self._sampler.should_sample(context, trace_id, name, kind, attributes, links)
            flags, state = flags | (SAMPLED if result.decision.is_sampled() else 0), result.trace_state
            if not result.decision.is_recording():
                found = SpanContext(trace_id, self.new_span_id(), False, TraceFlags(flags), state)
                return NonRecordingSpan(found)
            attributes = result.attributes
        parent_id, remote = (parent.span_id, parent.is_remote) if parent is not None else (0, False)
        own = Trace(trace_id, flags, state)
        span = DirectSpan(self, name, own, parent_id, remote, kind, attributes, start_time)
        for link in filter(None, links):
            span.add_link(link.context, link.attributes)
        return span

    def start_as_current_span(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Start a span and make it the current one."""
        return self._current(name, *arguments, **options)

    @contextmanager
    def _current(self, name: str, *arguments: Any, end_on_exit: bool = True, **options: Any) -> Iterator[trace.Span]:
        span = self.start_span(name, *arguments, **options)
        handling = {key: options.get(key, True) for key in ("record_exception", "set_status_on_exception")}
        with trace.use_span(span, end_on_exit, **handling):
            yield span

    def encoded_event(self, name: str, attributes: Mapping[str, Any] | None, time: int | None) -> bytes:
        """An event as a field of a span."""
        encoded, dropped = self._of_events.encode(attributes)
        content = (
            _TIME(b"\x09", time_ns() if time is None else time),
            delimited(b"\x12", name.encode()),
            encoded,
            b"\x20" + varint(dropped) if dropped else b"",
        )
        return delimited(b"\x5a", b"".join(content))

    def encoded_link(self, context: SpanContext, attributes: Mapping[str, Any] | None) -> bytes:
        """A link as a field of a span."""
        encoded, dropped = self._of_links.encode(attributes)
        content = (
            IDS(b"\x0a\x10", context.trace_id.to_bytes(16, "big"), b"\x12\x08", context.span_id),
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
        processors: Any = getattr(made.span_processor, "_span_processors", ())
        queue = getattr(processors[0], "on_end_encoded", None) if len(processors) == 1 else None
        return DirectTracer(made, queue or made.span_processor.on_end)
