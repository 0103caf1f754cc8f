"""An application that forks while ai-otel starts: right after the first request, at random times."""

from __future__ import annotations

import pytest

from harness.telemetry.sink import Sink, listening
from isolated import python

ROUNDS = 5

# The child imports what ai-otel imports in the background, and serves one request. One that `multiprocessing` started
# exports its span by itself when it ends.
APPLICATION = """
import asyncio, multiprocessing, os, random, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
import ai_otel, fake_engine

handle = ai_otel.instrument()

def serve():
    asyncio.run(fake_engine.collect(server.generate("a b")))

def work():
    signal.alarm(30)  # a child that hangs dies of it
    import opentelemetry.sdk.metrics, opentelemetry.sdk.trace, requests
    serve()
    assert sys.argv[1] == "pool" or handle.flush(20)
    return os.getpid()

def fork():
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child

with fake_engine.install() as engine:
    handle.watch({"fake": fake_engine.ENGINE})
    server = engine.Server()
    serve()
    start, times = time.monotonic(), sorted(random.Random(int(sys.argv[2])).uniform(0, 0.6) for _ in range(3))
    if sys.argv[1] == "pool":
        time.sleep(times[0])
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
            print(*{future.result() for future in [pool.submit(work) for _ in range(3)]})
    else:
        children = []
        for at_s in times:
            time.sleep(max(0.0, start + at_s - time.monotonic()))
            children.append(fork())
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert ended == [0, 0, 0], ended
        print(*children)
"""


def run(kind: str, seed: int, sink: Sink) -> set[int]:
    """Run the application; the process ids of the children that served a request."""
    printed = python(
        APPLICATION,
        kind,
        str(seed),
        limit_s=90,
        PYTHONWARNINGS="ignore::DeprecationWarning",
        OTEL_EXPORTER_OTLP_ENDPOINT=sink.url,
        OTEL_BSP_SCHEDULE_DELAY="50",
        OTEL_METRIC_EXPORT_INTERVAL="100",
    )
    return {int(pid) for pid in printed.split()}


@pytest.mark.fault(
    "requests",
    "the application forks, or starts a `ProcessPoolExecutor`, right after its first request",
    "the fork waits for the imports in the background, no child hangs, and the spans of every child arrive",
)
@pytest.mark.fault(
    "export",
    "a process of `multiprocessing` ends right after its last request, without exit handlers (`os._exit`)",
    "its telemetry is exported before, within `AI_OTEL_STOP_TIMEOUT`",
)
@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("kind", ["fork", "pool"])
def test_no_child_hangs_and_each_is_observed(kind: str, seed: int) -> None:
    with listening() as sink:
        children = run(kind, seed, sink)
        assert children
        assert children <= {span.resource["process.pid"] for span in sink.spans if span.name == "chat tiny"}
