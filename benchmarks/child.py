"""
A server in a process of its own: `python benchmarks/child.py VARIANT RECIPE`, driven by lines of JSON on its input.

Each line is one action of `Actions`: its name under `do`, its arguments beside it. The answer is one line of JSON.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pauses
from variants import VARIANTS, AiOtel, Prometheus, Server

STEP_S = 0.01
"""Of the engine: requests that end within one end together."""


class Actions:
    """What can be measured of a server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._run = server.loop.run_until_complete

    def serve(self, count: int, rate: float) -> dict[str, float]:
        """
        Serve at a rate, some requests at each step of the engine, until all their telemetry is acknowledged.

        `process` is the CPU time of the whole process, `thread` that of the thread that serves until the last response:
        the rest is spent by threads that emit.
        """
        gc.collect()
        process, thread = time.process_time(), time.thread_time()
        self._run(self._arrive(count, rate))
        served = time.thread_time()
        assert self.server.settle()
        return {"process": time.process_time() - process, "thread": served - thread}

    async def _arrive(self, count: int, rate: float) -> None:
        started, served = time.perf_counter(), 0
        while served < count:
            due = min(count, int((time.perf_counter() - started) * rate) + 1)
            for _ in range(due - served):
                await self.server.exchange()
            served = due
            await asyncio.sleep(STEP_S)

    def path(self, count: int, chunks: int, http: bool) -> float:
        """CPU seconds of the thread that serves, for requests without a pause."""
        one = self.server.exchange if http else self.server.generate

        async def all_of_them() -> None:
            for _ in range(count):
                await one(chunks)

        gc.collect()
        before = time.thread_time()
        self._run(all_of_them())
        taken = time.thread_time() - before
        assert self.server.settle()
        return taken

    def step(self, count: int) -> float:
        """CPU seconds that ai-otel's stat logger adds to so many of the engine's steps."""
        assert isinstance(self.server, AiOtel)
        scheduler, iteration = self.server.vllm.SchedulerStats(), self.server.vllm.IterationStats()
        record = self.server.statistics.record
        before = time.thread_time()
        for _ in range(count):
            record(scheduler, iteration)
        return time.thread_time() - before

    def pause(self, count: int, seconds: float, export: bool) -> dict[str, float]:
        """Pauses of the loop after so many requests end in a row; with `export`, while their batch is exported."""
        server = self.server

        async def end() -> None:
            for _ in range(count):
                await server.exchange()
                await asyncio.sleep(0)

        async def flush() -> None:
            assert await server.loop.run_in_executor(None, server.settle)

        gc.collect()
        if export:
            self._run(end())
        found, total_s = self._run(pauses.gaps(flush() if export else end(), seconds))
        assert server.settle()
        return pauses.summary(found, total_s)

    def flood(self, rate: float, seconds: float) -> dict[str, Any]:
        """Serve at a rate, with the memory of the process every half second."""
        sizes: list[float] = []
        served = self._run(self._flood(rate, seconds, sizes))
        return {"mib": sizes, "served": served, "rate": served / seconds}

    async def _flood(self, rate: float, seconds: float, sizes: list[float]) -> int:
        started, served, measured = time.perf_counter(), 0, 0.0
        while (elapsed := time.perf_counter() - started) < seconds:
            if elapsed >= measured:
                sizes.append(resident_mib())
                measured += 0.5
            for _ in range(min(200, int(elapsed * rate) - served)):
                await self.server.exchange()
                served += 1
            await asyncio.sleep(0.002)
        return served

    def flush(self) -> bool:
        """Export what is left; whether all of it was acknowledged."""
        return self.server.settle()

    def scraped(self) -> str:
        """The last scrape."""
        assert isinstance(self.server, Prometheus)
        return self.server.scraped


def resident_mib() -> float:
    """The process's resident memory; where the system does not report it, the largest that it was."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    server = VARIANTS[sys.argv[1]]()
    server.start(json.loads(Path(sys.argv[2]).read_text()))
    actions = Actions(server)
    answers.write("true\n")
    for line in sys.stdin:
        action = json.loads(line)
        answer = functools.partial(getattr(actions, action.pop("do")), **action)
        answers.write(json.dumps(answer()) + "\n")
    os._exit(0)


if __name__ == "__main__":
    main()
