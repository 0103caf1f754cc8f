"""
Processes of a GPU: this container's share of the compute time, the memory of each process, and whether this server
holds it.

NVML identifies processes by PID. Older drivers report host PIDs, which cannot be resolved inside a container; the
values are then absent. Both lists take milliseconds on some drivers, under the lock that the server's own work needs,
so they are read at most every 10 s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ai_otel.gpu.nvidia.calls import NOT_FOUND, SUCCESS, Calls, code_of, support_of
from ai_otel.gpu.source import GpuReading, Support
from ai_otel.gpu.values import set_value

INTERVAL_S = 10.0
PROC = Path("/proc")
MOST_GENERATIONS = 64


class Processes:
    """The processes of one GPU or MIG device."""

    def __init__(
        self, calls: Calls, handle: Any, driver: str | None, *, memory: bool, share: bool, holders: bool
    ) -> None:
        self._calls = calls
        self._handle = handle
        self._driver = driver
        self._with_memory = memory
        self._with_share = share
        self._with_holders = holders
        self._held: bool | None = None
        self._since_us = 0
        self._read_at: float | None = None
        self._share: float | Support = Support.NOT_SUPPORTED
        self._memory: Mapping[int, int | Support] | Support = {}

    def read(self, reading: GpuReading) -> None:
        """Set `own_share`, `held` and `process_memory_bytes`, at most 10 s old."""
        now = self._calls.clock()
        if self._read_at is None or now - self._read_at >= INTERVAL_S:
            self._read_at = now
            running = self._ask_running() if self._with_memory or self._with_holders else Support.NOT_SUPPORTED
            self._share = self._ask_share(running) if self._with_share else Support.NOT_SUPPORTED
            self._memory = memory_of(running) if self._with_memory else {}
            self._held = held_by(running) if self._with_holders else None
        reading.held = self._held
        set_value(reading, "own_share", self._share)
        if isinstance(self._memory, Support):
            set_value(reading, "process_memory_bytes", self._memory)
        else:
            for pid, held in self._memory.items():
                set_value(reading, "process_memory_bytes", held, pid)

    def _ask_share(self, running: list[Any] | Support) -> float | Support:
        """
        Return the own share of the recent compute time.

        If no process computed, or the driver does not report their time, the processes that hold the device decide.
        """
        share = self._ask_utilization()
        if share not in {1.0, Support.NOT_SUPPORTED, Support.NOT_FOUND} or isinstance(running, Support) or not running:
            return share
        own = [own_pid(int(one.pid)) is not None for one in running]
        # If none of them can be resolved, they are another container's, or all process ids are the host's.
        return 1.0 if all(own) or (any(own) and share == 1.0) else Support.INVALID

    def _ask_utilization(self) -> float | Support:
        name = "nvmlDeviceGetProcessUtilization"
        known = self._calls.known((name, None))
        if known is not None:
            return known
        try:
            samples = getattr(self._calls.library, name)(self._handle, self._since_us)
        except self._calls.library.NVMLError as error:
            # No process computed: drivers return NOT_FOUND, or success without rows, which the binding raises as well.
            if code_of(error) in {NOT_FOUND, SUCCESS}:
                return 1.0
            return self._calls.remember((name, None), support_of(code_of(error)))
        self._since_us = max((int(sample.timeStamp) for sample in samples), default=self._since_us)
        return share_of([(int(sample.pid), int(sample.smUtil)) for sample in samples], own_pid)

    def _ask_running(self) -> list[Any] | Support:
        if not rows_agree(self._calls.library, self._driver):
            return Support.NOT_FOUND
        versions = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")
        running: list[Any] | Support = self._calls.first(*((name, self._handle) for name in versions))
        return running


def memory_of(running: list[Any] | Support) -> Mapping[int, int | Support] | Support:
    """Return the memory in bytes of this container's processes."""
    if isinstance(running, Support):
        return running
    held = {own_pid(one.pid): one.usedGpuMemory for one in running}
    # The binding converts the driver's "not available" to `None`.
    known = {pid: Support.INVALID if memory is None else int(memory) for pid, memory in held.items()}
    return {pid: memory for pid, memory in known.items() if pid is not None}


def held_by(running: list[Any] | Support) -> bool | None:
    """Return whether one of the processes is this one or its descendant; `None` if they are unknown."""
    return None if isinstance(running, Support) else any(is_descendant(int(one.pid)) for one in running)


def rows_agree(library: Any, driver: str | None) -> bool:
    """
    Return whether driver and binding use the same layout for rows of the process list.

    Drivers 535 before 535.98 have a longer row under the same name, and so does one binding. With different layouts
    the rows would be decoded wrongly.
    """
    longer = any(column == "usedGpuCcProtectedMemory" for column, _type in library.c_nvmlProcessInfo_t._fields_)
    major, _, minor = (driver or "").partition(".")
    return longer == (major == "535" and minor.partition(".")[0].isdecimal() and int(minor.partition(".")[0]) < 98)


def share_of(computed: Sequence[tuple[int, int]], own: Callable[[int], int | None]) -> float | Support:
    """
    Return the share of this container's processes in the total, from PIDs and percent.

    Returns 1 if no process computed, and `Support.INVALID` if none of them is this container's: the PIDs may then
    belong to another namespace.
    """
    total = sum(percent for _pid, percent in computed)
    own_percent = sum(percent for pid, percent in computed if own(pid) is not None)
    if not total:
        return 1.0
    return own_percent / total if own_percent else Support.INVALID


def own_pid(reported: int, proc: Path = PROC) -> int | None:
    """
    Return the PID of a process in this process's namespace; `None` if it is not of this container.

    A process is of this container if it has the same control group. Its PID is the one at this namespace's depth.
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
    """Return a process's PIDs, from the namespace of `/proc` to the innermost."""
    lines = (process / "status").read_text().splitlines()
    return [int(number) for line in lines if line.startswith("NSpid:") for number in line.split()[1:]]


def is_descendant(reported: int, proc: Path = PROC) -> bool:
    """
    Return whether a process is this one or its descendant, as an engine's workers are.

    Other processes of the container may belong to another server, so they do not count.
    """
    try:
        own = _status(proc / "self", "Pid")
        for _ in range(MOST_GENERATIONS):
            if reported == own:
                return True
            if reported <= 1:
                return False
            reported = _status(proc / str(reported), "PPid")
    except (OSError, ValueError):
        return False
    return False


def _status(process: Path, name: str) -> int:
    for line in (process / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.partition(":")[2])
    raise ValueError(f"{process} has no {name}")
