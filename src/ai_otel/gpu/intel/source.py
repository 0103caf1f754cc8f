"""
Intel GPUs by Level Zero Sysman, through Intel's binding `pyzes`, which is imported when the source is opened.

`zesInit` starts Sysman. `ZES_ENABLE_SYSMAN` is not set, because it changes how the server's own Level Zero starts. A
GPU with several tiles is one device with the card's values, and one instance for each tile.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ai_otel.gpu import TRACES
from ai_otel.gpu.intel.components import Card
from ai_otel.gpu.intel.device import Unit
from ai_otel.gpu.intel.sysman import Sysman
from ai_otel.gpu.library_source import LibrarySource, place
from ai_otel.gpu.source import Device, DeviceLost, Options, Support, Unavailable

TRACE = Path(TRACES["intel"][0])
"""Device directory of the graphics devices of all vendors."""

INTEL = 0x8086
GPU = 1
UNKNOWN = frozenset({"", "unknown"})


class LevelZeroSource(LibrarySource[Unit]):
    """Intel's GPUs and tiles. All calls come from one thread."""

    vendor = "intel"

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._options = options

    def _start(self) -> Any:
        sysman = Sysman(binding())
        if (result := sysman.library.zesInit(0)) != 0:
            raise Unavailable(
                f"Level Zero Sysman does not start (0x{result:x}): install Intel's compute runtime (libze-intel-gpu1), "
                "and start the server without ZES_ENABLE_SYSMAN.",
                installed=TRACE.exists(),
            )
        return sysman

    def _discover(self) -> None:
        self.unopened = unopened = list[Device]()
        for index, handle in enumerate(self._library.gpus()):
            try:
                self._add(self._library, handle, index)
            except DeviceLost:  # before it could be identified
                self._log_once(f"Intel GPU {index} does not answer and is left out: see its driver's log.")
                unopened.append(Device(place(self.vendor, index), self.vendor))
        if not self._units:
            raise Unavailable(
                "Level Zero finds no Intel GPU: give this container its /dev/dri/renderD*.",
                installed=TRACE.exists(),
            )

    def _shut_down(self, library: Any, units: Sequence[Unit]) -> None:
        """Do nothing: Sysman has no shutdown that leaves the server's own use of Level Zero intact."""

    def _add(self, sysman: Sysman, handle: Any, index: int) -> None:
        """Add a GPU and its tiles. Raises `DeviceLost`."""
        device, tiles = identify(sysman, handle)
        if device is None:
            return
        device = self._distinct(device, index)
        card = Card(sysman, handle)
        found = [Unit(card, device, None, processes=self._options.processes)]
        found += [
            Unit(card, replace(device, instance_id=str(tile)), tile, processes=False)
            for tile in range(tiles if tiles > 1 else 0)
        ]
        self._units.update({unit.device.key: unit for unit in found})


def binding() -> Any:
    """Import Intel's binding, which loads Level Zero's loader. Raises `Unavailable`."""
    try:
        return importlib.import_module("pyzes")
    except ImportError:
        raise Unavailable("Intel's binding is not installed: pip install 'ai-otel[intel]'.", installed=False) from None
    except OSError as error:
        raise Unavailable(
            f"Level Zero's loader is not where Intel's binding expects it ({error}): install libze1.",
            installed=TRACE.exists(),
        ) from None


def identify(sysman: Sysman, handle: Any) -> tuple[Device | None, int]:
    """Return the constants of a GPU and its number of tiles; `None` if it is not a GPU of Intel."""
    properties = sysman.of(
        handle, "zesDeviceGetProperties", "zes_device_properties_t", "ZES_STRUCTURE_TYPE_DEVICE_PROPERTIES"
    )
    if isinstance(properties, Support) or properties.core.type != GPU or properties.core.vendorId != INTEL:
        return None, 0
    pci = sysman.of(handle, "zesDevicePciGetProperties", "zes_pci_properties_t", "ZES_STRUCTURE_TYPE_PCI_PROPERTIES")
    device = Device(
        id=str(uuid.UUID(bytes=bytes(properties.core.uuid.id))),
        vendor=LevelZeroSource.vendor,
        model=known(properties.modelName) or known(properties.core.name),
        name=known(properties.core.name),
        driver_version=known(properties.driverVersion),
        serial_number=known(properties.serialNumber),
        pci_bus_id=None if isinstance(pci, Support) else bus_id(pci.address),
    )
    return device, int(properties.numSubdevices)


def known(name: bytes) -> str | None:
    """Return a text; `None` if it is empty or "unknown"."""
    text = name.decode(errors="replace").strip()
    return None if text.lower() in UNKNOWN else text


def bus_id(address: Any) -> str:
    """Return a PCI address in the format of Linux."""
    return f"{address.domain:04x}:{address.bus:02x}:{address.device:02x}.{address.function:x}"
