"""
Reset correction of device counters: a driver reload or a GPU reset restarts a counter at zero.

Not every fall is a reset. Two reads may be answered out of order, a driver may correct its counter by a little, and
some reads in a row may return zero. Only a fall below `LARGE_FALL` of the last value that the next sample confirms is
a reset; a zero is confirmed when the counter grows from it, or stays there.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ai_otel.gpu.source import Device, GpuReading
from ai_otel.gpu.values import is_exportable

K = TypeVar("K", bound=Hashable)
N = TypeVar("N", int, float)

LARGE_FALL = 0.5
"""A value above this fraction of the last one is jitter: the last one is held until the counter has passed it."""
ZEROS = 30
"""Zeros in a row after which the counter was reset and has not grown since, such as one of errors."""
NEAR_ZERO = 0.1
"""After a fall to at most this fraction, the counter holds what was counted since the reset. Above, it is unknown."""


@dataclass(slots=True)
class _State:
    """One counter."""

    last: Any
    """The highest raw value since the last reset."""
    before: Any = 0
    """What is added to a raw value, from before the last reset."""
    low: Any = None
    """The raw value of a large fall that the next sample has to confirm."""
    zeros: int = 0
    """Number of zeros in a row."""


class Counters:
    """Keeps the state of each counter. Returned values never decrease."""

    def __init__(self) -> None:
        self._states: dict[Hashable, _State] = {}

    def monotonic(self, key: Hashable, raw: N) -> N:
        """
        Return the counter without its resets. Counts between the last sample and a reset are lost.

        Each source of a value needs a key of its own: two calls for one counter may be answered at different times.
        """
        if not is_exportable(raw):
            return raw  # has no point (`instruments.observable`)
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = _State(raw)
        elif raw >= state.last:
            state.last, state.low = raw, None
        elif raw > state.last * LARGE_FALL:
            state.low = None
        elif state.low is None or raw < state.low:
            state.low, state.zeros = raw, 1
        elif raw == 0 and state.zeros < ZEROS:
            state.zeros += 1
        else:
            state.before += state.last - (0 if state.low <= state.last * NEAR_ZERO else state.low)
            state.last, state.low = raw, None
        total: N = state.before + state.last
        return total

    def correct(self, device: Device, reading: GpuReading) -> None:
        """Correct every counter of a reading in place."""
        key = device.key
        if reading.energy_j is not None:
            reading.energy_j = self.monotonic((key, "energy_j"), reading.energy_j)
        reading.throttle_s = self._all((key, "throttle_s"), reading.throttle_s)
        reading.io_bytes = self._all((key, "io_bytes"), reading.io_bytes)
        reading.errors = self._all((key, "errors"), reading.errors)

    def energy_j(self, device: Device, raw: float | None) -> float | None:
        """
        Return the corrected energy counter in joules, as read ten times a second.

        It is `None` while a reset is not confirmed: when the energy around a reset was used is unknown.
        """
        if raw is None or not is_exportable(raw):
            return None
        key = device.key, "read_energy"
        total_j = self.monotonic(key, raw)
        return total_j if self._states[key].low is None else None

    def _all(self, key: Hashable, values: Mapping[K, N]) -> Mapping[K, N]:
        return {label: self.monotonic((key, label), raw) for label, raw in values.items()}
