"""How often something is done that must not cost much: as often as wanted, and less where it takes long."""

from __future__ import annotations

MOST = 0.05
"""The largest share of its interval that a look may take."""
LONGEST_S = 60.0


class Pace:
    """When the next look is due. `skipped` counts those that were left out."""

    def __init__(self, interval_s: float) -> None:
        self.wanted_s = interval_s
        self.interval_s = interval_s
        self.due_s = float("-inf")
        self.skipped = 0

    def due(self, now_s: float) -> bool:
        """Whether it is time."""
        return now_s >= self.due_s

    def took(self, started_s: float, ended_s: float, waited_s: float = 0.0) -> None:
        """
        A look is over: above its share the interval doubles, well below it is halved again.

        `waited_s` of it was not the devices' doing; only when a look does not fit into its interval it counts as well.
        """
        took_s = ended_s - started_s
        if took_s <= self.interval_s:
            took_s -= waited_s
        if took_s > MOST * self.interval_s:
            self.interval_s = max(self.wanted_s, min(2 * self.interval_s, LONGEST_S))
        elif took_s < MOST * self.interval_s / 4:
            self.interval_s = max(self.wanted_s, self.interval_s / 2)
        # From when it should have begun, so that a late look does not shift all that follow.
        planned_s = self.due_s if started_s - self.due_s < self.interval_s else started_s
        self.due_s = max(planned_s + self.interval_s, ended_s)
        self.skipped += int((self.due_s - started_s) / self.wanted_s + 0.5) - 1 if self.wanted_s else 0
