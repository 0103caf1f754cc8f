"""What the bytes that a server exported say: its spans and points, and the recipe by which others make the same."""

from __future__ import annotations

import base64
import gzip
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Json = dict[str, Any]


@dataclass
class Arrived:
    """What one server exported, decoded. Metrics are cumulative: of each series the newest point counts."""

    spans: list[Json] = field(default_factory=list)
    histograms: dict[tuple[str, str], Json] = field(default_factory=dict)
    numbers: dict[tuple[str, str], Json] = field(default_factory=dict)

    def count(self, name: str, **labels: str) -> float:
        """The sum of a metric's series with these attributes."""
        found = [n for n in self.numbers.values() if n["name"] == name and labels.items() <= n["attributes"].items()]
        return float(sum(number["value"] for number in found))


def arrived(bodies: Iterable[Json], name: str) -> Arrived:
    """Decode the bodies that the sink kept of one server."""
    kept = Arrived()
    for body in bodies:
        if body["name"] != name:
            continue
        data = plain(base64.b64decode(body["body"]), body["encoding"])
        if body["signal"] == "traces":
            kept.spans += _spans(data)
        else:
            for point in _points(data):
                series = kept.histograms if "bounds" in point else kept.numbers
                series[point["name"], repr(sorted(point["attributes"].items()))] = point
    return kept


def plain(body: bytes, encoding: str) -> bytes:
    """Without its compression."""
    match encoding:
        case "gzip":
            return gzip.decompress(body)
        case "deflate":
            return zlib.decompress(body)
        case "" | "identity":
            return body
    raise ValueError(f"an unknown content encoding: {encoding}")


def _spans(data: bytes) -> Iterator[Json]:
    for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {
                    "scope": scope.scope.name,
                    "name": span.name,
                    "kind": span.kind,
                    "trace": span.trace_id.hex(),
                    "child": bool(span.parent_span_id),
                    "attributes": values(span.attributes),
                }


def _points(data: bytes) -> Iterator[Json]:
    for resource in ExportMetricsServiceRequest.FromString(data).resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                common = {"scope": scope.scope.name, "name": metric.name, "unit": metric.unit}
                for point in metric.histogram.data_points:
                    yield common | {
                        "attributes": values(point.attributes),
                        "bounds": list(point.explicit_bounds),
                        "count": point.count,
                        "value": point.sum / point.count if point.count else 0.0,
                    }
                kind = "sum" if metric.HasField("sum") else "gauge"
                for number in (metric.sum if kind == "sum" else metric.gauge).data_points:
                    value = number.as_int if number.HasField("as_int") else number.as_double
                    monotonic = kind == "sum" and metric.sum.is_monotonic
                    yield common | {
                        "attributes": values(number.attributes),
                        "kind": "counter" if monotonic else "updown" if kind == "sum" else "gauge",
                        "value": value,
                    }


def values(attributes: Iterable[Any]) -> Json:
    """Attributes as Python values."""
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else ""


def recipe(seen: Arrived, requests: int) -> Json:
    """What one request makes, from what so many equal ones made: for servers that are to make the same by hand."""
    last = seen.spans[-1]["trace"]
    spans = sorted((span for span in seen.spans if span["trace"] == last), key=lambda span: span["child"])
    if len(spans) * requests != len(seen.spans):
        raise ValueError(f"{len(seen.spans)} spans of {requests} requests, {len(spans)} of the last one")
    points = [point | {"times": point["count"] / requests} for point in seen.histograms.values()]
    uneven = [point["name"] for point in points if point["times"] != int(point["times"])]
    if uneven:
        raise ValueError(f"{requests} equal requests have unequal numbers of points: {uneven}")
    return {"spans": spans, "points": points, "numbers": list(seen.numbers.values())}


def shape(seen: Arrived) -> tuple[Counter[Any], Counter[Any]]:
    """Spans by name, kind and attributes' names; points by name, attributes and bounds: equal for equal telemetry."""
    spans = Counter((span["name"], span["kind"], tuple(sorted(span["attributes"]))) for span in seen.spans)
    points: Counter[Any] = Counter()
    for (name, attributes), point in seen.histograms.items():
        points[name, attributes, tuple(point["bounds"])] += point["count"]
    return spans, points


def attributes_of(spans: Sequence[Json]) -> int:
    """The number of attributes of the request's span."""
    return len(spans[0]["attributes"])
