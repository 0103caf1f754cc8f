"""From the sampler to the energy accounts: every sample goes to the ledger, and every collection settles requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ai_otel.energy.accounts import Account
from ai_otel.energy.attribution import EnergyAttribution
from ai_otel.energy.ledger import Ledger
from ai_otel.gpu.selection import Key, OwnDevices, Selection
from ai_otel.gpu.source import Device, GpuEvent, GpuReading, Support


class EnergyFeed:
    """
    The sampler's listener: all methods run on the sampler's thread.

    Without any energy counter nothing can be attributed: `attribution` stays `None` and no request waits for energy.
    `attribute` creates the attribution of a ledger, once the first counter has a value; `detach` is called when another
    process samples. `shared` attributes the energy of shared devices as well. `own` chooses the server's own devices.
    When other devices turn out to be its own, as when the engine has started its workers, the accounts start again with
    these.
    """

    def __init__(
        self,
        attribute: Callable[[Ledger, Selection], EnergyAttribution],
        *,
        shared: bool = False,
        own: OwnDevices | None = None,
        detach: Callable[[], None] = lambda: None,
    ) -> None:
        self._attribute = attribute
        self._detach = detach
        self._shared = shared
        self._own = own if own is not None else OwnDevices()
        self._devices: Sequence[Device] = ()
        self._held: dict[Key, bool | None] = {}
        self._undeferred_before = 0
        self._ledger: Ledger | None = None
        self.attribution: EnergyAttribution | None = None
        self.accounts: Sequence[Account] = ()
        """The accounts after the last collection."""

    def opened(self, devices: Sequence[Device]) -> None:
        """Receive the devices, and those that do not answer: a request on one of them has no energy."""
        self._devices = devices
        keys = {device.key for device in devices}
        self._held = {key: held for key, held in self._held.items() if key in keys}
        if self.attribution is None:
            self._own.choose(devices, self._held)

    def saw_energy(self, device: Device, time_s: float, energy_j: float | None) -> None:
        """Receive one sample of an energy counter in joules; `None` if the device has no value."""
        if self._ledger is None and energy_j is not None and device in self.selection.devices:
            self._ledger = Ledger(self.selection.devices, shared=self._shared)
            self.attribution = self._attribute(self._ledger, self.selection)
        if self._ledger is not None and self._ledger.has(device.key):
            self._ledger.add_energy(device.key, time_s, energy_j)

    def saw_reading(self, device: Device, time_s: float, reading: GpuReading) -> None:
        """Receive one reading of a device."""
        self._held[device.key] = reading.held
        if self._ledger is not None and self.attribution is not None and self._ledger.has(device.key):
            if reading.own_share is not None or has_unknown_share(reading):
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
        before = self.selection
        if self._own.choose(self._devices, self._held) != before:
            self._restart(before, time_s)

    @property
    def selection(self) -> Selection:
        """The server's own devices."""
        return self._own.selection

    @property
    def undeferred(self) -> int:
        """Number of records that were emitted without waiting for their energy."""
        return self._undeferred_before + (self.attribution.undeferred if self.attribution is not None else 0)

    def _restart(self, before: Selection, time_s: float) -> None:
        attribution, self.attribution = self.attribution, None
        if attribution is None:
            return
        if set(self.selection.devices) == set(before.devices):
            attribution.gpu_selection, self.attribution = self.selection.known_by, attribution
            return
        self._end(attribution, time_s)

    def closed(self) -> None:
        """Resume every deferred record: another process samples, and has its own accounts."""
        attribution, self.attribution = self.attribution, None
        if attribution is not None:
            self._detach()
            self._end(attribution, time.perf_counter())

    def _end(self, attribution: EnergyAttribution, time_s: float) -> None:
        self._ledger, self.accounts = None, ()
        self._undeferred_before += attribution.undeferred
        attribution.release_all(time_s)


def has_unknown_share(reading: GpuReading) -> bool:
    """
    Return whether it is unknown whose processes compute on the device.

    A source that knows nothing of processes (AMD, Intel) reports `NOT_SUPPORTED`: its devices count as exclusive.
    """
    return reading.own_share is None and reading.absent.get("own_share") not in (None, Support.NOT_SUPPORTED)
