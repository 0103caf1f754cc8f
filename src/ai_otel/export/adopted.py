"""Exporters that the SDK made from a configuration file, wrapped as those that ai-otel makes itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from ai_otel.export import redirects
from ai_otel.export.counts import ExportCounts
from ai_otel.export.points import CountedMetricExporter
from ai_otel.export.spans import BoundedSpanExporter, is_sampled


def adopt_exporters(tracer_provider: Any, meter_provider: Any, counts: ExportCounts) -> None:
    """Wrap the exporters of the SDK's own processors and readers; those of other classes stay as they are."""
    for processor in processors_of(tracer_provider):
        holder = getattr(processor, "_batch_processor", processor)
        name = "_exporter" if hasattr(holder, "_exporter") else "span_exporter"
        exporter = getattr(holder, name, None)
        if exporter is not None and type(processor) in (BatchSpanProcessor, SimpleSpanProcessor):
            setattr(holder, name, BoundedSpanExporter(exporter, counts, redirects.watched(exporter)))
            _count_dropped(processor, holder, counts)
    for reader in readers_of(meter_provider):
        exporter = getattr(reader, "_exporter", None)
        if exporter is not None and type(reader) is PeriodicExportingMetricReader:
            wrapped = CountedMetricExporter(exporter, counts, redirects.watched(exporter))
            reader._exporter = wrapped  # noqa: SLF001 - the SDK has no public way


def processors_of(tracer_provider: Any) -> Iterator[Any]:
    """Yield the span processors of one of the SDK's providers."""
    yield from getattr(getattr(tracer_provider, "_active_span_processor", None), "_span_processors", ())


def readers_of(meter_provider: Any) -> Iterator[Any]:
    """Yield the metric readers of one of the SDK's providers."""
    yield from getattr(meter_provider, "_metric_readers", ())


def _count_dropped(processor: Any, holder: Any, counts: ExportCounts) -> None:
    """Count the spans that a full queue drops."""
    waiting = getattr(holder, "_queue", getattr(holder, "queue", None))
    most, on_end = getattr(waiting, "maxlen", None), processor.on_end
    if most is None or waiting is None:
        return

    def counted(span: ReadableSpan) -> None:
        if len(waiting) == most and is_sampled(span):
            counts.dropped["traces"] += 1
        on_end(span)

    processor.on_end = counted
