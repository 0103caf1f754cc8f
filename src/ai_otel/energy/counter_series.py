"""
What one device's energy counter said, and when: the energy between two moments of the last ten minutes.

A device writes its counter every 100 ms or so, and we look at it about as often. Between two looks that differ, the
counter was written at a moment that we do not know: the middle is taken, which is right on average. Between these
moments the energy is laid out evenly.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from statistics import median

_QUANTA = 31
"""Of how many last changes the quantum is the median."""


class EnergyRing:
    """
    One device's energy over time, in joules since it was first read, made whole over resets of the counter.

    What lies between two readings that a reset, a loss or more than `gap_s` parts is a gap: how much energy it took is
    known, when is not.
    """

    def __init__(self, *, span_s: float = 600.0, gap_s: float = 5.0) -> None:
        self._span_s = span_s
        self._gap_s = gap_s
        self._times = array("d")
        self._energies = array("d")
        self._gaps: deque[tuple[float, float]] = deque()
        self._counter_j: float | None = None
        self._looked_s = 0.0
        self._changed_s = 0.0
        self._parted = False
        self._quanta: deque[float] = deque(maxlen=_QUANTA)
        self.quantum_s: float | None = None
        """What time we can tell apart: how long it usually takes until the counter is seen to change."""

    @property
    def first_s(self) -> float | None:
        """From when on the energy is known."""
        return self._times[0] if self._times else None

    @property
    def last_s(self) -> float | None:
        """Until when the energy is known."""
        return self._times[-1] if self._times else None

    def add(self, time_s: float, counter_j: float) -> bool:
        """Take one look at the counter; whether it has changed. Times only grow: an older one is ignored."""
        before_j = self._counter_j
        if before_j is None:
            self._counter_j, self._looked_s, self._changed_s = counter_j, time_s, time_s
            self._append(time_s, 0.0)
            return True
        if time_s <= self._looked_s:
            return False
        looked_s, self._looked_s = self._looked_s, time_s
        if counter_j == before_j:
            return False
        reset = counter_j < before_j
        self._counter_j = counter_j
        late_s = time_s - looked_s
        if self.quantum_s is not None:
            late_s = min(late_s, self.quantum_s)
        changed_s = max(time_s - late_s / 2, self._times[-1])
        if reset or self._parted or changed_s - self._times[-1] > self._gap_s:
            self._gaps.append((self._times[-1], changed_s))
        else:
            self._quanta.append(time_s - self._changed_s)
            self.quantum_s = median(self._quanta)
        self._parted = False
        self._changed_s = time_s
        # After a reset the counter holds what was used since: that much, at least, belongs to the time between.
        self._append(changed_s, self._energies[-1] + (counter_j if reset else counter_j - before_j))
        return True

    def lose(self, time_s: float) -> None:
        """The device did not answer: nothing is known from its last change to its next one."""
        if self._counter_j is not None:
            self._parted = True
            self._looked_s = max(self._looked_s, time_s)

    def until(self, time_s: float) -> float | None:
        """Joules from the first reading to `time_s`; in a gap, as if its energy had been used evenly."""
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
        """Joules from `start_s` to `end_s`; `None` where any part of that time is not known."""
        start_j, end_j = self.until(start_s), self.until(end_s)
        if start_j is None or end_j is None or self.parted(start_s, end_s):
            return None
        return end_j - start_j

    def parted(self, start_s: float, end_s: float) -> bool:
        """Whether a gap reaches into this time."""
        return any(start_s < until_s and since_s < end_s for since_s, until_s in self._gaps)

    def _append(self, time_s: float, energy_j: float) -> None:
        self._times.append(time_s)
        self._energies.append(energy_j)
        old = bisect_left(self._times, time_s - self._span_s)
        if old > len(self._times) // 2:
            # In halves, so that forgetting costs nothing on most looks.
            del self._times[:old], self._energies[:old]
            while self._gaps and self._gaps[0][1] < self._times[0]:
                self._gaps.popleft()


class IdleFloor:
    """The power that a device draws with nothing to do: a low quantile of what was seen in the last minutes of it."""

    QUANTILE = 0.1
    KEPT = 3000

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self.power_w: float | None = None

    def add(self, power_w: float) -> None:
        """One more stretch of time without a request."""
        if len(self._recent) == self.KEPT:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._recent.append(power_w)
        self._sorted.insert(bisect_right(self._sorted, power_w), power_w)
        self.power_w = self._sorted[int(self.QUANTILE * (len(self._sorted) - 1))]
