"""Measuring on a machine that is not quiet: everything in turn, round by round, and compared within a round."""

from __future__ import annotations

import gc
import operator
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Case = Callable[[int], float]
"""Runs so many requests and answers the seconds they took, on the clock of its choice."""


@dataclass(frozen=True)
class Series:
    """One value a round. `best` is what it is where nothing disturbs: what disturbs a round only ever adds."""

    values: Sequence[float]
    best: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Series:
        """Measured values, of which the least is the best."""
        return cls(values, min(values))

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.values)

    def __sub__(self, other: Series) -> Series:
        """How much more, round by round."""
        return self._with(other, operator.sub)

    def __truediv__(self, other: Series) -> Series:
        """How many times as much, round by round."""
        return self._with(other, operator.truediv)

    def _with(self, other: Series, combine: Callable[[float, float], float]) -> Series:
        pairs = zip(self.values, other.values, strict=True)
        return Series([combine(*pair) for pair in pairs], combine(self.best, other.best))

    def each(self, count: int) -> Series:
        """The part of one among so many."""
        return Series([value / count for value in self.values], self.best / count)


@dataclass(frozen=True)
class Figure:
    """One row of the table; `aim` is what the median should not exceed."""

    name: str
    unit: str
    series: Series
    aim: float | None = None

    def __str__(self) -> str:
        """One line."""
        series = self.series
        numbers = "".join(f"{number:>9.2f}" for number in (series.best, series.median, max(series.values)))
        aim = "" if self.aim is None else f"  aim {self.aim:g}: {'met' if series.median <= self.aim else 'missed'}"
        return f"  {self.name:<58}{numbers} {self.unit:<3}{aim}".rstrip()


def interleaved(cases: Mapping[str, Case], rounds: int, requests: int) -> dict[str, Series]:
    """Microseconds per request of each case in each round, after one round to warm up."""
    took: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, case in cases.items():
            gc.collect()
            seconds = case(requests)
            if turn:
                took[name].append(seconds / requests * 1e6)
    return {name: Series.of(values) for name, values in took.items()}


def on_this_thread(work: Callable[[], None]) -> float:
    """CPU seconds that `work` takes on this thread: what other threads and other programs do is not in it."""
    before = time.thread_time()
    work()
    return time.thread_time() - before
