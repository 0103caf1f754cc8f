"""Device counters, made whole: a driver that is reloaded or a GPU that is reset begins at zero again, and we do not."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

from ai_otel.gpu.source import Device, GpuReading

K = TypeVar("K", bound=Hashable)
N = TypeVar("N", int, float)


class Counters:
    """Remembers where each counter was. What it returns never falls."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Any, Any]] = {}
        """What was counted before the last reset, and the last raw value."""

    def whole(self, key: Hashable, raw: N) -> N:
        """The counter as if it had never been reset. What was counted between the last look and a reset is lost."""
        before, last = self._known.get(key, (0, raw))
        if raw < last:
            before += last
        self._known[key] = (before, raw)
        whole: N = before + raw
        return whole

    def mend(self, device: Device, reading: GpuReading) -> None:
        """Make every counter of a reading whole, in place."""
        key = device.key
        reading.energy_j = self.energy_j(device, reading.energy_j)
        reading.throttle_s = self._all((key, "throttle_s"), reading.throttle_s)
        reading.io_bytes = self._all((key, "io_bytes"), reading.io_bytes)
        reading.errors = self._all((key, "errors"), reading.errors)

    def energy_j(self, device: Device, raw: float | None) -> float | None:
        """The energy counter, which is read more often than the others."""
        return None if raw is None else self.whole((device.key, "energy_j"), raw)

    def _all(self, key: Hashable, values: Mapping[K, N]) -> Mapping[K, N]:
        return {label: self.whole((key, label), raw) for label, raw in values.items()}
