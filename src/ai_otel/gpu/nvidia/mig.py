"""
Reads one MIG GPU instance by NVML: its memory and, on Hopper and newer, its activity.

A GPU instance (GI) holds one or more compute instances (CI), each a MIG device with a UUID. Memory and activity belong
to the GI. A GI is therefore one device here, identified by the UUID of its first CI that is visible to the container.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from ai_otel.gpu.nvidia.calls import Calls
from ai_otel.gpu.nvidia.gpm import Gpm
from ai_otel.gpu.nvidia.memory import read_memory
from ai_otel.gpu.nvidia.processes import Processes
from ai_otel.gpu.source import Device, DeviceLost, GpuReading, Support
from ai_otel.gpu.values import set_value

ENABLED = 1

Layout = Mapping[int, "str | None"]
"""GPU instance id → UUID."""


@dataclass(frozen=True, slots=True)
class GpuInstance:
    """One GPU instance that is visible to this container."""

    device: Device
    handle: Any
    number: int
    """GPU instance id."""


def instances_of(calls: Calls, gpu: Any, whole: Device) -> list[GpuInstance] | None:
    """Return the visible instances of a GPU; `None` if it is not in MIG mode. Raises `DeviceLost`."""
    if not is_enabled(calls, gpu):
        return None
    most = calls.ask("nvmlDeviceGetMaxMigDeviceCount", gpu)
    handles = [_handle(calls, gpu, index) for index in range(0 if isinstance(most, Support) else most)]
    instances: dict[int, GpuInstance] = {}
    for handle in handles:
        number = Support.NOT_FOUND if handle is None else calls.ask("nvmlDeviceGetGpuInstanceId", handle)
        if not isinstance(number, Support) and number not in instances:
            instances[number] = GpuInstance(_identify(calls, handle, whole, number), handle, number)
    return list(instances.values())


def is_enabled(calls: Calls, gpu: Any) -> bool | None:
    """Return whether a GPU is in MIG mode; `None` if NVML does not answer that. Raises `DeviceLost`."""
    mode = calls.ask("nvmlDeviceGetMigMode", gpu)
    if isinstance(mode, Support):
        return False if mode is Support.NOT_SUPPORTED else None
    return bool(mode[0] == ENABLED)


def layout_of(instances: Sequence[GpuInstance]) -> Layout:
    """Return what identifies the instances: an instance that is created again has another UUID."""
    return {instance.number: instance.device.instance_uuid for instance in instances}


def _handle(calls: Calls, gpu: Any, index: int) -> Any:
    """Return the MIG device at an index; `None` if it was destroyed or is not visible to this container."""
    answer = calls.ask("nvmlDeviceGetMigDeviceHandleByIndex", gpu, index, about=index)
    return None if isinstance(answer, Support) else answer


def _identify(calls: Calls, handle: Any, whole: Device, number: int) -> Device:
    uuid = calls.ask("nvmlDeviceGetUUID", handle, about=number)
    return replace(
        whole,
        instance_id=str(number),
        instance_profile=_profile(calls, handle, number),
        instance_uuid=None if isinstance(uuid, Support) else str(uuid),
    )


def _profile(calls: Calls, handle: Any, number: int) -> str | None:
    """Return the profile of a name: `1g.18gb` for `NVIDIA H200 MIG 1g.18gb`."""
    name = calls.ask("nvmlDeviceGetName", handle, about=number)
    found = None if isinstance(name, Support) else re.search(r"\bMIG (\S+)$", str(name))
    return found.group(1) if found else None


class MigInstance:
    """One MIG GPU instance. It has no energy counter."""

    def __init__(self, calls: Calls, gpu: Any, instance: GpuInstance, *, processes: bool, holders: bool) -> None:
        self.device = instance.device
        self._calls = calls
        self._handle = instance.handle
        self._gpm = Gpm(calls, gpu, instance.number)
        self._processes = Processes(
            calls, instance.handle, instance.device.driver_version, memory=processes, share=False, holders=holders
        )

    def start(self) -> None:
        """Take the first of the two samples that the performance metrics compare. Raises `DeviceLost`."""
        self._gpm.start()

    def read(self) -> GpuReading:
        """Read all values. Values of the whole GPU only are absent. Raises `DeviceLost`."""
        reading = GpuReading()
        read_memory(self._calls, self._handle, reading)
        self._gpm.read(reading)
        self._processes.read(reading)
        for name in DEVICE_FIELDS:
            set_value(reading, name, Support.NOT_SUPPORTED)
        return reading

    def read_energy(self) -> float | None:
        """Return `None`: NVML has no energy counter for an instance."""
        return None

    def close(self) -> None:
        """Free the sample buffers."""
        with suppress(DeviceLost):
            self._gpm.close()


_INSTANCE_FIELDS = {
    "memory_total_bytes",
    "memory_used_bytes",
    "memory_reserved_bytes",
    "memory_bandwidth_utilization",
    "sm_activity",
    "sm_occupancy",
    "pipe_activity",
    "process_memory_bytes",
    "own_share",
    "held",
    "absent",
}
DEVICE_FIELDS: Sequence[str] = [each.name for each in fields(GpuReading) if each.name not in _INSTANCE_FIELDS]
"""Fields that NVML provides for whole GPUs only."""
