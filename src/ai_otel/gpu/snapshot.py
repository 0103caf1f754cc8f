"""What the sampler leaves for whoever wants to know: the last look at everything, replaced as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from ai_otel.gpu.source import Device, GpuReading, Support


class Look(NamedTuple):
    """What one look at one device told; counters are whole."""

    device: Device
    reading: GpuReading
    taken_s: float

    @property
    def lost(self) -> bool:
        """Whether the device does not answer any more. One whose own verdict is that it has failed still does."""
        return Support.LOST in self.reading.absent.values()


XidKey = tuple[Device, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The last look at everything. Times are `time.perf_counter`."""

    looks: tuple[Look, ...] = ()
    xids: Mapping[XidKey, int] = field(default_factory=dict)
    """Device and code → how many events."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Kind of look → how many were left out."""
    troubles: Mapping[str, str] = field(default_factory=dict)
    """Vendor → why its devices cannot be read, where something of it is installed."""
    taken_s: float | None = None
    interval_s: float = 0.0
    """After which the next look is due: longer than wanted where looks take long."""

    @property
    def ids(self) -> tuple[str, ...]:
        """`hw.id` of all devices that answer."""
        return tuple(dict.fromkeys(look.device.id for look in self.looks if not look.lost))


def lost() -> GpuReading:
    """What there is to say of a device that does not answer: that."""
    reading = GpuReading(status="failed")
    reading.absent = {each.name: Support.LOST for each in fields(GpuReading) if each.name not in _ALWAYS}
    return reading


_ALWAYS = frozenset({"status", "absent", "power_window", "own_share", "process_memory_bytes"})
