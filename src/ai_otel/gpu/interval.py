"""Adaptive sampling interval: bounds the share of time that sampling takes."""

from __future__ import annotations

MAX_SHARE = 0.05
"""Largest share of the interval that one sample may take."""
MAX_INTERVAL_S = 60.0


class SamplingInterval:
    """
    When the next sample is due, in seconds of one monotonic clock.

    `skipped` counts the samples left out because the interval was extended.
    """

    def __init__(self, interval_s: float) -> None:
        self.configured_s = interval_s
        self.interval_s = interval_s
        self.due_s = float("-inf")
        self.skipped = 0

    def due(self, now_s: float) -> bool:
        """Return whether the next sample is due."""
        return now_s >= self.due_s

    def record(self, started_s: float, ended_s: float, waited_s: float = 0.0) -> None:
        """
        Record a finished sample: the interval doubles above `MAX_SHARE` and halves again well below it.

        `waited_s` is the part of the duration not spent on the devices. It counts only if the sample took longer than
        its interval.
        """
        took_s = ended_s - started_s
        if took_s <= self.interval_s:
            took_s -= waited_s
        if took_s > MAX_SHARE * self.interval_s:
            self.interval_s = max(self.configured_s, min(2 * self.interval_s, MAX_INTERVAL_S))
        elif took_s < MAX_SHARE * self.interval_s / 4:
            self.interval_s = max(self.configured_s, self.interval_s / 2)
        # Counted from the planned start, so that one late sample does not shift the following ones.
        planned_s = self.due_s if started_s - self.due_s < self.interval_s else started_s
        self.due_s = max(planned_s + self.interval_s, ended_s)
        if self.configured_s:
            # The sample after a late one follows early: the count must not fall.
            self.skipped += max(0, int((self.due_s - started_s) / self.configured_s + 0.5) - 1)
