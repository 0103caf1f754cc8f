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
    """
    One row: what was measured over all rounds, in `unit`; `aim` is what the median should not exceed.

    With `base` it is the ratio of the two, round by round; the best of it is the ratio of the two best, because what
    disturbs a round only ever adds.
    """

    name: str
    unit: str
    measured: Sequence[float]
    base: Sequence[float] | None = None
    aim: float | None = None

    @property
    def values(self) -> list[float]:
        """One value a round."""
        if self.base is None:
            return list(self.measured)
        return [value / other for value, other in zip(self.measured, self.base, strict=True)]

    @property
    def best(self) -> float:
        """What it is where nothing disturbs."""
        return min(self.measured) / (min(self.base) if self.base is not None else 1.0)

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        """One line for the table."""
        aim = "" if self.aim is None else f"  aim {self.aim:g}: {'met' if self.median <= self.aim else 'missed'}"
        worst = max(self.values)
        return f"  {self.name:<58}{self.best:>9.2f}{self.median:>9.2f}{worst:>9.2f} {self.unit:<3}{aim}".rstrip()


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


def on_this_thread(work: Callable[[], None]) -> float:
    """CPU seconds that `work` takes on this thread: what other threads and other programs do is not in it."""
    before = time.thread_time()
    work()
    return time.thread_time() - before
