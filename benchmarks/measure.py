"""Measuring on a machine that is not quiet: everything in turn, round by round, and compared within a round."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Case = Callable[[int], float]
"""Runs so many requests and answers the seconds they took, on the clock of its choice."""


@dataclass(frozen=True)
class Figure:
    """One row: what was measured over all rounds, in `unit`; `limit` is what we aim at for the median."""

    name: str
    unit: str
    values: Sequence[float]
    limit: float | None = None

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        """One line for the table."""
        low, high = min(self.values), max(self.values)
        aim = "" if self.limit is None else f"  aim {self.limit:g}: {'met' if self.median <= self.limit else 'MISSED'}"
        return f"  {self.name:<58}{low:>9.2f}{self.median:>9.2f}{high:>9.2f} {self.unit:<3}{aim}"


def interleaved(cases: Mapping[str, Case], rounds: int, requests: int) -> dict[str, list[float]]:
    """Microseconds per request of each case in each round, after one round to warm up."""
    took: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, case in cases.items():
            gc.collect()
            seconds = case(requests)
            if turn:
                took[name].append(seconds / requests * 1e6)
    return took


def less(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Differences, round by round."""
    return [value - other for value, other in zip(values, base, strict=True)]


def over(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Ratios, round by round."""
    return [value / other for value, other in zip(values, base, strict=True)]


def on_this_thread(work: Callable[[], None]) -> float:
    """CPU seconds that `work` takes on this thread: what other threads and other programs do is not in it."""
    before = time.thread_time()
    work()
    return time.thread_time() - before


def on_all_threads(work: Callable[[], None]) -> float:
    """CPU seconds that `work` takes in this process."""
    before = time.process_time()
    work()
    return time.process_time() - before
