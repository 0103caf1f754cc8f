"""
Which processes serve requests on a device: two of them must not both claim its energy.

Each holds a shared lock on one file for each of its devices, which processes of all users can lock. One that can
upgrade its lock is alone.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ai_otel.gpu.sharing import lock_files
from ai_otel.gpu.sharing.lock_files import Lock

log = logging.getLogger("ai_otel")

REMOVED_S = 30.0
"""Seconds after which every process has noticed that a file was removed."""


class ServingMarks:
    """The marks of one process. Without a writable directory no other process is seen."""

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self._directory = directory
        self._clock = clock
        self._marks: dict[Path, Lock | None] = {}
        """`None` where the lock could not be taken: others may hold it."""
        self._alone_from_s = float("-inf")
        self._logged = False

    def mark(self, devices: Sequence[str]) -> None:
        """Mark this process as serving requests on these devices, and on no others."""
        paths = [self._directory / f"ai-otel-serving-{lock_files.hash_of(device)}.lock" for device in devices]
        for path in self._marks.keys() - set(paths):
            self._release(path)
        for path in paths:
            self._mark(path)

    def _mark(self, path: Path) -> None:
        held = self._marks.get(path)
        if held is not None and held.current:
            return
        if held is not None:  # removed: others hold a lock on the old file until they notice, too
            self._alone_from_s = self._clock() + REMOVED_S
            held.close()
        self._marks[path] = self._take(path)

    def _take(self, path: Path) -> Lock | None:
        try:
            opened = lock_files.open_shared(path)
        except OSError as error:
            if not os.path.lexists(path):
                return Lock(path, -1)
            if not self._logged:
                self._logged = True
                log.warning(
                    "ai-otel: %s: whether other processes serve on this GPU is unknown, so requests have no energy. "
                    "Remove the file, or set AI_OTEL_LOCK_DIR.",
                    error,
                )
            return None
        if lock_files.locked(opened, fcntl.LOCK_SH):
            return Lock(path, opened)
        os.close(opened)  # another process tests its own lock; the next sample retries
        return None

    def others(self) -> bool:
        """Return whether another process, of any user, serves requests on one of the marked devices."""
        for path in list(self._marks):
            self._mark(path)
        # Every device is tested: a file that was removed is noticed at all of them.
        shared = [self._is_shared(path, held) for path, held in self._marks.items()]
        return any(shared) or self._clock() < self._alone_from_s

    def _is_shared(self, path: Path, held: Lock | None) -> bool:
        if held is None or held.descriptor < 0:
            return held is None
        alone = lock_files.locked(held.descriptor, fcntl.LOCK_EX)
        # Converting a lock releases it first: reacquire the shared lock in either case.
        if not lock_files.locked(held.descriptor, fcntl.LOCK_SH):
            held.close()
            self._marks[path] = None
        return not alone

    def release(self) -> None:
        """Release all marks."""
        for path in list(self._marks):
            self._release(path)

    def _release(self, path: Path) -> None:
        held = self._marks.pop(path)
        if held is not None:
            held.close()
