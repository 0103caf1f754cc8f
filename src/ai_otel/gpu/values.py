"""From what a vendor's library answered to a reading: what the sources do alike. Nothing of a vendor is known here."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any, Generic, TypeVar

from ai_otel.gpu.source import GpuReading, Support

# What is measured over a short while exceeds its whole a little; what exceeds it by more is no measurement.
_SLIGHTLY_ABOVE_ONE = 1.05
_ALL_ONES = frozenset({2**32 - 1, 2**64 - 1})
# Says how another value was measured, or is read only where it was asked for.
_NOT_MISSED = frozenset({"power_window", "process_memory_bytes", "absent"})
_FIELDS = tuple(each.name for each in fields(GpuReading) if each.name not in _NOT_MISSED)

Number = TypeVar("Number", int, float)
Answer = TypeVar("Answer")


def tell(reading: GpuReading, name: str, answer: Any, key: Any = None) -> None:
    """Write an answer into a reading's field, or into one entry of it; or write why there is none."""
    if isinstance(answer, Support):
        reading.absent[_entry(name, key)] = answer
        return
    if reading.absent:
        reading.absent.pop(_entry(name, key), None)
    if key is None:
        setattr(reading, name, answer)
    else:
        entries: Any = getattr(reading, name)
        entries[key] = answer


@lru_cache(maxsize=1024)  # asked for each value of each look; only the numbers of processes are ever new
def _entry(name: str, key: Any) -> str:
    return name if key is None else f"{name}.{'.'.join(key) if isinstance(key, tuple) else key}"


def settled(reading: GpuReading) -> GpuReading:
    """The reading, in which every field without a value has a reason: what its source never tells is not supported."""
    explained = {entry.partition(".")[0] for entry in reading.absent}
    for name in _FIELDS:
        value = getattr(reading, name)
        if (value is None or value == {}) and name not in explained:
            reading.absent[name] = Support.NOT_SUPPORTED
    return reading


def ratio(share: float | Support) -> float | Support:
    """A share, 0 to 1; what cannot be a share of anything is invalid."""
    if isinstance(share, Support) or 0 <= share <= 1:
        return share
    return 1.0 if 1 < share <= _SLIGHTLY_ABOVE_ONE else Support.INVALID  # as what is not a number is


def within(low: Number, value: Number | Support, high: Number) -> Number | Support:
    """The value, unless it lies outside of what is physically possible: then it is a sentinel."""
    return value if isinstance(value, Support) or low <= value <= high else Support.INVALID


def counted(value: Number | Support) -> Number | Support:
    """A count, or none: all bits set, negative and not-a-number are sentinels."""
    if isinstance(value, Support):
        return value
    return Support.INVALID if value in _ALL_ONES or not value >= 0 else value


class Growth:
    """How fast counters of a device grow, by the time that the device gave with them."""

    def __init__(self) -> None:
        self._last: Mapping[str, float] | None = None
        self._time_us = 0
        self._per_s: Mapping[str, float] = {}

    def per_s(self, counts: Mapping[str, float], time_us: int) -> Mapping[str, float]:
        """
        How much each count grew in a second between the last look and this one; empty after the first look.

        Where the device's time stands still, it has nothing newer to tell: the last answer holds. A count that fell
        was begun anew, and so is this.
        """
        last, elapsed_s = self._last, (time_us - self._time_us) / 1e6
        if last is not None and elapsed_s == 0:
            return self._per_s
        self._last, self._time_us = dict(counts), time_us
        if last is None or elapsed_s < 0 or any(counts[name] < last.get(name, 0) for name in counts):
            self._per_s = {}
        else:
            self._per_s = {name: (count - last[name]) / elapsed_s for name, count in counts.items() if name in last}
        return self._per_s


class OneLook(Generic[Answer]):
    """One answer that serves several devices: asked for anew when a device comes for it a second time."""

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self._ask = ask
        self._answers: list[Answer] = []
        self._served: set[Hashable] = set()

    def answer(self, asker: Hashable) -> Answer:
        """What the library says now, or said to another device in this pass."""
        if not self._answers or asker in self._served:
            self._answers = [self._ask()]
            self._served.clear()
        self._served.add(asker)
        return self._answers[0]
