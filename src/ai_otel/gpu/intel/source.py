"""
Intel GPUs by Level Zero Sysman, through Intel's own binding `pyzes`, which is imported when the source is opened.

Sysman is started by its own `zesInit`; `ZES_ENABLE_SYSMAN` is neither needed nor set: it would change how the server's
own Level Zero starts. A GPU of several tiles is one device that has the values of the card, and one part for each tile.
What is read of them stands in `level_zero_gpu.py`.
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
from ai_otel.gpu.source import Device, DeviceLost, GpuEvent, GpuReading, Options, Support, Unavailable

TRACE = Path(TRACES["intel"][0])
"""Where graphics devices of any vendor are."""

INTEL = 0x8086
GPU = 1
UNKNOWN = frozenset({"", "unknown"})


class LevelZeroSource:
    """Intel's GPUs. All calls come from one thread."""

    vendor = "intel"

    def __init__(self, options: Options) -> None:
        self._options = options
        self._units: dict[tuple[str, str | None], Unit] = {}

    def open(self) -> Sequence[Device]:
        """Start Sysman, and find every GPU and tile of this container. Raises `Unavailable`."""
        sysman = Sysman(binding())
        if (result := sysman.library.zesInit(0)) != 0:
            raise Unavailable(
                f"Level Zero Sysman does not start (0x{result:x}): install Intel's compute runtime (libze-intel-gpu1), "
                "and start the server without ZES_ENABLE_SYSMAN.",
                installed=TRACE.exists(),
            )
        for handle in sysman.gpus():
            self._add(sysman, handle)
        if not self._units:
            raise Unavailable(
                "Level Zero tells of no Intel GPU: give this container its /dev/dri/renderD*.",
                installed=TRACE.exists(),
            )
        return [unit.device for unit in self._units.values()]

    def read(self, device: Device) -> GpuReading:
        """Everything about one GPU or tile. Raises `DeviceLost`."""
        return self._units[device.key].read()

    def read_energy(self, device: Device) -> float | None:
        """Joules since the card's last reset; `None` where there is no counter. Raises `DeviceLost`."""
        joules = self._units[device.key].joules()
        return None if isinstance(joules, Support) else joules

    def events(self) -> Sequence[GpuEvent]:
        """None: Sysman's events are waited for, and have no numbers."""
        return ()

    def close(self) -> None:
        """Forget every handle. Sysman has no end that would leave the server's own use of Level Zero alone."""
        self._units = {}

    def _add(self, sysman: Sysman, handle: Any) -> None:
        try:
            device, tiles = identify(sysman, handle)
            if device is None:
                return
            card = Card(sysman, handle)
            found = [Unit(card, device, None, processes=self._options.processes)]
            found += [
                Unit(card, replace(device, instance_id=str(tile)), tile, processes=False)
                for tile in range(tiles if tiles > 1 else 0)
            ]
            self._units.update({unit.device.key: unit for unit in found})
        except DeviceLost:  # it does not even tell who it is
            return


def binding() -> Any:
    """Import Intel's binding, which loads Level Zero's loader. Raises `Unavailable`."""
    try:
        return importlib.import_module("pyzes")
    except ImportError:
        raise Unavailable("Intel's binding is not here: pip install 'ai-otel[intel]'.", installed=False) from None
    except OSError as error:
        raise Unavailable(
            f"Level Zero's loader is not where Intel's binding looks for it ({error}): install libze1.",
            installed=TRACE.exists(),
        ) from None


def identify(sysman: Sysman, handle: Any) -> tuple[Device | None, int]:
    """The constants of a GPU, and how many tiles it has; no device where it is not Intel's, or no GPU."""
    told = sysman.of(
        handle, "zesDeviceGetProperties", "zes_device_properties_t", "ZES_STRUCTURE_TYPE_DEVICE_PROPERTIES"
    )
    if isinstance(told, Support) or told.core.type != GPU or told.core.vendorId != INTEL:
        return None, 0
    pci = sysman.of(handle, "zesDevicePciGetProperties", "zes_pci_properties_t", "ZES_STRUCTURE_TYPE_PCI_PROPERTIES")
    device = Device(
        id=str(uuid.UUID(bytes=bytes(told.core.uuid.id))),
        vendor=LevelZeroSource.vendor,
        model=known(told.modelName) or known(told.core.name),
        name=known(told.core.name),
        driver_version=known(told.driverVersion),
        serial_number=known(told.serialNumber),
        pci_bus_id=None if isinstance(pci, Support) else bus_id(pci.address),
    )
    return device, int(told.numSubdevices)


def known(name: bytes) -> str | None:
    """A text, where it says something."""
    text = name.decode(errors="replace").strip()
    return None if text.lower() in UNKNOWN else text


def bus_id(address: Any) -> str:
    """As Linux writes it."""
    return f"{address.domain:04x}:{address.bus:02x}:{address.device:02x}.{address.function:x}"
