"""
One device's energy counter as a time series: the energy between two times of the last ten minutes.

A device updates its counter about every 100 ms and is sampled about as often. The time of an update between two
samples is unknown: the middle is used, which is right on average. Energy is interpolated linearly between updates.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from statistics import median

_QUANTA = 31
"""Number of recent updates whose median interval is the quantum."""


class EnergyCounterSeries:
    """
    One device's energy over time, in joules since its first sample. The counter is corrected for resets before.

    A reset, a lost device (`lose`), or more than `gap_s` seconds between two updates makes a gap: its energy is known,
    but not when it was used.
    """

    def __init__(self, *, span_s: float = 600.0, gap_s: float = 5.0) -> None:
        self._span_s = span_s
        self._gap_s = gap_s
        self._times = array("d")
        self._energies = array("d")
        self._gaps: deque[tuple[float, float]] = deque()
        self._counter_j: float | None = None
        self._sampled_s = 0.0
        self._changed_s = 0.0
        self._interrupted = False
        self._quanta: deque[float] = deque(maxlen=_QUANTA)
        self.quantum_s: float | None = None
        """Resolution in seconds: the usual time between two updates of the counter."""

    @property
    def first_s(self) -> float | None:
        """Start of the known energy."""
        return self._times[0] if self._times else None

    @property
    def last_s(self) -> float | None:
        """End of the known energy."""
        return self._times[-1] if self._times else None

    def add(self, time_s: float, counter_j: float) -> bool:
        """Add one sample, and return whether the counter has grown. Samples out of order are ignored."""
        before_j = self._counter_j
        if before_j is None:
            self._counter_j, self._sampled_s, self._changed_s = counter_j, time_s, time_s
            self._append(time_s, 0.0)
            return True
        if time_s <= self._sampled_s:
            return False
        sampled_s, self._sampled_s = self._sampled_s, time_s
        if counter_j <= before_j:
            return False
        self._counter_j = counter_j
        late_s = time_s - sampled_s
        if self.quantum_s is not None:
            late_s = min(late_s, self.quantum_s)
        changed_s = max(time_s - late_s / 2, self._times[-1])
        if self._interrupted or changed_s - self._times[-1] > self._gap_s:
            self._gaps.append((self._times[-1], changed_s))
        else:
            self._quanta.append(time_s - self._changed_s)
            self.quantum_s = median(self._quanta)
        self._interrupted = False
        self._changed_s = time_s
        self._append(changed_s, self._energies[-1] + counter_j - before_j)
        return True

    def lose(self, time_s: float) -> None:
        """Mark the device as lost, or its counter as reset: there is a gap from its last update to the next one."""
        if self._counter_j is not None:
            self._interrupted = True
            self._sampled_s = max(self._sampled_s, time_s)

    def until(self, time_s: float) -> float | None:
        """Return joules from the first sample to `time_s`; in a gap, interpolated linearly."""
        times = self._times
        if not times or not times[0] <= time_s <= times[-1]:
            return None
        place = bisect_right(times, time_s)
        if place == len(times):
            return self._energies[-1]
        start_s, end_s = times[place - 1], times[place]
        start_j, end_j = self._energies[place - 1], self._energies[place]
        return start_j + (end_j - start_j) * ((time_s - start_s) / (end_s - start_s))

    def between(self, start_s: float, end_s: float) -> float | None:
        """Return joules from `start_s` to `end_s`; `None` if that time reaches into a gap."""
        start_j, end_j = self.until(start_s), self.until(end_s)
        if start_j is None or end_j is None or self.has_gap(start_s, end_s):
            return None
        return end_j - start_j

    def has_gap(self, start_s: float, end_s: float) -> bool:
        """Whether a gap overlaps this time."""
        return any(start_s < until_s and since_s < end_s for since_s, until_s in self._gaps)

    def _append(self, time_s: float, energy_j: float) -> None:
        self._times.append(time_s)
        self._energies.append(energy_j)
        old = bisect_left(self._times, time_s - self._span_s)
        if old > len(self._times) // 2:
            # In halves, so that most samples delete nothing.
            del self._times[:old], self._energies[:old]
            while self._gaps and self._gaps[0][1] < self._times[0]:
                self._gaps.popleft()


class IdleFloor:
    """The power of an idle device in watts: a low quantile over the last minutes of idle time."""

    QUANTILE = 0.1
    KEPT = 3000

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self.power_w: float | None = None

    def add(self, power_w: float) -> None:
        """Add the mean power of a bin without requests."""
        if len(self._recent) == self.KEPT:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._recent.append(power_w)
        self._sorted.insert(bisect_right(self._sorted, power_w), power_w)
        self.power_w = self._sorted[int(self.QUANTILE * (len(self._sorted) - 1))]
