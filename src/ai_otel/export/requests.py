"""
Parts of a metric export that a receiver can take.

A receiver takes or refuses a request as a whole, and one export has all points of the process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from opentelemetry.sdk.metrics.export import Metric, MetricsData, ResourceMetrics, ScopeMetrics

from ai_otel.export.pauses import Paused, pause
from ai_otel.export.spans import size_of_text, size_of_values

Item = tuple[ResourceMetrics, ScopeMetrics, Metric, Any]
"""A point, and what it belongs to."""


def split(data: MetricsData, limit: int) -> Iterator[MetricsData]:
    """Yield the points in parts that encode to at most `limit` bytes each; a larger point is a part of its own."""
    part: list[Item] = []
    size, parts = 0, 0
    for item in _items(data):
        more = _size_of_point(item[3])
        around = _size_around(item, part[-1] if part else None)
        if part and size + around + more > limit:
            yield _joined(part)
            parts += 1
            part, size = [], 0
            around = _size_around(item, None)
        part.append(item)
        size += around + more
    if parts and part:
        yield _joined(part)
    elif not parts:
        yield data


def _items(data: MetricsData) -> Iterator[Item]:
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    yield resource, scope, metric, point


def _size_around(item: Item, last: Item | None) -> int:
    """Return the bytes of what a point belongs to, as far as the point before it does not belong to it."""
    holders: tuple[ResourceMetrics | ScopeMetrics | Metric, ...] = item[:3]
    return sum(_size_of_holder(each) for place, each in enumerate(holders) if last is None or last[place] is not each)


def _joined(part: list[Item]) -> MetricsData:
    """Return the points of a part inside copies of what they belong to."""
    resources: list[ResourceMetrics] = []
    last: Item | None = None
    for resource, scope, metric, point in part:
        if last is None or last[0] is not resource:
            resources.append(dataclasses.replace(resource, scope_metrics=Paused()))
        scopes: Any = resources[-1].scope_metrics
        if last is None or last[1] is not scope:
            scopes.append(dataclasses.replace(scope, metrics=Paused()))
        metrics: Any = scopes[-1].metrics
        if last is None or last[2] is not metric:
            data: Any = metric.data
            metrics.append(dataclasses.replace(metric, data=dataclasses.replace(data, data_points=Paused())))
        points: Any = metrics[-1].data.data_points
        points.append(point)
        last = resource, scope, metric, point
        pause()
    return MetricsData(resources)


def _size_of_holder(holder: ResourceMetrics | ScopeMetrics | Metric) -> int:
    if isinstance(holder, Metric):
        texts = (holder.name, holder.description or "", holder.unit or "")
        return 64 + sum(map(size_of_text, texts))
    size = 64 + size_of_text(holder.schema_url or "")
    if isinstance(holder, ScopeMetrics):
        scope = holder.scope
        return (
            size + size_of_text(scope.name) + size_of_text(scope.version or "") + size_of_values(scope.attributes or {})
        )
    return size + size_of_values(holder.resource.attributes)


def _size_of_point(point: Any) -> int:
    """Return the bytes of the encoded point: no less than there are, and little more."""
    size = 96 + size_of_values(point.attributes or {})
    size += 9 * (len(getattr(point, "bucket_counts", ())) + len(getattr(point, "explicit_bounds", ())))
    for name in ("positive", "negative"):
        size += 10 * len(getattr(getattr(point, name, None), "bucket_counts", ()))
    for exemplar in getattr(point, "exemplars", ()):
        size += 64 + size_of_values(exemplar.filtered_attributes or {})
    return size
