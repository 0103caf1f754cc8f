"""One small form for spans and metrics, from the SDK's objects or from decoded OTLP protobuf."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Bits of Span.flags in OTLP: whether the parent's remoteness is known, and what it is.
HAS_IS_REMOTE, IS_REMOTE = 0x100, 0x200
OTLP_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
OTLP_ERROR = 2


@dataclass(frozen=True, slots=True)
class Span:
    """A finished span. `remote` is None where the source does not say whether the parent is."""

    name: str
    kind: str
    scope: str
    schema_url: str
    attributes: Mapping[str, Any]
    error: bool
    span_id: int
    parent_id: int | None
    remote: bool | None


@dataclass(frozen=True, slots=True)
class Point:
    """A data point. `type` is int, double, or None where the encoding does not say; `bounds` only for histograms."""

    attributes: Mapping[str, Any]
    type: str | None
    value: float
    bounds: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of one scope."""

    name: str
    unit: str
    instrument: str
    scope: str
    schema_url: str
    points: tuple[Point, ...]


def spans_of(source: Any) -> list[Span]:
    """Spans of an OTLP request or message, or of an iterable of those or of the SDK's ReadableSpan."""
    if hasattr(source, "resource_spans"):
        return list(_otlp_spans(source))
    return [span for item in source for span in _spans_of_item(item)]


def metrics_of(source: Any) -> list[Metric]:
    """Metrics of the SDK's MetricsData, of an OTLP request or message, or of an iterable of those; None is empty."""
    if source is None:
        return []
    if hasattr(source, "resource_metrics"):
        return list(_otlp_metrics(source) if hasattr(source, "DESCRIPTOR") else _sdk_metrics(source))
    return [metric for item in source for metric in metrics_of(item)]


# ---------------------------------------------------------------- the SDK


def _spans_of_item(item: Any) -> Iterable[Span]:
    return spans_of(item) if hasattr(item, "resource_spans") else [_sdk_span(item)]


def _sdk_span(span: Any) -> Span:
    scope = span.instrumentation_scope
    return Span(
        name=span.name,
        kind=span.kind.name.lower(),
        scope=scope.name if scope else "",
        schema_url=(scope.schema_url or "") if scope else "",
        attributes=dict(span.attributes or {}),
        error=span.status.status_code.name == "ERROR",
        span_id=span.context.span_id,
        parent_id=span.parent.span_id if span.parent else None,
        remote=span.parent.is_remote if span.parent else None,
    )


def _sdk_metrics(source: Any) -> Iterator[Metric]:
    for resource in source.resource_metrics:
        for part in resource.scope_metrics:
            for metric in part.metrics:
                yield Metric(
                    name=metric.name,
                    unit=metric.unit or "",
                    instrument=_sdk_instrument(metric.data),
                    scope=part.scope.name,
                    schema_url=part.scope.schema_url or "",
                    points=tuple(map(_sdk_point, metric.data.data_points)),
                )


def _sdk_instrument(points: Any) -> str:
    kind = type(points).__name__
    if kind == "Sum":
        return "counter" if points.is_monotonic else "updowncounter"
    return "histogram" if kind == "ExponentialHistogram" else kind.lower()


def _sdk_point(point: Any) -> Point:
    value = point.value if hasattr(point, "value") else point.sum
    bounds = tuple(map(float, point.explicit_bounds)) if hasattr(point, "explicit_bounds") else None
    return Point(dict(point.attributes or {}), "int" if isinstance(value, int) else "double", value, bounds)


# ---------------------------------------------------------------- OTLP


def _otlp_spans(source: Any) -> Iterator[Span]:
    for resource in source.resource_spans:
        for part in resource.scope_spans:
            for span in part.spans:
                known = span.parent_span_id and span.flags & HAS_IS_REMOTE
                yield Span(
                    name=span.name,
                    kind=OTLP_KINDS[span.kind],
                    scope=part.scope.name,
                    schema_url=part.schema_url,
                    attributes=_otlp_attributes(span.attributes),
                    error=span.status.code == OTLP_ERROR,
                    span_id=int.from_bytes(span.span_id, "big"),
                    parent_id=int.from_bytes(span.parent_span_id, "big") or None,
                    remote=bool(span.flags & IS_REMOTE) if known else None,
                )


def _otlp_metrics(source: Any) -> Iterator[Metric]:
    for resource in source.resource_metrics:
        for part in resource.scope_metrics:
            for metric in part.metrics:
                kind = metric.WhichOneof("data")
                body = getattr(metric, kind)
                yield Metric(
                    name=metric.name,
                    unit=metric.unit,
                    instrument=_otlp_instrument(kind, body),
                    scope=part.scope.name,
                    schema_url=part.schema_url,
                    points=tuple(_otlp_point(point, kind) for point in body.data_points),
                )


def _otlp_instrument(kind: str, body: Any) -> str:
    if kind == "sum":
        return "counter" if body.is_monotonic else "updowncounter"
    return "histogram" if kind == "exponential_histogram" else kind


def _otlp_point(point: Any, kind: str) -> Point:
    attributes = _otlp_attributes(point.attributes)
    if "histogram" in kind:
        # The sum is a double on the wire also when an integer was recorded.
        bounds = tuple(point.explicit_bounds) if kind == "histogram" else None
        return Point(attributes, None, point.sum, bounds)
    field = point.WhichOneof("value")
    return Point(attributes, {"as_int": "int", "as_double": "double"}[field], getattr(point, field))


def _otlp_attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: _otlp_value(pair.value) for pair in pairs}


def _otlp_value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_otlp_value(item) for item in value.array_value.values)
    if kind == "kvlist_value":
        return _otlp_attributes(value.kvlist_value.values)
    return getattr(value, kind) if kind else None
