"""Vendor-neutral helpers that turn a library's answers into a reading: validation, rates and shared queries."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any, Generic, TypeVar

from ai_otel.gpu.source import GpuReading, Support

# A ratio measured over a short interval can exceed 1 slightly. A larger excess is not a measurement.
_SLIGHTLY_ABOVE_ONE = 1.05
_ALL_ONES = frozenset({2**32 - 1, 2**64 - 1})
LARGEST = 2**63 - 1
"""The largest number of OTLP. A larger one in a single point would cost the whole export."""
# Fields that qualify another value or are read only on request: their absence needs no reason.
_OPTIONAL = frozenset({"power_window", "process_memory_bytes", "held", "absent"})
_FIELDS = tuple(each.name for each in fields(GpuReading) if each.name not in _OPTIONAL)

Number = TypeVar("Number", int, float)
Answer = TypeVar("Answer")


def set_value(reading: GpuReading, name: str, value: Any, key: Any = None) -> None:
    """
    Set a field of a reading, or the entry `key` of a mapping field. A `Support` is recorded in `absent` instead.

    NaN and numbers that cannot be exported are invalid.
    """
    if isinstance(value, int | float) and not is_exportable(value):
        value = Support.INVALID
    if isinstance(value, Support):
        reading.absent[_entry(name, key)] = value
        return
    if reading.absent:
        reading.absent.pop(_entry(name, key), None)
    if key is None:
        setattr(reading, name, value)
    else:
        entries: Any = getattr(reading, name)
        entries[key] = value


@lru_cache(maxsize=1024)  # called for each value of each sample; only process ids are ever new
def _entry(name: str, key: Any) -> str:
    return name if key is None else f"{name}.{'.'.join(key) if isinstance(key, tuple) else key}"


def fill_reasons(reading: GpuReading) -> GpuReading:
    """Mark every field without a value and without a reason as not supported. Returns the same reading."""
    explained = {entry.partition(".")[0] for entry in reading.absent}
    for name in _FIELDS:
        value = getattr(reading, name)
        if (value is None or value == {}) and name not in explained:
            reading.absent[name] = Support.NOT_SUPPORTED
    return reading


def ratio(share: float | Support) -> float | Support:
    """Return a ratio from 0 to 1, or `Support.INVALID` if the value is out of range."""
    if isinstance(share, Support) or 0 <= share <= 1:
        return share
    return 1.0 if 1 < share <= _SLIGHTLY_ABOVE_ONE else Support.INVALID  # NaN is invalid, too


def percent(value: float | Support) -> float | Support:
    """Return a ratio from 0 to 1 for a value in percent, or `Support.INVALID`."""
    return value if isinstance(value, Support) else ratio(value / 100)


def is_exportable(value: float) -> bool:
    """Whether OTLP can carry the number: neither NaN nor infinite, and within 64 bits."""
    return -LARGEST <= value <= LARGEST  # NaN is not


def within(low: Number, value: Number | Support, high: Number) -> Number | Support:
    """Return the value, or `Support.INVALID` outside the physically possible range: such values are sentinels."""
    return value if isinstance(value, Support) or low <= value <= high else Support.INVALID


def valid_count(value: Number | Support) -> Number | Support:
    """Return a count, or `Support.INVALID` for sentinels: all bits set, negative or NaN."""
    if isinstance(value, Support):
        return value
    return Support.INVALID if value in _ALL_ONES or not value >= 0 else value


class Growth:
    """Growth rates of device counters, by the device's own timestamps."""

    def __init__(self) -> None:
        self._last: Mapping[str, float] | None = None
        self._time_us = 0
        self._per_s: Mapping[str, float] = {}

    def per_s(self, counts: Mapping[str, float], time_us: int) -> Mapping[str, float]:
        """
        Return the growth of each count per second since the previous sample. Empty after the first sample.

        An unchanged timestamp means no newer data: the previous rates are returned. A count that decreased, or a
        timestamp that went back, restarts the measurement.
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


class SharedQuery(Generic[Answer]):
    """One answer shared by several devices. A device that asks a second time causes a new query."""

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self._ask = ask
        self._answers: list[Answer] = []
        self._served: set[Hashable] = set()

    def answer(self, asker: Hashable) -> Answer:
        """Return the answer for this collection, querying the library if `asker` has had the current one."""
        if not self._answers or asker in self._served:
            self._answers = [self._ask()]
            self._served.clear()
        self._served.add(asker)
        return self._answers[0]
