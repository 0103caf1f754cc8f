"""Sums and states of engines, as plain data; read when metrics are collected. Imports nothing of the package."""

from __future__ import annotations

from collections.abc import Iterator

Labels = tuple[tuple[str, str | int | bool], ...]


class EngineCounter:
    """
    Sums and states of one engine, read when metrics are collected.

    Adding is a dictionary update, so an engine's statistics can be followed at every iteration without recording
    anything through OpenTelemetry. Keys are metric names of the contract and closed sets of labels.
    """

    __slots__ = ("labels", "states", "sums")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.sums: dict[tuple[str, Labels], int | float] = {}
        self.states: dict[tuple[str, Labels], int | float] = {}

    def add(self, metric: str, amount: float, labels: Labels = ()) -> None:
        """Add to a sum that only grows: what engines report as less than nothing is left out."""
        self.add_to((metric, labels), amount)

    def add_to(self, key: tuple[str, Labels], amount: float) -> None:
        """As `add`, for who keeps the pair of metric and labels."""
        if amount >= 0:
            self.sums[key] = self.sums.get(key, 0) + amount

    def set(self, metric: str, value: float, labels: Labels = ()) -> None:
        """Replace the present value of a state."""
        self.states[metric, labels] = value


class EngineCounters:
    """All counters of this process."""

    def __init__(self) -> None:
        self._counters: dict[Labels, EngineCounter] = {}

    def of(self, labels: Labels) -> EngineCounter:
        """Return the counter with these labels; the first call makes it."""
        counter = self._counters.get(labels)
        if counter is None:
            counter = self._counters.setdefault(labels, EngineCounter(labels))
        return counter

    def values(self, metric: str) -> Iterator[tuple[dict[str, str | int | bool], int | float]]:
        """Yield labels and value of each series of this metric; unknown values are absent."""
        for counter in list(self._counters.values()):
            for known in (counter.sums, counter.states):
                for (name, labels), value in list(known.items()):
                    if name == metric:
                        yield dict((*counter.labels, *labels)), value

    def clear(self) -> None:
        """Remove all."""
        self._counters.clear()
