"""Sums and states of engines, as plain data; read when metrics are collected. Imports nothing of the package."""

from __future__ import annotations

from collections.abc import Iterator

Labels = tuple[tuple[str, str | int | bool], ...]


class Cell:
    """One sum or state; `value` is `None` as long as it is unknown."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: int | float | None = None

    def add(self, amount: float) -> None:
        """Add to a sum that only grows: what engines report as less than nothing is left out."""
        if amount >= 0:
            self.value = (self.value or 0) + amount


class EngineCounter:
    """
    Sums and states of one engine, read when metrics are collected.

    Who adds at each iteration of an engine keeps the cells: adding is an attribute that is written, and nothing is
    recorded through OpenTelemetry. Metrics are names of the contract, labels closed sets.
    """

    __slots__ = ("cells", "labels")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.cells: dict[tuple[str, Labels], Cell] = {}

    def cell(self, metric: str, labels: Labels = ()) -> Cell:
        """The cell of one series."""
        found = self.cells.get((metric, labels))
        return found if found is not None else self.cells.setdefault((metric, labels), Cell())

    def add(self, metric: str, amount: float, labels: Labels = ()) -> None:
        """Add to a sum."""
        self.add_to((metric, labels), amount)

    def add_to(self, key: tuple[str, Labels], amount: float) -> None:
        """As `add`, for who keeps the pair of metric and labels."""
        found = self.cells.get(key)
        (found if found is not None else self.cell(*key)).add(amount)

    def set(self, metric: str, value: float, labels: Labels = ()) -> None:
        """Replace the present value of a state."""
        self.cell(metric, labels).value = value


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
            for (name, labels), cell in list(counter.cells.items()):
                if name == metric and cell.value is not None:
                    yield dict((*counter.labels, *labels)), cell.value

    def clear(self) -> None:
        """Remove all."""
        self._counters.clear()
