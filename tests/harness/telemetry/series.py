"""Metrics as a backend keeps them: the newest point of each series, by sender."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.collector.process import Tree, attributes_of, exports


@dataclass(frozen=True)
class Point:
    """One point of one series."""

    name: str
    unit: str
    instance: str
    attributes: frozenset[tuple[str, Any]]
    start_ns: int
    time_ns: int
    cumulative: bool
    value: Any
    """Of a histogram: count, sum and the counts of its buckets."""
    bounds: tuple[float, ...] = ()

    @property
    def count(self) -> int:
        """A histogram's count, or a counter's value."""
        return int(self.value[0] if isinstance(self.value, tuple) else self.value)


def points(path: Path) -> Iterator[Point]:
    """Every point that the file backend wrote."""
    for export in exports(path):
        for resource_metrics in export.get("resourceMetrics", ()):
            instance = attributes_of(resource_metrics["resource"]).get("service.instance.id", "")
            for scope in resource_metrics["scopeMetrics"]:
                for metric in scope["metrics"]:
                    yield from _points(metric, instance)


def _points(metric: Tree, instance: str) -> Iterator[Point]:
    kind = next(kind for kind in ("sum", "histogram", "gauge") if kind in metric)
    for point in metric[kind].get("dataPoints", ()):
        yield Point(
            name=metric["name"],
            unit=metric.get("unit", ""),
            instance=instance,
            attributes=frozenset((key, _hashable(value)) for key, value in attributes_of(point).items()),
            start_ns=int(point.get("startTimeUnixNano", 0)),
            time_ns=int(point["timeUnixNano"]),
            cumulative=metric[kind].get("aggregationTemporality") == 2,
            value=_value(point),
            bounds=tuple(point.get("explicitBounds", ())),
        )


def _value(point: Tree) -> Any:
    if "bucketCounts" in point:
        return int(point["count"]), point["sum"], tuple(map(int, point["bucketCounts"]))
    return int(point["asInt"]) if "asInt" in point else float(point["asDouble"])


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def newest(path: Path) -> dict[tuple[str, str, frozenset[tuple[str, Any]]], Point]:
    """By name, instance and attributes."""
    found: dict[tuple[str, str, frozenset[tuple[str, Any]]], Point] = {}
    for point in points(path):
        key = (point.name, point.instance, point.attributes)
        if key not in found or found[key].time_ns < point.time_ns:
            found[key] = point
    return found


def total(path: Path, name: str, **labels: Any) -> int:
    """The sum of a counter, or of a histogram's counts, over all series that carry these labels; `__` is a point."""
    wanted = {(key.replace("__", "."), value) for key, value in labels.items()}
    return sum(point.count for point in newest(path).values() if point.name == name and wanted <= point.attributes)
