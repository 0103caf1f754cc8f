"""
Whose work a GPU does: which share of it is this container's, and how much memory each of its processes holds.

NVML tells of processes by number. Older drivers tell the host's numbers, which mean nothing inside a container; then
nothing is said here. Both lists take milliseconds on some drivers, under the lock that the server's own work needs, so
they are read at most every ten seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ai_otel.gpu.nvidia.calls import NOT_FOUND, SUCCESS, Calls, code_of, support_of
from ai_otel.gpu.source import GpuReading, Support
from ai_otel.gpu.values import tell

EVERY_S = 10.0
PROC = Path("/proc")


class Tenants:
    """The processes on one GPU, or on one MIG device."""

    def __init__(self, calls: Calls, handle: Any, driver: str | None, *, memory: bool, share: bool) -> None:
        self._calls = calls
        self._handle = handle
        self._driver = driver
        self._with_memory = memory
        self._with_share = share
        self._since_us = 0
        self._read_at: float | None = None
        self._share: float | Support = Support.NOT_SUPPORTED
        self._memory: Mapping[int, int | Support] | Support = {}

    def read(self, reading: GpuReading) -> None:
        """Write both, as they were within the last ten seconds."""
        now = self._calls.clock()
        if self._read_at is None or now - self._read_at >= EVERY_S:
            self._read_at = now
            self._share = self._ask_share() if self._with_share else Support.NOT_SUPPORTED
            self._memory = self._ask_memory() if self._with_memory else {}
        tell(reading, "own_share", self._share)
        if isinstance(self._memory, Support):
            tell(reading, "process_memory_bytes", self._memory)
        else:
            for pid, held in self._memory.items():
                tell(reading, "process_memory_bytes", held, pid)

    def _ask_share(self) -> float | Support:
        name = "nvmlDeviceGetProcessUtilization"
        known = self._calls.known((name, None))
        if known is not None:
            return known
        try:
            samples = getattr(self._calls.library, name)(self._handle, self._since_us)
        except self._calls.library.NVMLError as error:
            # Nobody computed: some drivers say so, others answer success with no row, which the binding raises as well.
            if code_of(error) in {NOT_FOUND, SUCCESS}:
                return 1.0
            return self._calls.remember((name, None), support_of(code_of(error)))
        self._since_us = max((int(sample.timeStamp) for sample in samples), default=self._since_us)
        return share_of([(int(sample.pid), int(sample.smUtil)) for sample in samples], own_pid)

    def _ask_memory(self) -> Mapping[int, int | Support] | Support:
        if not rows_agree(self._calls.library, self._driver):
            return Support.NOT_FOUND
        versions = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")
        running = self._calls.first(*((name, self._handle) for name in versions))
        if isinstance(running, Support):
            return running
        held = {own_pid(one.pid): one.usedGpuMemory for one in running}
        # The driver says "not available", which the binding makes a None; it is no number of bytes.
        known = {pid: Support.INVALID if memory is None else int(memory) for pid, memory in held.items()}
        return {pid: memory for pid, memory in known.items() if pid is not None}


def rows_agree(library: Any, driver: str | None) -> bool:
    """
    Whether driver and binding mean the same row of the process list.

    535 before 535.98 had a longer one under the same name, and one binding followed it. Where only one of them does,
    numbers of processes are read out of bytes.
    """
    longer = any(column == "usedGpuCcProtectedMemory" for column, _type in library.c_nvmlProcessInfo_t._fields_)
    major, _, minor = (driver or "").partition(".")
    return longer == (major == "535" and minor.partition(".")[0].isdecimal() and int(minor.partition(".")[0]) < 98)


def share_of(computed: Sequence[tuple[int, int]], own: Callable[[int], int | None]) -> float | Support:
    """
    Our part of what was computed, from process number and percent.

    With nobody computing it is all ours. With nobody of ours among them the numbers may be another namespace's: then
    nothing can be said.
    """
    everything = sum(percent for _pid, percent in computed)
    ours = sum(percent for pid, percent in computed if own(pid) is not None)
    if not everything:
        return 1.0
    return ours / everything if ours else Support.INVALID


def own_pid(reported: int, proc: Path = PROC) -> int | None:
    """
    The number by which this process knows a process of its own container, or `None`.

    It is one of ours if it is in our control group; its number in our namespace is the one at our own's depth.
    """
    try:
        here, there = proc / "self", proc / str(reported)
        if (here / "cgroup").read_bytes() != (there / "cgroup").read_bytes():
            return None
        depth, numbers = len(namespace_pids(here)), namespace_pids(there)
    except OSError:
        return None
    return numbers[depth - 1] if 0 < depth <= len(numbers) else None


def namespace_pids(process: Path) -> list[int]:
    """A process's numbers, from the namespace of this `/proc` inward."""
    lines = (process / "status").read_text().splitlines()
    return [int(number) for line in lines if line.startswith("NSpid:") for number in line.split()[1:]]
