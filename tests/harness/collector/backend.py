"""A backend that can be away, slow or unwilling, and keeps the ids of every span that it took."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from harness.polling import wait_until
from harness.server import free_port


class Backend:
    """
    An OTLP/HTTP endpoint at one address for its whole life.

    It listens between `come()` and `leave()`; in between, connections are refused. `answer` is the
    status that it gives: anything but 200 is given before a span is kept.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.spans: Counter[bytes] = Counter()
        self.requests = 0
        self.answer = 200
        self.delay_s = 0.0
        self._lock = threading.Lock()
        self._server: _Server | None = None

    def __enter__(self) -> Backend:  # noqa: PYI034 - Self is younger than Python 3.10
        self.come()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def come(self) -> None:
        """Listen."""
        self._server = _Server(("127.0.0.1", self.port), _handler(self))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def leave(self) -> None:
        """Close the port, and what is open."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.hang_up()

    @property
    def here(self) -> bool:
        return self._server is not None

    def ids(self) -> set[bytes]:
        """Every span id that arrived."""
        with self._lock:
            return set(self.spans)

    def take(self, body: bytes) -> None:
        """Keep the ids."""
        request = ExportTraceServiceRequest.FromString(body)
        found = [
            span.span_id
            for resource_spans in request.resource_spans
            for scope in resource_spans.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self.spans.update(found)
            self.requests += 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End what is open; its thread then closes it."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: not self._open, 5, interval_s=0.01)

    def handle_error(self, *_: Any) -> None:
        """A Collector that is killed leaves connections behind."""


def _handler(backend: Backend) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            time.sleep(backend.delay_s)
            status = backend.answer if backend.here else 503
            if status == 200 and self.path == "/v1/traces":
                backend.take(body)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler
