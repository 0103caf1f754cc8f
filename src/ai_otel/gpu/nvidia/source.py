"""
NVIDIA GPUs by NVML, through NVIDIA's binding (`nvidia-ml-py`), which is imported when the source is opened.

NVML is initialized once and held, because each initialization wakes an idle GPU. CUDA is never initialized. The GPUs
are those that NVML enumerates in this container; which of them are the server's, `gpu/selection.py` decides.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ai_otel.gpu.library_source import LibrarySource, place
from ai_otel.gpu.nvidia import library as nvml_library
from ai_otel.gpu.nvidia.calls import NO_PERMISSION, Calls, code_of
from ai_otel.gpu.nvidia.device import Gpu, identify, text
from ai_otel.gpu.nvidia.events import XidMonitor
from ai_otel.gpu.nvidia.mig import MigInstance, instances_of, layout_of
from ai_otel.gpu.source import Device, DeviceLost, GpuEvent, Options

log = logging.getLogger("ai_otel")


class NvmlSource(LibrarySource[Gpu | MigInstance]):
    """NVIDIA's GPUs and MIG instances. All calls come from one thread; a second one waits for XID errors."""

    vendor = "nvidia"

    def __init__(self, options: Options, *, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self._options = options
        self._clock = clock
        self._xids: XidMonitor | None = None

    def events(self) -> Sequence[GpuEvent]:
        """Return the XID errors since the last call."""
        return self._xids.drain() if self._xids is not None else []

    def _start(self) -> Any:
        library = nvml_library.binding()
        nvml_library.start(library)
        return library

    def _shut_down(self, library: Any, units: Sequence[Gpu | MigInstance]) -> None:
        xids, self._xids = self._xids, None
        if xids is not None and not xids.close():
            log.warning("ai-otel: NVIDIA's driver does not return from waiting for events; NVML stays loaded.")
            return
        for unit in units:
            unit.close()
        with suppress(library.NVMLError):
            library.nvmlShutdown()

    def _discover(self) -> None:
        calls = Calls(self._library, self._clock)
        driver = text(calls.ask("nvmlSystemGetDriverVersion"))
        try:
            count = self._library.nvmlDeviceGetCount()
        except self._library.NVMLError as error:
            raise nvml_library.unavailable(error) from None
        self.unopened = unopened = list[Device]()
        gpus = [gpu for index in range(count) if (gpu := self._open(index, driver, unopened)) is not None]
        if not gpus:
            raise nvml_library.unreadable() if count else nvml_library.no_gpu()
        log_persistence([gpu.device.id for gpu in gpus if gpu.sleeps])
        log_power_smoothing([gpu.device.id for gpu in gpus if gpu.smoothed])
        self._monitor_xids(calls, gpus)

    def _open(self, index: int, driver: str | None, unopened: list[Device]) -> Gpu | None:
        """Add a GPU and its MIG instances; `None` if it cannot be opened. If that is a fault, it is in `unopened`."""
        device = Device(place(self.vendor, index), self.vendor, driver_version=driver, index=index)
        try:
            handle = self._library.nvmlDeviceGetHandleByIndex(index)
            calls = Calls(self._library, self._clock)
            device = self._distinct(identify(calls, handle, driver, index), index)
            return self._gpu(calls, handle, device)
        except self._library.NVMLError as error:
            denied = code_of(error) == NO_PERMISSION
            next_step = (
                f"give this user access to /dev/nvidia{index}" if denied else "see what nvidia-smi reports about it"
            )
            self._log_once(f"GPU {index} cannot be opened ({error}) and is left out: {next_step}.")
            if not denied:  # schedulers hide the GPUs of other jobs this way
                unopened.append(device)
        except DeviceLost:
            self._log_once(f"GPU {index} does not answer and is left out: see what nvidia-smi reports about it.")
            unopened.append(device)
        return None

    def _gpu(self, calls: Calls, handle: Any, device: Device) -> Gpu:
        """Add a GPU and its MIG instances. Raises `DeviceLost`."""
        options = self._options
        instances = instances_of(calls, handle, device)
        layout = None if instances is None else layout_of(instances)
        gpu = Gpu(calls, handle, device, layout=layout, processes=options.processes, holders=options.holders)
        units: list[Gpu | MigInstance] = [gpu] + [
            MigInstance(
                Calls(self._library, self._clock),
                handle,
                instance,
                processes=options.processes,
                holders=options.holders,
            )
            for instance in instances or ()
        ]
        try:
            for unit in units:
                unit.start()
        except DeviceLost:
            for unit in units:
                unit.close()
            raise
        self._units |= {unit.device.key: unit for unit in units}
        return gpu

    def _monitor_xids(self, calls: Calls, gpus: Sequence[Gpu]) -> None:
        instances = {(key[0], key[1]): unit.device for key, unit in self._units.items() if key[1] is not None}
        self._xids = XidMonitor(calls, [(gpu.handle, gpu.device) for gpu in gpus], instances)
        self._xids.start()


def log_persistence(sleeping: Sequence[str]) -> None:
    """Log the GPUs that the driver deinitializes when unused. An open source keeps them initialized."""
    if sleeping:
        log.warning(
            "ai-otel: persistence mode is off on %s, so starts may take seconds: run nvidia-persistenced on the node.",
            ", ".join(sleeping),
        )


def log_power_smoothing(smoothed: Sequence[str]) -> None:
    """Log the GPUs whose power smoothing keeps their power draw up between bursts."""
    if smoothed:
        log.warning(
            "ai-otel: power smoothing is on on %s: what they draw without a request is a setting, not waste.",
            ", ".join(smoothed),
        )
