"""Sums and states of engines, as plain data; read when metrics are collected. Nothing of ours is imported here."""

from __future__ import annotations

from collections.abc import Iterator

Labels = tuple[tuple[str, str | int | bool], ...]


class Tally:
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
        """Add to a sum that only grows."""
        key = (metric, labels)
        self.sums[key] = self.sums.get(key, 0) + amount

    def set(self, metric: str, value: float, labels: Labels = ()) -> None:
        """Replace the present value of a state."""
        self.states[metric, labels] = value

    def forget(self, metric: str) -> None:
        """Make a state unknown again."""
        for key in [key for key in self.states if key[0] == metric]:
            self.states.pop(key, None)


class Tallies:
    """All tallies of this process."""

    def __init__(self) -> None:
        self._tallies: dict[Labels, Tally] = {}

    def of(self, labels: Labels) -> Tally:
        """The tally with these labels; made at the first call."""
        tally = self._tallies.get(labels)
        if tally is None:
            tally = self._tallies.setdefault(labels, Tally(labels))
        return tally

    def values(self, metric: str) -> Iterator[tuple[dict[str, str | int | bool], int | float]]:
        """Labels and value of everything known under this name; what nobody knows is absent."""
        for tally in list(self._tallies.values()):
            for known in (tally.sums, tally.states):
                for (name, labels), value in list(known.items()):
                    if name == metric:
                        yield dict((*tally.labels, *labels)), value

    def clear(self) -> None:
        """Forget everything."""
        self._tallies.clear()
