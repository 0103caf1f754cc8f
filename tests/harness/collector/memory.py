"""Runs a program in a container's memory: a memory cgroup, or where none can be made, a limit that is only compared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.collector.hostile import memory_mb
from harness.polling import wait_until

ROOT = Path("/sys/fs/cgroup")
MIB = 1 << 20


@dataclass
class Container:
    """A memory limit, and how a program gets into it."""

    mebibytes: int
    group: Path | None
    """The cgroup that enforces the limit."""
    why: str = ""
    """Why there is none."""

    @property
    def inside(self) -> list[str]:
        """The command that becomes the one given to it, in the cgroup."""
        return ["sh", "-c", f'echo $$ > {self.group}/cgroup.procs && exec "$@"', "sh"] if self.group else []

    @property
    def environment(self) -> dict[str, str]:
        """What every deployment of this project sets beside the limit."""
        return {"GOMEMLIMIT": f"{self.mebibytes * 8 // 10}MiB"}

    def peak_mib(self, process_id: int) -> float:
        """The most that was used; the kernel's count for a cgroup, else the process' resident memory."""
        if self.group is None:
            return memory_mb(process_id)
        files = (self.group / name for name in ("memory.peak", "memory.max_usage_in_bytes"))
        return next(int(file.read_text()) for file in files if file.exists()) / MIB

    def __str__(self) -> str:
        return (
            f"{self.mebibytes} MiB, {'enforced' if self.group else f'compared with resident memory only: {self.why}'}"
        )


@contextmanager
def container(mebibytes: int) -> Iterator[Container]:
    """A memory cgroup of this size while the block runs, of version 1 or 2; without one the reason is in `why`."""
    is_first_version = (ROOT / "memory").is_dir()
    group = ROOT / ("memory" if is_first_version else "") / f"ai-otel-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if is_first_version else "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(mebibytes * MIB))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        yield Container(mebibytes, None, f"no memory cgroup can be made here ({error})")
        return
    try:
        yield Container(mebibytes, group)
    finally:
        assert wait_until(lambda: _removed(group), 10), f"{group} is still in use"


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True
