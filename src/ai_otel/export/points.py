"""Exporter of metrics: requests that a receiver can take, and counts of what was sent and what failed."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

from opentelemetry.sdk.metrics.export import (
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)

from ai_otel.export.counts import ExportCounts
from ai_otel.export.pauses import Paused, pause
from ai_otel.export.redirects import Redirects
from ai_otel.export.requests import split
from ai_otel.export.spans import MAX_REQUEST_BYTES
from ai_otel.inputs.shown import shown

log = logging.getLogger("ai_otel")


class CountedMetricExporter(MetricExporter):
    """Passes everything to another exporter, and counts the points."""

    def __init__(self, exporter: MetricExporter, counts: ExportCounts, redirects: Redirects | None = None) -> None:
        # The SDK's own reader reads these two of any exporter.
        super().__init__(exporter._preferred_temporality, exporter._preferred_aggregation)  # noqa: SLF001
        self.wrapped = exporter
        self._counts = counts
        self._redirects = redirects
        counts.observe("metrics")

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Export in as many requests as it takes, and count what came of it; a success if every one was accepted."""
        deadline_s = time.monotonic() + timeout_millis / 1000
        results: list[MetricExportResult] = []
        for part in split(metrics_data, MAX_REQUEST_BYTES):
            # A receiver that does not answer costs the time of one export, not of each request.
            left_ms = (deadline_s - time.monotonic()) * 1000 if results else timeout_millis
            results.append(self._send(part, left_ms, **kwargs))
        failed = any(result is not MetricExportResult.SUCCESS for result in results)
        return MetricExportResult.FAILURE if failed else MetricExportResult.SUCCESS

    def _send(self, metrics_data: MetricsData, timeout_millis: float, **kwargs: Any) -> MetricExportResult:
        result = MetricExportResult.FAILURE
        try:
            if timeout_millis > 0:
                result = self.wrapped.export(metrics_data, timeout_millis, **kwargs)
            if self._redirects is not None and self._redirects.take():
                result = MetricExportResult.FAILURE
        except OSError as error:
            # Older SDKs raise where no receiver is reached, and would log the traceback each time.
            log.debug("ai-otel: metrics were not exported: %s", shown(error))
        finally:
            sent = result is MetricExportResult.SUCCESS
            (self._counts.sent if sent else self._counts.failed)["metrics"] += _points(metrics_data)
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Flush the other exporter."""
        return self.wrapped.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Shut the other exporter down."""
        self.wrapped.shutdown(timeout_millis, **kwargs)


def paused(data: MetricsData) -> MetricsData:
    """The same data; who iterates over it, as an encoder does, pauses between metrics and between points."""
    return MetricsData([dataclasses.replace(each, scope_metrics=_scopes(each)) for each in data.resource_metrics])


def _scopes(resource: ResourceMetrics) -> list[ScopeMetrics]:
    return [dataclasses.replace(each, metrics=Paused(map(_metric, each.metrics))) for each in resource.scope_metrics]


def _metric(metric: Metric) -> Metric:
    pause()
    points: Any = Paused(metric.data.data_points)
    return dataclasses.replace(metric, data=dataclasses.replace(metric.data, data_points=points))


def _points(data: MetricsData) -> int:
    return sum(
        len(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
