"""
Pauses of an event loop that has nothing else to do.

The loop turns without rest, and each turn lets other threads in, as waiting for a socket does. A gap between two turns
keeps from running all that fell due within it. A percentile is that of the delay of a callback which falls due at
a random time: one gap of 20 ms in a second is 2 % of the time, and thus above the 99th percentile.

Time for which the loop's thread waits for a core, because other programs have them, is not counted.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

LEAST_S = 50e-6
"""Shorter gaps are turns of the loop itself."""


async def gaps(work: Awaitable[None], least_s: float) -> tuple[list[float], float]:
    """Run `work` beside a turning loop, for `least_s` seconds at least; the gaps, and the seconds it took."""
    task = asyncio.ensure_future(work)
    found: list[float] = []
    with queueing() as queued_s:
        queued, started = queued_s(), time.perf_counter()
        last = started
        while last < started + least_s or not task.done():
            await asyncio.sleep(0)
            now = time.perf_counter()
            if now - last > LEAST_S:
                before, queued = queued, queued_s()
                found.append(max(0.0, now - last - (queued - before)))
                now = time.perf_counter()
            last = now
    await task
    return found, last - started


@contextmanager
def queueing() -> Iterator[Callable[[], float]]:
    """How to read the seconds for which this thread has waited for a core; zero where the system does not report it."""
    try:
        file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    except OSError:
        yield lambda: 0.0
        return
    try:
        yield lambda: int(os.pread(file, 100, 0).split()[1]) / 1e9
    finally:
        os.close(file)


def delay(found: Sequence[float], total_s: float, share: float) -> float:
    """The delay that `share` of the time is not exceeded for what falls due then."""
    allowed, low, high = (1 - share) * total_s, 0.0, max(found, default=0.0)
    if sum(found) <= allowed:
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        if sum(gap - middle for gap in found if gap > middle) > allowed:
            low = middle
        else:
            high = middle
    return high


def summary(found: Sequence[float], total_s: float) -> dict[str, float]:
    """The percentiles, in milliseconds."""
    shares = {"p50": 0.5, "p99": 0.99}
    delays = {name: delay(found, total_s, share) * 1e3 for name, share in shares.items()}
    return delays | {"max": max(found, default=0.0) * 1e3}
