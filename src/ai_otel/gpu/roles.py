"""What the sampler works with: its listener, the election, and its open sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ai_otel.gpu.source import Device, GpuEvent, GpuReading, GpuSource


class Listener(Protocol):
    """Receives each sample on the sampler's thread."""

    def opened(self, devices: Sequence[Device]) -> None:
        """Receive the devices that are sampled from now on, and those that do not answer."""

    def saw_energy(self, device: Device, time_s: float, energy_j: float | None) -> None:
        """Receive one sample of an energy counter in joules; `None` if the device has no value."""

    def saw_reading(self, device: Device, time_s: float, reading: GpuReading) -> None:
        """Receive one reading of a device."""

    def saw_event(self, event: GpuEvent) -> None:
        """Receive an event that the driver reported."""

    def collected(self, time_s: float) -> None:
        """Receive the end of an energy collection: every energy counter has been sampled."""

    def closed(self) -> None:
        """Receive that nothing is sampled from now on, because another process samples."""


class Election(Protocol):
    """Decides which process samples (`gpu.sharing.leader.LeaderElection`). Called on the sampler's thread."""

    def vacant(self) -> bool:
        """Return whether no other process samples."""

    def lead(self, devices: Sequence[str], interval_s: float) -> bool:
        """Stand with devices that answer; called with each sample. Return whether this process samples them."""

    def step_down(self) -> None:
        """Leave it to others: no device answers."""


class OpenSource:
    """One vendor's source while it is open."""

    def __init__(
        self, vendor: str, source: GpuSource, devices: Sequence[Device], lost: Sequence[Device], opened_s: float
    ) -> None:
        self.vendor = vendor
        self.source = source
        self.devices = list(devices)
        self.lost = list(lost)
        # A GPU that was known before it was lost may be the one that cannot be opened now.
        self.unopened = list(getattr(source, "unopened", ()))[len({device.id for device in lost}) :]
        self.opened_s = opened_s

    @property
    def failed(self) -> Sequence[Device]:
        """The devices that do not answer."""
        return [*self.lost, *self.unopened]
