"""A server stops while telemetry cannot be exported: it ends within the stop timeout, and its loop keeps running."""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ai_otel.agent.node import Agent
from ai_otel.settings import Environment, Settings
from harness.server import free_port
from harness.telemetry.sink import listening

TESTS = Path(__file__).parents[1]
STOP_TIMEOUT_S = 3.0
TICK_S = 0.05
EXIT_S = 2.5
"""What the interpreter and uvicorn take themselves, on a busy machine."""

# One request of the engine, then a server whose loop says every 50 ms that it runs. "return" ends it from inside.
SERVER = f"""
import asyncio, sys, time
import ai_otel, fake_engine, uvicorn

handle = ai_otel.instrument()

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({{"type": message["type"] + ".complete"}})
        await send({{"type": "lifespan.shutdown.complete"}})

async def tick():
    while True:
        print(time.monotonic(), flush=True)
        await asyncio.sleep({TICK_S})

async def main():
    server = uvicorn.Server(uvicorn.Config(application, port=int(sys.argv[1]), log_level="critical"))
    ticking = asyncio.create_task(tick())
    if sys.argv[2] == "return":
        asyncio.get_running_loop().call_later(1.0, setattr, server, "should_exit", True)
    await server.serve()
    ticking.cancel()

with fake_engine.install() as engine:
    handle.watch({{"fake": fake_engine.ENGINE}})
    asyncio.run(fake_engine.collect(engine.Server().generate("a b")))
    handle.recorder.flush()
    asyncio.run(main())
"""


@contextmanager
def hanging() -> Iterator[str]:
    """The URL of an endpoint that accepts connections, and requests too, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def run(url: str, how: str, **environment: str) -> tuple[float, list[float]]:
    """Run the server and stop it: seconds from the request to stop to the end of the process, and the ticks in them."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(free_port()), how],
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(TESTS),
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "AI_OTEL_STOP_TIMEOUT": str(STOP_TIMEOUT_S),
            "AI_OTEL_GPU": "none",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        ticks = [float(process.stdout.readline())]
        while ticks[-1] - ticks[0] < 1.0:
            ticks.append(float(process.stdout.readline()))
        asked_s = time.monotonic()
        if how != "return":
            process.send_signal(signal.Signals[how])
        ticks += [float(line) for line in process.stdout]
        process.wait(60)
        return time.monotonic() - asked_s, [tick for tick in ticks if tick >= asked_s - 2 * TICK_S]
    finally:
        process.kill()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.fault(
    "export",
    "the collector accepts connections and never answers while a uvicorn server stops",
    "the process ends within `AI_OTEL_STOP_TIMEOUT`, exit handlers included; the event loop runs until then",
)
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "return"])
def test_a_server_ends_in_time_and_its_loop_runs(how: str) -> None:
    with hanging() as url:
        took_s, ticks = run(url, how)
    print(f"{how}: ended after {took_s:.2f} s, {len(ticks)} ticks")
    assert took_s <= STOP_TIMEOUT_S + EXIT_S
    assert ticks[-1] - ticks[0] >= STOP_TIMEOUT_S, "it did not wait at all"
    assert max(after - before for before, after in itertools.pairwise(ticks)) < STOP_TIMEOUT_S / 2


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "return"])
def test_a_server_exports_what_is_left_and_does_not_wait(how: str) -> None:
    with listening() as sink:
        took_s, _ = run(sink.url, how)
        assert took_s <= EXIT_S
        assert "chat tiny" in {span.name for span in sink.spans}
        assert sink.total("ai_otel.request.finished") == 1


@pytest.mark.fault(
    "export",
    "the endpoint of one signal never answers while a server stops",
    "the last values of the other signal are exported",
)
@pytest.mark.parametrize("signal_name", ["TRACES", "METRICS"])
def test_an_endpoint_that_hangs_does_not_cost_the_other_signal(signal_name: str) -> None:
    with listening() as sink, hanging() as url:
        took_s, _ = run(sink.url, "SIGTERM", **{f"OTEL_EXPORTER_OTLP_{signal_name}_ENDPOINT": f"{url}/v1/any"})
        assert took_s <= STOP_TIMEOUT_S + EXIT_S
        if signal_name == "TRACES":
            assert sink.total("ai_otel.request.finished") == 1
        else:
            assert "chat tiny" in {span.name for span in sink.spans}


@pytest.mark.fault(
    "gpu",
    "the collector accepts connections and never answers while the node agent stops",
    "the agent ends within `AI_OTEL_STOP_TIMEOUT`",
)
def test_the_agent_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    settings = Settings(agent_kubelet=str(tmp_path), agent_listen="127.0.0.1:0", gpu=("none",), stop_timeout=1.0)
    with hanging() as url:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        agent = Agent(settings, Environment.read({}))
        agent.start()
        time.sleep(0.5)  # an export begins
        started_s = time.monotonic()
        agent.stop()
        assert time.monotonic() - started_s <= 1.0 + EXIT_S
