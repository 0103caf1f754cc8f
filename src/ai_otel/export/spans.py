"""
Exporter of spans: requests that a receiver can take, and the rest of a batch saved from the span that it refuses.

A receiver takes or refuses a request as a whole. Batches are split below its limit of size; one that is refused all the
same is bisected, within a limit of requests and of time, until the spans that cause it are alone.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from ai_otel.export.counts import ExportCounts
from ai_otel.export.redirects import Redirects
from ai_otel.inputs.shown import shown

log = logging.getLogger("ai_otel")


class EncodedSpan(Protocol):
    """A span that is written as OTLP already, as `ai_otel.direct` makes them."""

    name: str
    encoded: bytes | None

    @property
    def overhead(self) -> int:
        """Bytes of a request beside its spans."""


Spans = Sequence[Any]
"""Each a `ReadableSpan`, or each an `EncodedSpan`: the exporter that they go to takes what it is given."""

MAX_REQUEST_BYTES = 1_000_000
"""
Of one export request. The Collector's `limits` refuse more than 1 MiB, gRPC receivers more than 4 MiB by default. The
SDK retries such a refusal over gRPC until its timeout, so that the batch is lost.
"""
MAX_EXTRA_REQUESTS = 64
"""For one refused batch."""
MAX_FUTILE_REQUESTS = 20
"""For one refused batch of which nothing is accepted: two for each halving of 512 spans, and two more."""
MAX_BISECTING_S = 5.0
"""For one refused batch, after the first refusal."""
REFUSAL_S = 0.75
"""A failure that took less was no timeout and was not retried: the first retry comes after 0.8 s at the earliest."""


class BoundedSpanExporter(SpanExporter):
    """Passes spans to another exporter, in requests that a receiver accepts, and counts what came of them."""

    def __init__(self, exporter: SpanExporter, counts: ExportCounts, redirects: Redirects | None = None) -> None:
        self.wrapped = exporter
        self._counts = counts
        self._redirects = redirects
        self._sent = 0
        self._stopped = self._logged = False
        self._answers = True
        # Until something is accepted again, one span of a batch is sent alone: it is not bisected if that is refused.
        self._refuses_all = False
        self._takes_timeout = "timeout_millis" in inspect.signature(exporter.shutdown).parameters
        counts.observe("traces")

    def export(self, spans: Spans) -> SpanExportResult:
        """Export in as many requests as it takes; a success if every span was accepted."""
        before = self._sent
        try:
            for part in split(spans, MAX_REQUEST_BYTES):
                self._deliver(part)
        finally:
            sent = self._sent - before
            self._counts.sent["traces"] += sent
            self._counts.failed["traces"] += len(spans) - sent
        return SpanExportResult.SUCCESS if sent == len(spans) else SpanExportResult.FAILURE

    def _deliver(self, spans: Spans) -> None:
        if self._send(spans) or not self._answers or len(spans) == 1:
            return
        if self._refuses_all:
            middle = len(spans) // 2
            if not self._send(spans[middle : middle + 1]):
                return
            spans = [*spans[:middle], *spans[middle + 1 :]]
        before = self._sent
        self._bisect(spans)
        self._refuses_all = self._sent == before

    def _send(self, spans: Spans) -> bool:
        """Send one request: whether it was accepted. Sets whether a receiver answers, be it to refuse."""
        started = time.monotonic()
        try:
            accepted = self.wrapped.export(spans) is SpanExportResult.SUCCESS
        except OSError:
            # Older SDKs raise where no receiver is reached.
            self._answers = False
            return False
        redirected = self._redirects is not None and self._redirects.take()
        if accepted and not redirected:
            self._sent += len(spans)
            self._refuses_all, self._answers = False, True
            return True
        self._answers = not redirected and time.monotonic() - started < REFUSAL_S
        return False

    def _bisect(self, spans: Spans) -> None:
        """Send the halves of a refused batch, and the halves of those that are refused."""
        deadline, before = time.monotonic() + MAX_BISECTING_S, self._sent
        requests = 0
        refused = [spans]
        while refused:
            part = refused.pop()
            if len(part) == 1:
                self._log(part[0])
                continue
            middle = len(part) // 2
            for half in (part[middle:], part[:middle]):
                most = MAX_EXTRA_REQUESTS if self._sent > before else MAX_FUTILE_REQUESTS
                if requests == most or time.monotonic() > deadline or self._stopped or not self._answers:
                    return
                requests += 1
                if not self._send(half):
                    refused.append(half)

    def _log(self, span: ReadableSpan | EncodedSpan) -> None:
        if not self._logged:
            self._logged = True
            log.warning(
                "ai-otel: the receiver refuses the span %r of about %d bytes, and every request that contains it; "
                "it and later ones of its kind are counted in ai_otel.export.failed",
                shown(span.name),
                size_of(span),
            )

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the other exporter."""
        return self.wrapped.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """Shut the other exporter down."""
        self._stopped = True
        if self._takes_timeout:
            self.wrapped.shutdown(timeout_millis=timeout_millis)  # type: ignore[call-arg]
        else:
            self.wrapped.shutdown()


class CountedSpanProcessor(BatchSpanProcessor):
    """The SDK's batch processor; counts the spans that its queue drops."""

    def __init__(self, exporter: SpanExporter, counts: ExportCounts) -> None:
        super().__init__(exporter)
        self._counts = counts
        # Where the SDK keeps its queue: a deque that drops the oldest span for the newest.
        holder = getattr(self, "_batch_processor", self)
        self._waiting: Any = getattr(holder, "_queue", None)
        if self._waiting is None:
            self._waiting = getattr(holder, "queue", ())
        self._most: int | None = getattr(self._waiting, "maxlen", None)
        # What the SDK's own `on_end` calls for a sampled span; where it has no such part, that itself.
        self._queue: Callable[[Any], None] = getattr(holder, "emit", super().on_end)

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span."""
        if len(self._waiting) == self._most and is_sampled(span):
            self._counts.dropped["traces"] += 1
        super().on_end(span)

    def on_end_encoded(self, span: EncodedSpan) -> None:
        """Queue a span that is sampled and encoded."""
        if len(self._waiting) == self._most:
            self._counts.dropped["traces"] += 1
        self._queue(span)


def is_sampled(span: ReadableSpan) -> bool:
    """Return whether a span is exported."""
    return span.context is not None and span.context.trace_flags.sampled


def split(spans: Spans, limit: int) -> Iterator[Spans]:
    """The spans in parts that encode to at most `limit` bytes each; a larger span is a part of its own."""
    begun, size = 0, 0
    for index, span in enumerate(spans):
        more = size_of(span)
        if size == 0:
            size = _overhead(span)
        if size + more > limit and index > begun:
            yield spans[begun:index]
            begun, size = index, _overhead(span)
        size += more
    if begun < len(spans):
        yield spans[begun:] if begun else spans


def _overhead(span: Any) -> int:
    """What a request has beside its spans."""
    if getattr(span, "encoded", None) is not None:
        return int(span.overhead)
    return 1024 + size_of_values(span.resource.attributes)


def size_of(span: Any) -> int:
    """Bytes of the encoded span: no less than there are, and little more; encoding it twice would cost much more."""
    encoded: bytes | None = getattr(span, "encoded", None)
    return len(encoded) if encoded is not None else _estimated(span)


def _estimated(span: ReadableSpan) -> int:
    size = 192 + size_of_text(span.name) + size_of_text(span.status.description or "")
    state = span.context.trace_state if span.context is not None else {}
    size += sum(len(key) + len(value) + 2 for key, value in state.items())
    size += size_of_values(span.attributes or {})
    for event in span.events:
        size += 64 + len(event.name) + size_of_values(event.attributes or {})
    for link in span.links:
        size += 64 + size_of_values(link.attributes or {})
        size += sum(len(key) + len(value) + 2 for key, value in link.context.trace_state.items())
    return size


def size_of_values(attributes: Mapping[str, Any]) -> int:
    """Bytes of encoded attributes."""
    return sum(20 + len(key) + _size_of_value(value) for key, value in attributes.items())


def _size_of_value(value: Any) -> int:
    if isinstance(value, str):
        return size_of_text(value)
    if isinstance(value, (tuple, list)):
        return sum(16 + _size_of_value(item) for item in value)
    return 16 if isinstance(value, (bool, int, float)) else len(str(value)) * 4


def size_of_text(text: str) -> int:
    """Bytes of an encoded text."""
    return len(text) if text.isascii() else 4 * len(text)
