"""
Sysman calls: maps result codes to values, to reasons of absence, or to a lost device.

Sysman fills structures and lists handles; `pyzes` has both as in C. Error sets, which `pyzes` 0.1 lacks, are called in
the library that it has loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

from ai_otel.gpu.source import DeviceLost, Support

DEVICE_LOST = 0x70000001
DEVICE_REQUIRES_RESET = 0x70000006
INSUFFICIENT_PERMISSIONS = 0x70010000
NOT_AVAILABLE = 0x70010001
DEPENDENCY_UNAVAILABLE = 0x70020000
UNSUPPORTED_VERSION = 0x78000002
UNSUPPORTED_FEATURE = 0x78000003
SURVIVABILITY_MODE = 0x78000020

LOST = frozenset({DEVICE_LOST, DEVICE_REQUIRES_RESET, SURVIVABILITY_MODE})
_SUPPORT: Mapping[int, Support] = {
    INSUFFICIENT_PERMISSIONS: Support.NO_PERMISSION,
    NOT_AVAILABLE: Support.NOT_SUPPORTED,
    # The kernel lacks the interface of this value.
    DEPENDENCY_UNAVAILABLE: Support.NOT_SUPPORTED,
    UNSUPPORTED_VERSION: Support.NOT_FOUND,
    UNSUPPORTED_FEATURE: Support.NOT_SUPPORTED,
}

CATEGORIES = 7
HARDWARE = (3, 4, 5, 6)
"""Categories of hardware errors: compute, fixed functions, caches, display. Others are resets and software errors."""


class RasProperties(ctypes.Structure):
    """`zes_ras_properties_t`: whether a set counts corrected (0) or uncorrected (1) errors, and its tile."""

    _fields_ = (
        ("stype", ctypes.c_int32),
        ("pNext", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("onSubdevice", ctypes.c_uint8),
        ("subdeviceId", ctypes.c_uint32),
    )


class RasState(ctypes.Structure):
    """`zes_ras_state_t`: number of errors by category."""

    _fields_ = (
        ("stype", ctypes.c_int32),
        ("pNext", ctypes.c_void_p),
        ("category", ctypes.c_uint64 * CATEGORIES),
    )


RAS_PROPERTIES, RAS_STATE = 0xF, 0x22


class Sysman:
    """The calls. Failures are not cached: permissions may change."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def ask(self, name: str, *arguments: Any) -> Support | None:
        """Call a function that fills its arguments; return the reason of a failure. Raises `DeviceLost`."""
        try:
            function = getattr(self.library, name, None) or self.library.getFunctionPointerList(name)
            result = int(function(*arguments))
        except AttributeError:  # the loader is older than the function
            return Support.NOT_FOUND
        if result in LOST:
            raise DeviceLost(f"Level Zero result 0x{result:x}")
        return None if result == 0 else _SUPPORT.get(result, Support.ERROR)

    def of(self, handle: Any, name: str, structure: str, kind: str | None = None) -> Any:
        """Return the structure that a function fills for a handle, or why it is unavailable. Raises `DeviceLost`."""
        filled = getattr(self.library, structure)()
        if kind is not None:
            filled.stype = getattr(self.library, kind)
        return self.ask(name, handle, ctypes.byref(filled)) or filled

    def listed(self, name: str, owner: Any, element: Any) -> Any:
        """Return the elements that a function lists for a handle, or why they are unavailable. Raises `DeviceLost`."""
        count = ctypes.c_uint32()
        before = () if owner is None else (owner,)
        if (why := self.ask(name, *before, ctypes.byref(count), None)) is not None:
            return why
        found = (element * count.value)()
        if count.value and (why := self.ask(name, *before, ctypes.byref(count), found)) is not None:
            return why
        return [found[index] for index in range(min(count.value, len(found)))]

    def handles(self, name: str, owner: Any, kind: str) -> Sequence[Any] | Support:
        """Return the handles that a function lists for a handle, or why they are unavailable."""
        handle = getattr(self.library, kind)
        listed = self.listed(name, owner, handle)
        return listed if isinstance(listed, Support) else [handle(each.value) for each in listed]

    def gpus(self) -> Sequence[Any]:
        """Return every device of every driver. Drivers that do not answer are left out."""
        found: list[Any] = []
        drivers = self.handles("zesDriverGet", None, "zes_driver_handle_t")
        for driver in () if isinstance(drivers, Support) else drivers:
            devices = self.handles("zesDeviceGet", driver, "zes_device_handle_t")
            found += () if isinstance(devices, Support) else devices
        return found

    def error_sets(self, device: Any) -> Sequence[tuple[Any, RasProperties]] | Support:
        """Return every set of error counters of a device with its properties."""
        listed = self.listed("zesDeviceEnumRasErrorSets", device, ctypes.c_void_p)
        if isinstance(listed, Support):
            return listed
        sets = []
        for handle in map(ctypes.c_void_p, listed):
            properties = RasProperties(stype=RAS_PROPERTIES)
            if self.ask("zesRasGetProperties", handle, ctypes.byref(properties)) is None:
                sets.append((handle, properties))
        return sets

    def errors(self, error_set: Any) -> int | Support:
        """Return the hardware errors of one set since the driver was loaded, without clearing the counters."""
        state = RasState(stype=RAS_STATE)
        why = self.ask("zesRasGetState", error_set, ctypes.c_uint8(0), ctypes.byref(state))
        return why if why is not None else sum(int(state.category[index]) for index in HARDWARE)
