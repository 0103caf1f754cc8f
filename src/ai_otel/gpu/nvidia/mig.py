"""
What NVML tells of one MIG instance: its memory and, on Hopper and newer, its activity.

An instance (GI) may hold several compute instances (CI), each a MIG device with a UUID. Memory and activity are the
GI's, so a GI is one device here, by the UUID of the first CI that this container may see.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from ai_otel.gpu.nvidia.calls import Calls
from ai_otel.gpu.nvidia.gpm import Gpm
from ai_otel.gpu.nvidia.memory import read_memory
from ai_otel.gpu.nvidia.processes import Tenants
from ai_otel.gpu.source import Device, DeviceLost, GpuReading, Support
from ai_otel.gpu.values import tell

ENABLED = 1


@dataclass(frozen=True, slots=True)
class Part:
    """One instance that this container may see."""

    device: Device
    handle: Any
    number: int
    """Its GPU instance id."""


def instances_of(calls: Calls, gpu: Any, whole: Device) -> list[Part] | None:
    """The visible instances of a GPU; `None` where it is not in MIG mode. Raises `DeviceLost`."""
    mode = calls.ask("nvmlDeviceGetMigMode", gpu)
    if isinstance(mode, Support) or mode[0] != ENABLED:
        return None
    most = calls.ask("nvmlDeviceGetMaxMigDeviceCount", gpu)
    handles = [_handle(calls, gpu, index) for index in range(0 if isinstance(most, Support) else most)]
    parts: dict[int, Part] = {}
    for handle in handles:
        number = Support.NOT_FOUND if handle is None else calls.ask("nvmlDeviceGetGpuInstanceId", handle)
        if not isinstance(number, Support) and number not in parts:
            parts[number] = Part(_identify(calls, handle, whole, number), handle, number)
    return list(parts.values())


def _handle(calls: Calls, gpu: Any, index: int) -> Any:
    """The MIG device in this place; places are free where one was destroyed, or is not this container's."""
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
    """`1g.18gb`, out of a name such as `NVIDIA H200 MIG 1g.18gb`."""
    name = calls.ask("nvmlDeviceGetName", handle, about=number)
    found = None if isinstance(name, Support) else re.search(r"\bMIG (\S+)$", str(name))
    return found.group(1) if found else None


class MigInstance:
    """One MIG instance."""

    def __init__(self, calls: Calls, gpu: Any, part: Part, *, processes: bool) -> None:
        self.device = part.device
        self._calls = calls
        self._handle = part.handle
        self._gpm = Gpm(calls, gpu, part.number)
        self._tenants = Tenants(calls, part.handle, part.device.driver_version, memory=processes, share=False)

    def start(self) -> None:
        """Take the first sample. Raises `DeviceLost`."""
        self._gpm.start()

    def read(self) -> GpuReading:
        """One look. What only the whole GPU has is absent. Raises `DeviceLost`."""
        reading = GpuReading()
        read_memory(self._calls, self._handle, reading)
        self._gpm.read(reading)
        self._tenants.read(reading)
        for name in OF_THE_WHOLE:
            tell(reading, name, Support.NOT_SUPPORTED)
        return reading

    def read_energy(self) -> None:
        """There is no counter: energy of an instance would be a model."""
        return

    def close(self) -> None:
        """Free what the driver keeps for us."""
        with suppress(DeviceLost):
            self._gpm.close()


_OF_AN_INSTANCE = {
    "memory_total_bytes",
    "memory_used_bytes",
    "memory_reserved_bytes",
    "memory_bandwidth_utilization",
    "sm_activity",
    "sm_occupancy",
    "pipe_activity",
    "process_memory_bytes",
    "own_share",
    "absent",
}
OF_THE_WHOLE: Sequence[str] = [each.name for each in fields(GpuReading) if each.name not in _OF_AN_INSTANCE]
"""What NVML has for no instance."""
