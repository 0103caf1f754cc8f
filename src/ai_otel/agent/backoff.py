"""When a source that failed is asked again: the wait doubles with each failure, up to a limit, and never ends."""

from __future__ import annotations

import random
from collections.abc import Callable

JITTER = 0.2
"""Share of a wait that is random, so that the agents of all nodes do not ask one server at the same time."""
MOST_DOUBLINGS = 16

Jitter = Callable[[], float]


class Backoff:
    """The failures of one source. `jitter` returns a number from 0 to 1. Times are in seconds."""

    def __init__(self, first_s: float, jitter: Jitter = random.random) -> None:
        self._first_s = first_s
        self._jitter = jitter
        self._wait_s = 0.0
        self._until_s = float("-inf")
        self.in_a_row = 0
        self.failures = 0
        """Number of all failures."""

    def failed(self, now_s: float, most_s: float) -> None:
        """Count a failure. The next wait is at most `most_s`, or the first wait if that is longer."""
        self.failures += 1
        self.in_a_row = min(self.in_a_row + 1, MOST_DOUBLINGS)
        longest_s = max(most_s, self._first_s)
        self._wait_s = self.shortened(min(self._first_s * 2.0**self.in_a_row, longest_s))
        self._until_s = now_s + self._wait_s

    def answered(self) -> None:
        """Ask at the usual interval again."""
        self.in_a_row, self._until_s = 0, float("-inf")

    def due(self, now_s: float) -> bool:
        """Return whether the source may be asked."""
        return now_s >= self._until_s

    @property
    def wait_s(self) -> float:
        """Seconds from the last call to the next one."""
        return self._wait_s if self.in_a_row else self._first_s

    def shortened(self, wait_s: float) -> float:
        """Return a wait less its random part."""
        return wait_s * (1 - JITTER * self._jitter())
