"""Memory of a GPU or MIG instance: total, used, and reserved by driver and firmware."""

from __future__ import annotations

from typing import Any

from ai_otel.gpu.nvidia.calls import Calls
from ai_otel.gpu.source import GpuReading, Support
from ai_otel.gpu.values import set_value

MEMORY = ("memory_total_bytes", "memory_used_bytes", "memory_reserved_bytes")
MOST_BYTES = 1 << 50


def read_memory(calls: Calls, handle: Any, reading: GpuReading) -> None:
    """
    Set the memory values of a GPU or MIG device.

    Drivers with version 1 of the call only include reserved memory in used memory and do not report its size:
    `memory_reserved_bytes` is then absent.
    """
    memory = calls.ask("nvmlDeviceGetMemoryInfo", handle, calls.library.nvmlMemory_v2, about="v2")
    reserved: int | Support
    if isinstance(memory, Support):
        reserved, memory = memory, calls.ask("nvmlDeviceGetMemoryInfo", handle, about="v1")
    else:
        reserved = int(memory.reserved)
    if isinstance(memory, Support):
        _set_absent(reading, memory)
        return
    total, used, free = int(memory.total), int(memory.used), int(memory.free)
    if isinstance(reserved, int) and used + free + reserved > total + reserved // 2:
        # By NVIDIA's header, version 2 may include reserved memory in used memory, too. The sum then exceeds the total.
        used -= reserved
    if not 0 < total < MOST_BYTES or not 0 <= used <= total:
        _set_absent(reading, Support.INVALID)
        return
    for name, value in zip(MEMORY, (total, used, reserved), strict=True):
        set_value(reading, name, value)


def _set_absent(reading: GpuReading, why: Support) -> None:
    for name in MEMORY:
        set_value(reading, name, why)
