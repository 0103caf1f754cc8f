"""Measuring on a machine that is not quiet: everything in turn, round by round, and compared within a round."""

from __future__ import annotations

import gc
import math
import operator
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

HEAD = f"  {'':<66}{'median':>11}{'best':>11}{'worst':>11}{'of SDK':>9}"
"""Above rows of figures."""

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

    @property
    def worst(self) -> float:
        """What the noise of the machine made of it."""
        return max(self.values)

    def __sub__(self, other: Series) -> Series:
        """How much more, round by round."""
        return self._with(other, operator.sub)

    def __add__(self, other: Series) -> Series:
        """The sum, round by round."""
        return self._with(other, operator.add)

    def __truediv__(self, other: Series) -> Series:
        """How many times as much, round by round; not a number where the other is nothing."""
        return self._with(other, lambda a, b: a / b if b > 0 else math.nan)

    def _with(self, other: Series, combine: Callable[[float, float], float]) -> Series:
        pairs = zip(self.values, other.values, strict=True)
        return Series([combine(*pair) for pair in pairs], combine(self.best, other.best))

    def each(self, count: float) -> Series:
        """The part of one among so many."""
        return Series([value / count for value in self.values], self.best / count)


@dataclass(frozen=True)
class Figure:
    """One row of a table; `ratio` is the same figure as a multiple of the plain SDK's, round by round."""

    name: str
    unit: str
    series: Series
    aim: float | None = None
    """What the median should not exceed."""
    key: str = ""
    """By which the targets and the page find it."""
    ratio: Series | None = None

    def __str__(self) -> str:
        """One line."""
        series = self.series
        ratio = f"{self.ratio.median:>9.2f}" if self.ratio is not None else f"{'':>9}"
        numbers = "".join(f"{number:>11.2f}" for number in (series.median, series.best, series.worst))
        aim = "" if self.aim is None else f"  limit {self.aim:g}: {'met' if series.median <= self.aim else 'NOT MET'}"
        return f"  {self.name:<66}{numbers}{ratio} {self.unit:<3}{aim}".rstrip()


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


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of paired differences, by Student's t distribution."""
    count = len(differences)
    if count < 2:
        return -math.inf, math.inf
    mean = statistics.fmean(differences)
    half = student(count - 1) * statistics.stdev(differences) / math.sqrt(count)
    return mean - half, mean + half


_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def student(degrees: int) -> float:
    """The factor of a 95 % interval, two-sided, with so many degrees of freedom."""
    return _STUDENT[degrees - 1] if degrees <= len(_STUDENT) else 1.96 + 2.4 / degrees


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed, by nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
