"""Base class of the sources that load a vendor's C library and keep one object per device or instance."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from ai_otel.gpu.source import Device, GpuEvent, GpuReading, Unavailable


class Unit(Protocol):
    """One device, or one instance of a device, that the library enumerated."""

    device: Device

    def read(self) -> GpuReading:
        """Read all values. Raises `DeviceLost`."""

    def read_energy(self) -> float | None:
        """Read the energy counter in joules; `None` if unavailable. Raises `DeviceLost`."""


U = TypeVar("U", bound=Unit)


class LibrarySource(ABC, Generic[U]):
    """Opens the library, reads its units, and closes the library in the process that opened it."""

    def __init__(self) -> None:
        self._library: Any = None
        self._opened_by = 0
        self._units: dict[tuple[str, str | None], U] = {}

    def open(self) -> Sequence[Device]:
        """Start the library and return every device and instance of this container. Raises `Unavailable`."""
        self._library, self._opened_by = self._start(), os.getpid()
        try:
            self._discover()
        except Unavailable:
            self.close()
            raise
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

    @abstractmethod
    def _start(self) -> Any:
        """Import and start the library. Raises `Unavailable`."""

    @abstractmethod
    def _discover(self) -> None:
        """Fill `_units`. Raises `Unavailable` if no device can be read."""

    @abstractmethod
    def _shut_down(self, library: Any, units: Sequence[U]) -> None:
        """Free the units' resources and shut the library down."""
