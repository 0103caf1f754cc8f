"""Reset correction of device counters: a driver reload or a GPU reset restarts a counter at zero."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

from ai_otel.gpu.source import Device, GpuReading

K = TypeVar("K", bound=Hashable)
N = TypeVar("N", int, float)


class Counters:
    """Keeps the state of each counter. Returned values never decrease."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Any, Any]] = {}
        """Counter → its total before the last reset, and its last raw value."""

    def monotonic(self, key: Hashable, raw: N) -> N:
        """Return the counter without its resets. Counts between the last sample and a reset are lost."""
        before, last = self._known.get(key, (0, raw))
        if raw < last:
            before += last
        self._known[key] = (before, raw)
        total: N = before + raw
        return total

    def correct(self, device: Device, reading: GpuReading) -> None:
        """Correct every counter of a reading in place."""
        key = device.key
        reading.energy_j = self.energy_j(device, reading.energy_j)
        reading.throttle_s = self._all((key, "throttle_s"), reading.throttle_s)
        reading.io_bytes = self._all((key, "io_bytes"), reading.io_bytes)
        reading.errors = self._all((key, "errors"), reading.errors)

    def energy_j(self, device: Device, raw: float | None) -> float | None:
        """Return the corrected energy counter in joules. It is read more often than the others."""
        return None if raw is None else self.monotonic((device.key, "energy_j"), raw)

    def _all(self, key: Hashable, values: Mapping[K, N]) -> Mapping[K, N]:
        return {label: self.monotonic((key, label), raw) for label, raw in values.items()}
