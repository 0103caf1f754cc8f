"""From the sampler to the energy accounts: every sample goes to the ledger, and every collection settles requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ai_otel.energy.accounts import Account
from ai_otel.energy.attribution import EnergyAttribution
from ai_otel.energy.ledger import Ledger
from ai_otel.gpu.registry import attributable
from ai_otel.gpu.source import Device, GpuEvent, GpuReading


class EnergyFeed:
    """
    The sampler's listener: all methods run on the sampler's thread.

    Without any energy counter nothing can be attributed: `attribution` stays `None` and no request waits for energy.
    `attribute` creates the attribution of a ledger, once the first counter has a value; `detach` is called when it has
    ended. `shared` attributes the energy of shared devices as well.
    """

    def __init__(
        self,
        attribute: Callable[[Ledger, Sequence[Device]], EnergyAttribution],
        *,
        shared: bool = False,
        detach: Callable[[], None] = lambda: None,
    ) -> None:
        self._attribute = attribute
        self._detach = detach
        self._shared = shared
        self._devices: Sequence[Device] = ()
        self._ledger: Ledger | None = None
        self.attribution: EnergyAttribution | None = None
        self.accounts: Sequence[Account] = ()
        """The accounts after the last collection."""

    def opened(self, devices: Sequence[Device]) -> None:
        """Receive the devices. The energy of the first ones that are found is attributed."""
        if self.attribution is None:
            self._devices = attributable(devices)

    def saw_energy(self, device: Device, time_s: float, energy_j: float | None) -> None:
        """Receive one sample of an energy counter in joules; `None` if the device has no value."""
        if self._ledger is None and energy_j is not None and device in self._devices:
            self._ledger = Ledger(self._devices, shared=self._shared)
            self.attribution = self._attribute(self._ledger, self._devices)
        if self._ledger is not None and self._ledger.has(device.key):
            self._ledger.add_energy(device.key, time_s, energy_j)

    def saw_reading(self, device: Device, time_s: float, reading: GpuReading) -> None:
        """Receive one reading of a device."""
        if self._ledger is not None and self.attribution is not None and self._ledger.has(device.key):
            self._ledger.add_own_share(device.key, time_s, reading.own_share)
            self.attribution.device_events.add_reading(device, time_s, reading)

    def saw_event(self, event: GpuEvent) -> None:
        """Receive an event that the driver reported."""
        if self.attribution is not None:
            self.attribution.device_events.add_xid(event)

    def collected(self, time_s: float) -> None:
        """Settle requests and publish the accounts, which balance between two collections only."""
        if self.attribution is not None and self._ledger is not None:
            self.attribution.collect(time_s)
            self.accounts = self._ledger.accounts()

    def closed(self) -> None:
        """Resume every deferred record: another process samples, and has its own accounts."""
        attribution, self.attribution = self.attribution, None
        self._ledger, self.accounts = None, ()
        if attribution is not None:
            self._detach()
            attribution.release_all(time.perf_counter())
