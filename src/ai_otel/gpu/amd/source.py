"""
AMD GPUs by AMD SMI, through AMD's own binding `amdsmi`, which is imported when the source is opened.

The binding belongs to one release of ROCm: it comes with it (`/opt/rocm/share/amd_smi`), or from PyPI in the same
version. What is read of a GPU stands in `amdsmi_gpu.py`. A GPU in partitions (DPX, QPX, CPX) is one device that has the
values of the board, and one part for each partition that has its own utilization: AMD tells no more of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ai_otel.gpu.amd import library as amdsmi_library
from ai_otel.gpu.amd.calls import Calls, number, text
from ai_otel.gpu.amd.device import Partition, WholeGpu
from ai_otel.gpu.source import Device, GpuEvent, GpuReading, Options, Support, Unavailable


class AmdSmiSource:
    """AMD's GPUs. All calls come from one thread."""

    vendor = "amd"

    def __init__(self, options: Options, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._options = options
        self._clock = clock
        self._library: Any = None
        self._opened_by = 0
        self._units: dict[tuple[str, str | None], WholeGpu | Partition] = {}

    def open(self) -> Sequence[Device]:
        """Start AMD SMI, and find every GPU and partition of this container. Raises `Unavailable`."""
        self._library, self._opened_by = amdsmi_library.started(), os.getpid()
        try:
            self._find()
        except Unavailable:
            self.close()
            raise
        return [unit.device for unit in self._units.values()]

    def read(self, device: Device) -> GpuReading:
        """Everything about one GPU or partition. Raises `DeviceLost`."""
        return self._units[device.key].read()

    def read_energy(self, device: Device) -> float | None:
        """Joules since the driver was loaded; `None` for a partition, which has no counter. Raises `DeviceLost`."""
        return self._units[device.key].read_energy()

    def events(self) -> Sequence[GpuEvent]:
        """None: AMD's driver numbers no errors."""
        return ()

    def close(self) -> None:
        """Let go of AMD SMI. In the child of a fork nothing is called: it is the parent's."""
        library, self._library = self._library, None
        self._units = {}
        if library is not None and os.getpid() == self._opened_by:
            with suppress(library.AmdSmiException):
                library.amdsmi_shut_down()

    def _find(self) -> None:
        by_uuid: dict[str, list[Any]] = {}
        for handle in amdsmi_library.handles(self._library):
            uuid = text(self._calls(handle).ask("amdsmi_get_gpu_device_uuid"))
            if uuid is not None:
                by_uuid.setdefault(uuid, []).append(handle)
        for uuid, handles in by_uuid.items():
            self._add(uuid, handles)
        if not self._units:
            raise amdsmi_library.no_gpu()

    def _add(self, uuid: str, handles: Sequence[Any]) -> None:
        """One GPU, and its partitions where there are several: they share its UUID."""
        partitions = {self._partition_of(handle, index): handle for index, handle in enumerate(handles)}
        if len(partitions) < len(handles):  # nobody says which is which
            partitions = dict(enumerate(handles))
        board = self._calls(partitions[min(partitions)])
        profile = text(board.ask("amdsmi_get_gpu_compute_partition"))
        gpu = WholeGpu(board, identify(board, uuid), self._clock, processes=self._options.processes)
        self._units[gpu.device.key] = gpu
        if len(handles) > 1:
            for partition in sorted(partitions):
                part = Partition(gpu, partition, profile)
                self._units[part.device.key] = part

    def _partition_of(self, handle: Any, index: int) -> int:
        told = self._calls(handle).ask("amdsmi_get_gpu_kfd_info")
        partition = number(told, "current_partition_id")
        return index if isinstance(partition, Support) else int(partition)

    def _calls(self, handle: Any) -> Calls:
        return Calls(self._library, handle)


def identify(calls: Calls, uuid: str) -> Device:
    """The constants of a GPU. Its `id` is the UUID: the market name is the same for all of a kind."""
    asic: Mapping[str, Any] | Support = calls.ask("amdsmi_get_gpu_asic_info")
    return Device(
        id=uuid,
        vendor=AmdSmiSource.vendor,
        model=text(asic, "market_name"),
        name=text(calls.ask("amdsmi_get_gpu_board_info"), "product_name"),
        driver_version=text(calls.ask("amdsmi_get_gpu_driver_info"), "driver_version"),
        firmware_version=text(calls.ask("amdsmi_get_gpu_vbios_info"), "version"),
        serial_number=text(asic, "asic_serial"),
        pci_bus_id=text(calls.ask("amdsmi_get_gpu_device_bdf")),
    )
