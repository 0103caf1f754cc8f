"""
Where telemetry goes may be gone, silent or broken: requests do not notice, and the process still ends.

Each server is a process of its own that serves batches of requests on command, in turns with one that exports nothing:
what makes this machine slow for a while makes all of them slow.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.telemetry.receiver import receiver

TESTS = Path(__file__).parents[1]
STOP_TIMEOUT_S = 1.0
ROUNDS, REQUESTS = 5, 500

SERVER = f"""
import asyncio, json, sys, time
import ai_otel, fake_engine
from ai_otel.hooks import guard
handle = ai_otel.instrument()
WORDS = " ".join(str(number) for number in range(30))
with fake_engine.install() as engine:
    handle.watch({{"fake": fake_engine.ENGINE}})
    server = engine.Server()
    async def serve():
        took, right = [], True
        for _ in range({REQUESTS}):
            started = time.perf_counter()
            answer = await fake_engine.collect(server.generate(WORDS, request_id="r"))
            took.append(time.perf_counter() - started)
            right = right and answer == WORDS.split()
            await asyncio.sleep(0)
        return took, right
    print("ready", flush=True)
    for line in sys.stdin:
        took, right = asyncio.run(serve())
        errors = sum(guard.errors.values())
        print(json.dumps({{"took": took, "right": right, "errors": errors}}), flush=True)
"""


class Server:
    """One process that serves."""

    def __init__(self, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": str(TESTS),
                "AI_OTEL_STOP_TIMEOUT": str(STOP_TIMEOUT_S),
                # As busy as exporters get.
                "OTEL_BSP_SCHEDULE_DELAY": "100",
                "OTEL_METRIC_EXPORT_INTERVAL": "200",
                **environment,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the exporters complain there, at length
            text=True,
        )
        self.took: list[float] = []

    def ready(self) -> None:
        assert self._read() == "ready\n"

    def serve(self, *, kept: bool = True) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("serve\n")
        self._process.stdin.flush()
        result: dict[str, Any] = json.loads(self._read())
        assert result["right"]
        assert result["errors"] == 0
        if kept:
            self.took += result["took"]

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def end(self) -> float:
        """End as a server does at the end of its work; how long it took."""
        assert self._process.stdin is not None
        started = time.monotonic()
        self._process.stdin.close()
        code = self._process.wait(30)
        took = time.monotonic() - started
        assert code == 0
        assert self._process.stdout is not None
        self._process.stdout.close()
        return took

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def refused() -> Iterator[int]:
    """A port without a listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def black_hole() -> Iterator[int]:
    """A port whose listener reads everything and never answers."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take() -> None:
            while True:
                try:
                    held.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in held:
                connection.close()


@contextmanager
def broken() -> Iterator[int]:
    """A port where every request is an internal error."""
    with receiver(lambda _path, _body: (500, {})) as (_, url):
        yield int(url.rpartition(":")[2])


ENDPOINTS = {
    "refused": (refused, "http/protobuf"),
    "black hole": (black_hole, "http/protobuf"),
    "500": (broken, "http/protobuf"),
    "refused, gRPC": (refused, "grpc"),
    "black hole, gRPC": (black_hole, "grpc"),
}


@pytest.fixture(scope="module")
def measured() -> Iterator[tuple[Server, dict[str, Server]]]:
    """A server that exports nothing, and one for each bad endpoint; all have served in turns."""
    servers: dict[str, Server] = {}
    endpoints = {name: kind() for name, (kind, _) in ENDPOINTS.items()}
    baseline = Server(OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")
    try:
        for name, endpoint in endpoints.items():
            url = f"http://127.0.0.1:{endpoint.__enter__()}"
            protocol = ENDPOINTS[name][1]
            servers[name] = Server(OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
        everyone = [baseline, *servers.values()]
        for server in everyone:
            server.ready()
        for number in range(ROUNDS + 1):
            for server in everyone:
                server.serve(kept=number > 0)  # the first warms up
        yield baseline, servers
    finally:
        for server in [baseline, *servers.values()]:
            server.kill()
        for endpoint in endpoints.values():
            endpoint.__exit__(None, None, None)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.fault(
    "export", "the OTLP endpoint is closed, hangs, refuses or is slow", "requests are served as without ai-otel"
)
def test_requests_do_not_notice(measured: tuple[Server, dict[str, Server]], endpoint: str) -> None:
    baseline, servers = measured
    plain, troubled = (statistics.median(server.took) for server in (baseline, servers[endpoint]))
    print(f"{endpoint}: {troubled * 1e6:.0f} µs, {plain * 1e6:.0f} µs without an exporter")
    assert troubled <= 3 * plain


@pytest.fixture(scope="module")
def exit_s(measured: tuple[Server, dict[str, Server]]) -> float:
    """Seconds in which this interpreter ends without an exporter, on this machine at this time."""
    return measured[0].end()


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.fault(
    "export", "the OTLP endpoint hangs at the end of the process", "it ends within `AI_OTEL_STOP_TIMEOUT`"
)
def test_the_process_ends_in_time(measured: tuple[Server, dict[str, Server]], exit_s: float, endpoint: str) -> None:
    """The timeout is the exporters', the rest is the interpreter's; their own timeouts are ten times as long."""
    took_s = measured[1][endpoint].end()
    print(f"{endpoint}: ended after {took_s:.2f} s, {exit_s:.2f} s without an exporter")
    assert took_s <= 1.5 * STOP_TIMEOUT_S + 10 * exit_s


def test_without_an_exporter_the_process_does_not_wait(exit_s: float) -> None:
    assert exit_s < STOP_TIMEOUT_S
