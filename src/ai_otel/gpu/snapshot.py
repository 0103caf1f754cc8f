"""The sampler's output: the last sample of every device. A new snapshot replaces the previous one as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from ai_otel.gpu.source import Device, GpuReading, Support


class DeviceSample(NamedTuple):
    """One reading of one device; its counters are reset-corrected."""

    device: Device
    reading: GpuReading
    taken_s: float
    """`time.perf_counter` in seconds."""

    @property
    def lost(self) -> bool:
        """Whether the device has stopped answering. A device that reports `failed` itself still answers."""
        return Support.LOST in self.reading.absent.values()


XidKey = tuple[Device, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The last sample of every device. Times are `time.perf_counter` in seconds."""

    samples: tuple[DeviceSample, ...] = ()
    xids: Mapping[XidKey, int] = field(default_factory=dict)
    """Device and XID code → number of events."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Kind of collection (`readings`, `energy`) → number skipped."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """Vendor → why its devices cannot be read. Vendors that are not installed are left out."""
    taken_s: float | None = None
    interval_s: float = 0.0
    """Seconds until the next sample. Exceeds the configured interval if samples take long."""

    @property
    def ids(self) -> tuple[str, ...]:
        """`hw.id` of every device that answers."""
        return tuple(dict.fromkeys(sample.device.id for sample in self.samples if not sample.lost))


def lost_reading() -> GpuReading:
    """Return the reading of a device that has stopped answering: status `failed`, every value absent."""
    reading = GpuReading(status="failed")
    reading.absent = {each.name: Support.LOST for each in fields(GpuReading) if each.name not in _ALWAYS}
    return reading


_ALWAYS = frozenset({"status", "absent", "power_window", "own_share", "held", "process_memory_bytes"})
