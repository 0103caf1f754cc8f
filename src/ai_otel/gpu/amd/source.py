"""
AMD GPUs by AMD SMI, through AMD's binding `amdsmi`, which is imported when the source is opened.

The binding belongs to one release of ROCm: it is part of it (`/opt/rocm/share/amd_smi`), or is on PyPI in the same
version. A partitioned GPU (DPX, QPX, CPX) is one device with the board's values, and one instance for each partition
with its own utilization, the only value that AMD SMI reports by partition.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ai_otel.gpu.amd import library as amdsmi_library
from ai_otel.gpu.amd.calls import Calls, number, text
from ai_otel.gpu.amd.device import Gpu, Partition
from ai_otel.gpu.library_source import LibrarySource, place
from ai_otel.gpu.source import Device, Options, Support


class AmdSmiSource(LibrarySource[Gpu | Partition]):
    """AMD's GPUs and partitions. All calls come from one thread."""

    vendor = "amd"

    def __init__(self, options: Options, *, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self._options = options
        self._clock = clock

    def _start(self) -> Any:
        return amdsmi_library.start()

    def _shut_down(self, library: Any, units: Sequence[Gpu | Partition]) -> None:
        del units
        with suppress(library.AmdSmiException):
            library.amdsmi_shut_down()

    def _discover(self) -> None:
        by_uuid: dict[str, list[Any]] = {}
        for index, handle in enumerate(amdsmi_library.handles(self._library)):
            calls = self._calls(handle)
            uuid = text(calls.ask("amdsmi_get_gpu_device_uuid"))
            name = uuid or place(self.vendor, index, text(calls.ask("amdsmi_get_gpu_device_bdf")))
            by_uuid.setdefault(name, []).append(handle)
        for uuid, handles in by_uuid.items():
            self._add(uuid, handles)
        if not self._units:
            raise amdsmi_library.no_gpu()

    def _add(self, uuid: str, handles: Sequence[Any]) -> None:
        """Add one GPU and its partitions: they share its UUID."""
        partitions = {self._partition_of(handle, index): handle for index, handle in enumerate(handles)}
        if len(partitions) < len(handles):  # partition ids are not unique
            partitions = dict(enumerate(handles))
        board = self._calls(partitions[min(partitions)])
        profile = text(board.ask("amdsmi_get_gpu_compute_partition"))
        gpu = Gpu(board, identify(board, uuid), self._clock, processes=self._options.processes)
        self._units[gpu.device.key] = gpu
        if len(handles) > 1:
            for index in sorted(partitions):
                partition = Partition(gpu, index, profile)
                self._units[partition.device.key] = partition

    def _partition_of(self, handle: Any, index: int) -> int:
        partition = number(self._calls(handle).ask("amdsmi_get_gpu_kfd_info"), "current_partition_id")
        return index if isinstance(partition, Support) else int(partition)

    def _calls(self, handle: Any) -> Calls:
        return Calls(self._library, handle)


def identify(calls: Calls, uuid: str) -> Device:
    """Return the constants of a GPU. Its `id` is the UUID, because the market name is not unique."""
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
