"""
Leader election among the processes of a container: the leader samples the devices.

Uses kernel locks (`flock`) on two files in the temporary directory. They need no privilege, and the kernel releases
them when their process ends. The exclusive lock on the first file makes its holder the leader. Every process that
serves requests holds a shared lock on the second file; a process that can upgrade its lock is the only one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("ai_otel")


class LeaderElection:
    """One process's locks. Without a writable directory every process is a leader and sees no others."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._leading: int | None = None
        self._serving: int | None = None
        self._logged = False

    def won(self) -> bool:
        """Return whether this process is the leader. Followers ask again and take over when the leader ends."""
        if self._leading is not None:
            return True
        held = self._lock("gpu", fcntl.LOCK_EX)
        if held is None:
            return False
        self._leading = held
        return True

    def serve(self) -> None:
        """Mark this process as serving requests."""
        if self._serving is None:
            # Fails while another process tests its own lock; the next sample retries.
            self._serving = self._lock("serving", fcntl.LOCK_SH)

    def others_serving(self) -> bool:
        """Return whether another process of this container serves requests, too."""
        self.serve()
        if self._serving is None:
            return True
        if self._serving < 0:
            return False
        try:
            fcntl.flock(self._serving, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        else:
            alone = True
        # Converting a lock releases it first: reacquire the shared lock in either case.
        try:
            fcntl.flock(self._serving, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._serving)
            self._serving = None
        return not alone

    def resign(self) -> None:
        """Release both locks. In the child of a fork the parent keeps its locks, through its own descriptors."""
        for held in (self._leading, self._serving):
            if held is not None and held >= 0:
                with suppress(OSError):
                    os.close(held)
        self._leading = self._serving = None

    def _lock(self, name: str, kind: int) -> int | None:
        """Return the descriptor that holds the lock, -1 if locks are unavailable, `None` if another process has it."""
        try:
            directory = self._directory or Path(tempfile.gettempdir())
            opened = os.open(directory / f"ai-otel-{os.getuid()}-{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            if not self._logged:
                self._logged = True
                log.warning(
                    "ai-otel: no directory for lock files (%s): each process samples the GPUs. Mount a writable /tmp.",
                    error,
                )
            return -1
        try:
            fcntl.flock(opened, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(opened)
            return None
        return opened
