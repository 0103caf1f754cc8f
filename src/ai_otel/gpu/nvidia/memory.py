"""How full a GPU's memory is, and how much of it driver and firmware keep for themselves."""

from __future__ import annotations

from typing import Any

from ai_otel.gpu.nvidia.calls import Calls
from ai_otel.gpu.source import GpuReading, Support
from ai_otel.gpu.values import tell

MEMORY = ("memory_total_bytes", "memory_used_bytes", "memory_reserved_bytes")
MOST_BYTES = 1 << 50


def read_memory(calls: Calls, handle: Any, reading: GpuReading) -> None:
    """
    Write the memory of a GPU or MIG device.

    A driver that has only the first version of the call counts what is reserved as used, and does not say how much that
    is: then `memory_reserved_bytes` is absent, and `memory_used_bytes` has it.
    """
    memory = calls.ask("nvmlDeviceGetMemoryInfo", handle, calls.library.nvmlMemory_v2, about="v2")
    reserved: int | Support
    if isinstance(memory, Support):
        reserved, memory = memory, calls.ask("nvmlDeviceGetMemoryInfo", handle, about="v1")
    else:
        reserved = int(memory.reserved)
    if isinstance(memory, Support):
        _nothing(reading, memory)
        return
    total, used, free = int(memory.total), int(memory.used), int(memory.free)
    if isinstance(reserved, int) and used + free + reserved > total + reserved // 2:
        # NVIDIA's header says of the second version, too, that what is reserved is in what is used. Where it is, the
        # parts add up to more than there is.
        used -= reserved
    if not 0 < total < MOST_BYTES or not 0 <= used <= total:
        _nothing(reading, Support.INVALID)
        return
    for name, value in zip(MEMORY, (total, used, reserved), strict=True):
        tell(reading, name, value)


def _nothing(reading: GpuReading, why: Support) -> None:
    for name in MEMORY:
        tell(reading, name, why)
