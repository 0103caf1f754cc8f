"""Where telemetry arrives: an OTLP/HTTP endpoint on loopback that decodes and keeps everything."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ai_otel.demo.sink import read, receiving
from harness.polling import wait_until


@dataclass
class Arrived:
    """One span as it arrived."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start_ns: int
    end_ns: int
    status: int
    attributes: dict[str, Any]
    scope: str
    resource: dict[str, Any]
    children: list[Arrived] = field(default_factory=list)


class Sink:
    """Keeps what arrived. Metrics are cumulative: of each series the newest point counts."""

    def __init__(self) -> None:
        self.spans: list[Arrived] = []
        self.traces: list[Any] = []
        self.metrics: list[Any] = []
        self.url = ""

    def accept(self, path: str, body: bytes) -> None:
        """Keep one request of an exporter."""
        if path == "/v1/metrics":
            self.metrics.append(ExportMetricsServiceRequest.FromString(body))
            return
        request = ExportTraceServiceRequest.FromString(body)
        self.traces.append(request)
        for resource_spans in request.resource_spans:
            resource = read(resource_spans.resource.attributes)
            for scope in resource_spans.scope_spans:
                self.spans += [_arrived(span, scope.scope.name, resource) for span in scope.spans]

    def trees(self) -> dict[str, list[Arrived]]:
        """Roots by trace id, with their children."""
        by_id = {span.span_id: span for span in self.spans}
        for span in self.spans:
            span.children = []
        roots: dict[str, list[Arrived]] = defaultdict(list)
        for span in self.spans:
            parent = by_id.get(span.parent_id)
            if parent is not None:
                parent.children.append(span)
            else:
                roots[span.trace_id].append(span)
        return roots

    def points(self, name: str) -> dict[tuple[str, frozenset[tuple[str, Any]]], Any]:
        """The newest point of each series of a metric, by the instance that sent it and its attributes."""
        newest: dict[tuple[str, frozenset[tuple[str, Any]]], Any] = {}
        for instance, point in self._all_points(name):
            newest[instance, frozenset(read(point.attributes).items())] = point
        return newest

    def exemplars(self, name: str) -> set[str]:
        """Trace ids of every exemplar that came with this metric."""
        return {exemplar.trace_id.hex() for _, point in self._all_points(name) for exemplar in point.exemplars}

    def _all_points(self, name: str) -> Iterator[tuple[str, Any]]:
        for request in list(self.metrics):
            for resource_metrics in request.resource_metrics:
                instance = read(resource_metrics.resource.attributes)["service.instance.id"]
                for scope in resource_metrics.scope_metrics:
                    for metric in scope.metrics:
                        if metric.name == name:
                            yield from ((instance, point) for point in points_of(metric))

    def total(self, name: str, **labels: Any) -> float:
        """Sum of a counter, or count of a histogram's points, over the series that carry these labels."""
        wanted = {(key.replace("__", "."), value) for key, value in labels.items()}
        return sum(_value(point) for (_, key), point in self.points(name).items() if wanted <= set(key))

    def wait(self, condition: Callable[[], bool], timeout_s: float = 30) -> bool:
        """Wait until something is true of what arrived."""
        return wait_until(condition, timeout_s)


def points_of(metric: Any) -> Any:
    """The data points of a metric of any type."""
    return getattr(metric, metric.WhichOneof("data")).data_points


def _value(point: Any) -> float:
    if hasattr(point, "bucket_counts"):
        return float(point.count)
    return float(getattr(point, point.WhichOneof("value")))


@contextmanager
def listening() -> Iterator[Sink]:
    """A sink that listens until the block ends."""
    sink = Sink()
    test = os.environ.get("PYTEST_CURRENT_TEST", "")
    try:
        with receiving(sink.accept) as sink.url:
            yield sink
    finally:
        if directory := os.environ.get("OTLP_CAPTURE_DIR"):
            _capture(sink, Path(directory), test)


def _capture(sink: Sink, directory: Path, test: str) -> None:
    """Write all that arrived as OTLP/JSON, one file for each sink: what `tools/compare_otlp.py` reads."""
    name = re.sub(r"[^\w.-]+", "_", test.rpartition(" ")[0]).strip("_") or "session"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f"{name}.jsonl").open("a") as lines:
        for request in [*sink.traces, *sink.metrics]:
            lines.write(json.dumps(MessageToDict(request), ensure_ascii=False) + "\n")


def _arrived(span: Any, scope: str, resource: dict[str, Any]) -> Arrived:
    return Arrived(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.kind,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        status=span.status.code,
        attributes=read(span.attributes),
        scope=scope,
        resource=resource,
    )
