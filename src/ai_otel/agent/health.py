"""The `/healthz` endpoint: the agent's health as JSON, with status 200 or 503."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

PATH = "/healthz"


class HealthStatus(NamedTuple):
    """Readiness, and the facts that `/healthz` returns."""

    ready: bool
    facts: Mapping[str, Any]


@contextmanager
def serving(address: str, status: Callable[[], HealthStatus]) -> Iterator[int]:
    """Serve `/healthz` at `host:port` until the block ends; yields the port. Raises `OSError` if it is in use."""
    host, _, port = address.rpartition(":")

    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        server_version = "ai-otel"
        sys_version = ""

        def do_GET(self) -> None:
            known = urlsplit(self.path).path == PATH
            health = status() if known else HealthStatus(ready=False, facts={"error": f"only {PATH} is served"})
            body = json.dumps({"ready": health.ready, **health.facts}, indent=2).encode() + b"\n"
            self.send_response(404 if not known else 200 if health.ready else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Log nothing: probes request it every few seconds."""

    kind = _Ipv6Server if ":" in host else _Server
    server = kind((host.strip("[]"), int(port)), Handler)
    thread = threading.Thread(target=server.serve_forever, name="ai-otel health", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Ignore clients that disconnected before the response."""


class _Ipv6Server(_Server):
    address_family = socket.AF_INET6
