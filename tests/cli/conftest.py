"""What the tests of the commands share: the real command line, and servers on loopback that answer badly."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.server import free_port
from harness.telemetry.sink import Sink, listening

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sink() -> Iterator[Sink]:
    """An OTLP endpoint that takes everything."""
    with listening() as kept:
        yield kept


@pytest.fixture
def clean() -> dict[str, str]:
    """This environment without anything that configures telemetry; the lock files are still those of this run."""
    prefixes = ("OTEL_", "AI_OTEL_", "VLLM_", "PYTHONPATH", "COLUMNS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return {**kept, "AI_OTEL_LOCK_DIR": os.environ["AI_OTEL_LOCK_DIR"]}


@pytest.fixture
def ai_otel(clean: dict[str, str]) -> Command:
    """Run the command line as a user does, in a process of its own."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ai_otel.cli", *words],
            env={**clean, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


@pytest.fixture
def answering() -> Callable[..., AbstractContextManager[str]]:
    """An HTTP server that gives every request the same answer."""
    return _answering


@contextmanager
def _answering(
    status: int, headers: Mapping[str, str] | None = None, body: bytes = b"", certificate: Path | None = None
) -> Iterator[str]:

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed_port() -> str:
    """The URL of a port without a listener."""
    return f"http://127.0.0.1:{free_port()}"
