"""Where the demo's telemetry arrives: an OTLP/HTTP endpoint on loopback that decodes it and keeps it in memory."""

from __future__ import annotations

import functools
import gzip
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KEPT_SPANS = 50_000
"""Enough for every demo; with `--keep` the oldest go first."""

ERROR = 2

Page = tuple[str, bytes]
"""Content type and content."""


@dataclass(frozen=True, slots=True)
class ArrivedSpan:
    """One span."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    failed: bool
    attributes: dict[str, Any]

    @property
    def duration_s(self) -> float:
        """Seconds from start to end."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(slots=True)
class ArrivedMetric:
    """One metric, and the newest point of each of its series."""

    name: str
    unit: str
    description: str
    kind: str
    """`gauge`, `sum` or `histogram`."""
    monotonic: bool
    points: dict[tuple[tuple[str, str], ...], Any] = field(default_factory=dict)
    """By labels: those of the point, and which process sent it."""


class Sink:
    """Everything that arrived so far. Metrics are cumulative, so of each series the newest point says all."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: deque[ArrivedSpan] = deque(maxlen=KEPT_SPANS)
        self.metrics: dict[str, ArrivedMetric] = {}
        self.resource: dict[str, Any] = {}
        self.arrivals = 0

    def roots(self, traces: Iterable[str]) -> dict[str, ArrivedSpan]:
        """The request span of each of these traces that has one; its parent is the client's, so it is not here."""
        wanted = set(traces)
        spans = [span for span in list(self.spans) if span.trace_id in wanted]
        known = {span.span_id for span in spans}
        return {span.trace_id: span for span in spans if span.parent_id not in known}

    def children(self, span: ArrivedSpan) -> list[ArrivedSpan]:
        """The spans below this one, in the order of their starts."""
        return sorted(
            (each for each in list(self.spans) if each.parent_id == span.span_id), key=lambda each: each.start_ns
        )

    def accept(self, path: str, body: bytes) -> None:
        """Take in one request of an exporter."""
        if path == "/v1/traces":
            self._accept_spans(ExportTraceServiceRequest.FromString(body))
        elif path == "/v1/metrics":
            self._accept_metrics(ExportMetricsServiceRequest.FromString(body))
        self.arrivals += 1

    def _accept_spans(self, request: Any) -> None:
        for resource_spans in request.resource_spans:
            self.resource = read(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                self.spans.extend(_span(span) for span in scope_spans.spans)

    def _accept_metrics(self, request: Any) -> None:
        for resource_metrics in request.resource_metrics:
            self.resource = read(resource_metrics.resource.attributes)
            for scope_metrics in resource_metrics.scope_metrics:
                for metric in scope_metrics.metrics:
                    self._accept_metric(metric)

    def _accept_metric(self, metric: Any) -> None:
        kind = metric.WhichOneof("data")
        if kind not in ("gauge", "sum", "histogram"):
            return
        content = getattr(metric, kind)
        kept = self.metrics.setdefault(
            metric.name,
            ArrivedMetric(metric.name, metric.unit, metric.description, kind, getattr(content, "is_monotonic", False)),
        )
        source = (
            ("job", str(self.resource.get("service.name", ""))),
            ("instance", str(self.resource.get("service.instance.id", ""))),
        )
        for point in content.data_points:
            labels = sorted((name, str(value)) for name, value in read(point.attributes).items())
            kept.points[tuple(source) + tuple(labels)] = point


def _span(span: Any) -> ArrivedSpan:
    return ArrivedSpan(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        failed=span.status.code == ERROR,
        attributes=read(span.attributes),
    )


def read(attributes: Any) -> dict[str, Any]:
    """OTLP's attributes as a dictionary."""
    return {item.key: _read(item.value) for item in attributes}


def _read(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_read(item) for item in value.array_value.values)
    return getattr(value, kind) if kind else None


@contextmanager
def listening(pages: Mapping[str, Callable[[Sink], Page]] | None = None) -> Iterator[Sink]:
    """
    A sink on a free port of loopback until the block ends.

    `pages` are served beside it: path → a function that makes a page of the sink.
    """
    sink = Sink()
    made = {path: functools.partial(page, sink) for path, page in (pages or {}).items()}
    with receiving(sink.accept, made) as sink.url:
        yield sink


@contextmanager
def receiving(
    accept: Callable[[str, bytes], None], pages: Mapping[str, Callable[[], Page]] | None = None
) -> Iterator[str]:
    """
    An OTLP/HTTP endpoint on a free port of loopback until the block ends; yields its URL.

    `accept` is called with the path and the uncompressed body of each request. `pages` are served beside it.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            accept(self.path, body)
            self._answer(HTTPStatus.OK, "application/x-protobuf", b"")

        def do_GET(self) -> None:
            page = (pages or {}).get(self.path)
            if page is None:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not here\n")
            else:
                self._answer(HTTPStatus.OK, *page())

        def _answer(self, status: HTTPStatus, content_type: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *_: Any) -> None:  # noqa: A002 - the base class's name
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
