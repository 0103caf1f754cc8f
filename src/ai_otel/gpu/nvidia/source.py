"""
NVIDIA GPUs by NVML, through NVIDIA's own binding (`nvidia-ml-py`), which is imported when the source is opened.

NVML is started once and held: starting it anew wakes a sleeping GPU each time. It never starts CUDA. Which GPUs there
are is what NVML enumerates in this container; no variable of the environment is asked. What is read of a GPU stands in
`nvml_whole.py`, and of a MIG instance in `nvml_instances.py`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from ai_otel.gpu.nvidia import library as nvml_library
from ai_otel.gpu.nvidia.calls import NO_PERMISSION, Calls, code_of
from ai_otel.gpu.nvidia.device import WholeGpu, identify, told
from ai_otel.gpu.nvidia.events import XidWatch
from ai_otel.gpu.nvidia.mig import MigInstance, instances_of
from ai_otel.gpu.source import Device, DeviceLost, GpuEvent, GpuReading, Options, Unavailable

log = logging.getLogger("ai_otel")


class _Unit(Protocol):
    """A GPU or a MIG instance, as something to look at."""

    device: Device

    def start(self) -> None: ...

    def read(self) -> GpuReading: ...

    def read_energy(self) -> float | None: ...

    def close(self) -> None: ...


class NvmlSource:
    """NVIDIA's GPUs. All calls come from one thread, except that XID errors are waited for on another."""

    vendor = "nvidia"

    def __init__(self, options: Options, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._options = options
        self._clock = clock
        self._library: Any = None
        self._opened_by = 0
        self._units: dict[tuple[str, str | None], _Unit] = {}
        self._xids: XidWatch | None = None

    def open(self) -> Sequence[Device]:
        """Start NVML, and find every GPU and MIG instance of this container. Raises `Unavailable`."""
        library = nvml_library.binding()
        nvml_library.start(library)
        self._library, self._opened_by = library, os.getpid()
        try:
            self._find()
        except Unavailable:
            self.close()
            raise
        return [unit.device for unit in self._units.values()]

    def read(self, device: Device) -> GpuReading:
        """Everything about one GPU or MIG instance. Raises `DeviceLost`."""
        return self._units[device.key].read()

    def read_energy(self, device: Device) -> float | None:
        """Joules since the driver was loaded; `None` for a MIG instance, which has no counter. Raises `DeviceLost`."""
        return self._units[device.key].read_energy()

    def events(self) -> Sequence[GpuEvent]:
        """The XID errors since the last call."""
        return self._xids.drain() if self._xids is not None else []

    def close(self) -> None:
        """Let go of NVML. In the child of a fork nothing is called: NVML is the parent's."""
        library, self._library = self._library, None
        units, self._units = self._units, {}
        xids, self._xids = self._xids, None
        if library is None or os.getpid() != self._opened_by:
            return
        if xids is not None and not xids.close():
            log.warning("ai-otel: NVIDIA's driver does not return from waiting for events; NVML stays loaded.")
            return
        for unit in units.values():
            unit.close()
        with suppress(library.NVMLError):
            library.nvmlShutdown()

    def _find(self) -> None:
        calls = Calls(self._library, self._clock)
        driver = told(calls.ask("nvmlSystemGetDriverVersion"))
        try:
            count = self._library.nvmlDeviceGetCount()
        except self._library.NVMLError as error:
            raise nvml_library.unavailable(error) from None
        handles = [self._handle(index) for index in range(count)]
        gpus = [gpu for handle in handles if handle is not None and (gpu := self._gpu(handle, driver)) is not None]
        if not gpus:
            raise (
                nvml_library.no_gpu()
                if not count
                else Unavailable(
                    "NVML tells of no GPU that it can open: see what nvidia-smi says in this container.", installed=True
                )
            )
        tell_of_persistence([gpu.device.id for gpu in gpus if gpu.sleeps])
        tell_of_smoothing([gpu.device.id for gpu in gpus if gpu.smoothed])
        self._listen(calls, gpus)

    def _handle(self, index: int) -> Any:
        try:
            return self._library.nvmlDeviceGetHandleByIndex(index)
        except self._library.NVMLError as error:
            next_step = (
                f"give this user access to /dev/nvidia{index}"
                if code_of(error) == NO_PERMISSION
                else "see what nvidia-smi says about it"
            )
            log.warning("ai-otel: GPU %d cannot be opened (%s) and is left out: %s.", index, error, next_step)
            return None

    def _gpu(self, handle: Any, driver: str | None) -> WholeGpu | None:
        """The GPU, with its MIG instances taken into account; `None` where it does not even tell its UUID."""
        calls, processes = Calls(self._library, self._clock), self._options.processes
        units: list[_Unit] = []
        try:
            device = identify(calls, handle, driver)
            if device is None:
                return None
            parts = instances_of(calls, handle, device)
            gpu = WholeGpu(calls, handle, device, mig=parts is not None, processes=processes)
            units.append(gpu)
            own = [Calls(self._library, self._clock) for _ in parts or ()]
            units += [
                MigInstance(each, handle, part, processes=processes)
                for each, part in zip(own, parts or (), strict=True)
            ]
            for unit in units:
                unit.start()
        except DeviceLost:
            log.warning("ai-otel: a GPU does not answer and is left out: see what nvidia-smi says about it.")
            for unit in units:
                unit.close()
            return None
        self._units |= {unit.device.key: unit for unit in units}
        return gpu

    def _listen(self, calls: Calls, gpus: Sequence[WholeGpu]) -> None:
        parts = {(key[0], key[1]): unit.device for key, unit in self._units.items() if key[1] is not None}
        self._xids = XidWatch(calls, [(gpu.handle, gpu.device) for gpu in gpus], parts)
        self._xids.start()


def tell_of_persistence(sleeping: Sequence[str]) -> None:
    """Say once which GPUs the driver lets go of when nobody uses them; we hold them while we run."""
    if sleeping:
        log.warning(
            "ai-otel: persistence mode is off on %s, so starts may take seconds: run nvidia-persistenced on the node.",
            ", ".join(sleeping),
        )


def tell_of_smoothing(smoothed: Sequence[str]) -> None:
    """Say once which GPUs draw more than they need between bursts, by setting."""
    if smoothed:
        log.warning(
            "ai-otel: power smoothing is on on %s: what they draw without a request is a setting, not waste.",
            ", ".join(smoothed),
        )
