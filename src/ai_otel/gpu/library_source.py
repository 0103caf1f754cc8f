"""Base class of the sources that load a vendor's C library and keep one object per device or instance."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from ai_otel.gpu.source import Device, DeviceLost, GpuEvent, GpuReading, Unavailable


class Unit(Protocol):
    """One device, or one instance of a device, that the library enumerated."""

    device: Device

    def read(self) -> GpuReading:
        """Read all values. Raises `DeviceLost`."""

    def read_energy(self) -> float | None:
        """Read the energy counter in joules; `None` if unavailable. Raises `DeviceLost`."""


log = logging.getLogger("ai_otel")

U = TypeVar("U", bound=Unit)


class LibrarySource(ABC, Generic[U]):
    """Opens the library, reads its units, and closes the library in the process that opened it."""

    vendor = ""

    def __init__(self) -> None:
        self._library: Any = None
        self._opened_by = 0
        self._units: dict[tuple[str, str | None], U] = {}
        self.unopened: Sequence[Device] = ()
        """Devices that exist and could not be opened."""
        self._logged: set[str] = set()

    def open(self) -> Sequence[Device]:
        """Start the library and return every device and instance of this container. Raises `Unavailable`."""
        self.unopened = ()
        self._library, self._opened_by = self._start(), os.getpid()
        opened = False
        try:
            self._discover()
            opened = True
        except DeviceLost as error:
            raise Unavailable(f"{self.vendor}: the library does not answer ({error}).", installed=True) from None
        finally:
            if not opened:
                self.close()
        return [unit.device for unit in self._units.values()]

    def read(self, device: Device) -> GpuReading:
        """Read all values of one device or instance. Raises `DeviceLost`."""
        return self._units[device.key].read()

    def read_energy(self, device: Device) -> float | None:
        """Read the energy counter in joules; `None` if the device has none. Raises `DeviceLost`."""
        return self._units[device.key].read_energy()

    def events(self) -> Sequence[GpuEvent]:
        """Return nothing: only NVIDIA's driver reports numbered events."""
        return ()

    def close(self) -> None:
        """Release the library. In the child of a fork no call is made: the library is the parent's."""
        library, self._library = self._library, None
        units, self._units = list(self._units.values()), {}
        if library is not None and os.getpid() == self._opened_by:
            self._shut_down(library, units)

    def _distinct(self, device: Device, index: int) -> Device:
        """Return the device with an id that no other one has. Libraries may report one UUID for several devices."""
        if (device.id, None) not in self._units:
            return device
        distinct = replace(device, id=place(self.vendor, index, device.pci_bus_id))
        self._log_once(f"two GPUs report the UUID {device.id}: the second one has the id {distinct.id}.")
        return distinct

    def _log_once(self, sentence: str) -> None:
        if sentence not in self._logged:
            self._logged.add(sentence)
            log.warning("ai-otel: %s", sentence)

    @abstractmethod
    def _start(self) -> Any:
        """Import and start the library. Raises `Unavailable`."""

    @abstractmethod
    def _discover(self) -> None:
        """Fill `_units`. Raises `Unavailable` if no device can be read."""

    @abstractmethod
    def _shut_down(self, library: Any, units: Sequence[U]) -> None:
        """Free the units' resources and shut the library down."""


def place(vendor: str, index: int, pci_bus_id: str | None = None) -> str:
    """Return the id of a device without a UUID of its own: its PCI address, else its number in the library."""
    return f"{vendor}:{pci_bus_id or index}"
