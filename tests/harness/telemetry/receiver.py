"""An OTLP/HTTP endpoint on loopback that answers as a test says, and counts what it accepted."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from harness.telemetry.sink import points_of

Status = Callable[[str, bytes], tuple[int, dict[str, str]]]
"""Path and body of a request -> status and headers of its answer."""


class Receiver:
    """What arrived over OTLP/HTTP."""

    def __init__(self, status: Status) -> None:
        self.status = status
        self.spans: list[str] = []
        self.points = 0
        self.methods: list[str] = []
        self.sizes: list[int] = []
        """Bytes of each request, without compression."""


def spans_of(request: Any) -> list[str]:
    """The names of the spans of a request."""
    return [span.name for each in request.resource_spans for scope in each.scope_spans for span in scope.spans]


def too_large(limit: int) -> Status:
    """Refuse larger requests."""
    return lambda _path, body: (413 if len(body) > limit else 200, {})


@contextmanager
def receiver(status: Status = lambda _path, _body: (200, {})) -> Iterator[tuple[Receiver, str]]:
    """A receiver that answers as `status` says, and its URL."""
    found = Receiver(status)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            found.sizes.append(len(body))
            code, headers = found.status(self.path, body)
            if code == 200 and self.path == "/v1/traces":
                found.spans += spans_of(ExportTraceServiceRequest.FromString(body))
            elif code == 200:
                found.points += _points(ExportMetricsServiceRequest.FromString(body))
            self.answer(code, headers)

        def do_GET(self) -> None:
            self.answer(200, {})

        def answer(self, code: int, headers: dict[str, str]) -> None:
            found.methods.append(self.command)
            self.send_response(code)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield found, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _points(request: Any) -> int:
    metrics = [m for each in request.resource_metrics for scope in each.scope_metrics for m in scope.metrics]
    return sum(len(points_of(metric)) for metric in metrics)
