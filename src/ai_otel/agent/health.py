"""`/healthz`: whether the agent does its work, as JSON, with status 200 or 503."""

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


class Report(NamedTuple):
    """What there is to say, and whether it is good enough to be called ready."""

    ready: bool
    facts: Mapping[str, Any]


@contextmanager
def serving(address: str, report: Callable[[], Report]) -> Iterator[int]:
    """Serve the page at `host:port` until the block ends; yields the port. Raises `OSError` where it is taken."""
    host, _, port = address.rpartition(":")

    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        server_version = "ai-otel"
        sys_version = ""

        def do_GET(self) -> None:
            known = urlsplit(self.path).path == PATH
            told = report() if known else Report(ready=False, facts={"error": f"only {PATH} is here"})
            body = json.dumps({"ready": told.ready, **told.facts}, indent=2).encode() + b"\n"
            self.send_response(404 if not known else 200 if told.ready else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """A probe every few seconds is no news."""

    kind = _SixServer if ":" in host else _Server
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
        """Who asked has left: nobody is waiting for the answer."""


class _SixServer(_Server):
    address_family = socket.AF_INET6
