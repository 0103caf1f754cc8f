"""The comparison of real servers: what its client sees, and how figures are compared."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import held
import load
import pytest
import vllm_ab
import vllm_servers

EVENT = b'data: {"choices": []}\n\n'


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server of streams (`/stream`), of calls, and of refusals (`/refused`)."""
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        path = head.split()[1]
        if path == b"/stream":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for part in (EVENT, EVENT[:4], EVENT[4:], EVENT, b"data: [DONE]\n\n"):
                writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                await writer.drain()
                await asyncio.sleep(0.02)
            writer.write(b"0\r\n")
            await asyncio.sleep(0.02)
            writer.write(b"\r\n")
        else:
            status = b"503 Busy" if path == b"/refused" else b"200 OK"
            writer.write(b"HTTP/1.1 %s\r\ncontent-length: 2\r\n\r\n" % status)
            await asyncio.sleep(0.02)
            writer.write(b"{}")


async def driven(*clients: tuple[int, list[bytes]]) -> dict[str, float]:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        return await asyncio.wait_for(load.drive(server.sockets[0].getsockname()[1], clients), 20)
    finally:
        server.close()


def test_client_sees_calls_and_the_events_of_streams() -> None:
    calls, streams = [load.request("/call", {"a": 1})] * 6, [load.request("/stream", {})] * 4
    found = asyncio.run(driven((2, calls), (2, streams)))
    assert found["call_p50"] >= 20
    assert found["first_p99"] >= found["first_p50"] > 0
    assert found["between_p99"] >= found["between_p50"] >= 5
    assert 0 < found["throughput"] < 100


def test_an_event_in_two_parts_is_one() -> None:
    async def run() -> load.Times:
        times = load.Times()
        connection = load.Connection(iter([]), times)
        connection._head, connection._buffer, connection._events = b"", b"", 0
        connection._began = connection._last = time.perf_counter()
        for part in (EVENT[:3], EVENT[3:], EVENT + EVENT[:6], EVENT[6:], EVENT + EVENT):
            connection.data_received(part)
        return times

    times = asyncio.run(run())
    assert (len(times.first_s), len(times.between_s)) == (1, 4)
    assert times.between_s[-1] == times.between_s[-2] > 0


def test_failed_requests_end_the_benchmark() -> None:
    with pytest.raises(load.LoadError, match="2 requests 2 ended and 1 failed"):
        asyncio.run(driven((1, [load.request("/call", {}), load.request("/refused", {})])))


def test_figures_are_compared_within_a_round() -> None:
    rounds = [
        {"bare": {"throughput": 100.0 * speed}, "ai-otel": {"throughput": 98.0 * speed}, "own": {"throughput": 50.0}}
        for speed in (1.0, 3.0, 2.0)
    ]
    (row,) = vllm_ab.compared(rounds)
    assert (row["name"], row["bare"]) == ("requests per second", 200.0)
    assert row["others"]["ai-otel"] == {"ratio": 0.98, "low": -0.02, "high": -0.02}
    assert row["others"]["own"]["low"] < -0.6 < row["others"]["own"]["high"]


def test_cpu_time_of_another_process_is_read_by_its_clock() -> None:
    before = time.process_time()
    assert vllm_servers.cpu_s(os.getpid()) == pytest.approx(before, abs=0.5)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        try:
            assert process.pid in vllm_servers.descendants(os.getpid())
            assert vllm_servers.cpu_s(process.pid) < 10
        finally:
            process.kill()


def test_samples_of_the_lock_belong_to_the_innermost_package() -> None:
    site = "/env/lib/python3.11/site-packages"
    emitting = f"run (/usr/threading.py);drain ({site}/ai_otel/recorder.py);end ({site}/opentelemetry/sdk/trace.py)"
    hooked = f"serve ({site}/uvicorn/server.py);wrap ({site}/ai_otel/hooks/patch.py)"
    text = "\n".join(
        [
            f"{hooked};generate ({site}/vllm/async_llm.py);dumps (/usr/json/__init__.py) 60",
            f"{hooked};time (/usr/time.py) 10",
            f"{emitting} 30",
        ]
    )
    assert held.shares(text) == {"the server": 0.6, "OpenTelemetry SDK": 0.3, "ai-otel": 0.1}
    assert held.innermost(text, "ai-otel") == [(f"wrap ({site}/ai_otel/hooks/patch.py)", 0.1)]
