"""
Export without a thread, for a process that ends before its first request is emitted.

From Python 3.12 on no thread can be started once the main thread has ended, and the SDK's processor and reader need
one. The recorder's thread runs already: it exports what there is when it shuts its providers down.
"""

from __future__ import annotations

import math
from typing import Any

from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter

from ai_otel.export.spans import is_sampled

BATCH = 512


class UnthreadedSpanProcessor(SpanProcessor):
    """Exports spans in batches, on the thread that ends the last of a batch or flushes."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._waiting: list[Any] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a span."""
        if is_sampled(span):
            self.on_end_encoded(span)

    def on_end_encoded(self, span: Any) -> None:
        """Keep a span that is sampled."""
        self._waiting.append(span)
        if len(self._waiting) >= BATCH:
            self.force_flush()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export what is kept; how long that takes is the exporter's own limit."""
        del timeout_millis
        spans, self._waiting = self._waiting, []
        if spans:
            self._exporter.export(spans)
        return True

    def shutdown(self) -> None:
        """Export what is kept, and shut the exporter down."""
        self.force_flush()
        self._exporter.shutdown()


class UnthreadedMetricReader(PeriodicExportingMetricReader):
    """Exports when it is flushed or shut down."""

    def __init__(self, exporter: MetricExporter) -> None:
        super().__init__(exporter, export_interval_millis=math.inf)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Export the last values, and shut the exporter down."""
        self.collect(timeout_millis)
        super().shutdown(timeout_millis, **kwargs)
