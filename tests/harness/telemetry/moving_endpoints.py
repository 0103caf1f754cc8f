"""Recorded metrics endpoints that advance: every tick adds the same, so each rate and share is known beforehand."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence

TICKS_PER_S = 100

Samples = Mapping[str, Sequence[float]]
"""What one tick adds to a histogram, value by value."""


class MovingPage:
    """
    A recorded endpoint in which some counters and histograms grow, and some gauges have another value.

    `adds` has what a tick adds to a sample, `shows` what a gauge shows, both by the beginning of the sample's line; the
    histograms grow by `samples`. Everything else stays as it was recorded.
    """

    def __init__(self, recorded: str, adds: Mapping[str, float], shows: Mapping[str, float], samples: Samples) -> None:
        self._lines = recorded.splitlines()
        self.adds, self.shows, self.samples = adds, shows, samples
        self._started = time.monotonic()
        self._stopped_at: int | None = None
        self._check()

    def stop(self) -> None:
        """Stand still from now on."""
        self._stopped_at = self.ticks

    @property
    def ticks(self) -> int:
        """How many there were."""
        passed = int((time.monotonic() - self._started) * TICKS_PER_S)
        return passed if self._stopped_at is None else self._stopped_at

    def text(self) -> str:
        """The page now."""
        ticks = self.ticks
        return "\n".join(self._line(line, ticks) for line in self._lines) + "\n"

    def value(self, beginning: str) -> float:
        """The sample on the present page whose line begins so."""
        found = [line for line in self.text().splitlines() if line.startswith(beginning)]
        assert len(found) == 1, found
        return float(found[0].rpartition(" ")[2])

    def _line(self, line: str, ticks: int) -> str:
        sample, _, value = line.rpartition(" ")
        for beginning, shown in self.shows.items():
            if line.startswith(beginning):
                return f"{sample} {shown}"
        return f"{sample} {float(value) + ticks * grown}" if (grown := self._grown(line)) else line

    def _grown(self, line: str) -> float:
        for beginning, added in self.adds.items():
            if line.startswith(beginning):
                return added
        for name, values in self.samples.items():
            if line.startswith(f"{name}_sum"):
                return sum(values)
            if line.startswith(f"{name}_count"):
                return len(values)
            if line.startswith(f"{name}_bucket"):
                return sum(value <= self._bound(line) for value in values)
        return 0

    @staticmethod
    def _bound(line: str) -> float:
        found = re.search(r'le="([^"]+)"', line)
        assert found is not None, line
        return float(found[1])

    def bounds(self, histogram: str) -> list[float]:
        """The bounds that the recorded engine has for a histogram."""
        return [self._bound(line) for line in self._lines if line.startswith(f"{histogram}_bucket")][:-1]

    def _check(self) -> None:
        """A beginning that no line has would change nothing, and prove nothing."""
        for beginning in (*self.adds, *self.shows, *(f"{name}_bucket" for name in self.samples)):
            assert any(line.startswith(beginning) for line in self._lines), beginning


class Moving(dict[str, str]):
    """Texts by path for `Pages`, rendered again at each read."""

    def __init__(self, pages: Mapping[str, MovingPage]) -> None:
        super().__init__()
        self._pages = pages

    def get(self, path: str, default: str | None = None) -> str | None:  # type: ignore[override]
        """The page at `path`, as it is now."""
        page = self._pages.get(path)
        return default if page is None else page.text()
