"""
Who of several processes in a container looks at the devices, and whether others serve on them.

Locks of the kernel (`flock`) on two files in the temporary directory: they need no privilege, and end with whoever
holds them, however it ends. The first file's exclusive lock makes its holder the one that looks. On the second,
everyone that serves requests holds a shared lock, and whoever can make its own exclusive for a moment is the only one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("ai_otel")


class Election:
    """One process's part in it. Without a directory that can be written to, all win, and none knows of the others."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._looks: int | None = None
        self._serves: int | None = None
        self._told = False

    def won(self) -> bool:
        """Whether this process is the one that looks. Those that lost ask again: it is theirs when the one ends."""
        if self._looks is not None:
            return True
        held = self._lock("gpu", fcntl.LOCK_EX)
        if held is None:
            return False
        self._looks = held
        return True

    def serve(self) -> None:
        """Tell the others that this process serves requests."""
        if self._serves is None:
            # In the very moment in which another one asks, this fails; the next look tries again.
            self._serves = self._lock("serving", fcntl.LOCK_SH)

    def others_serving(self) -> bool:
        """Whether another process of this container serves requests, too."""
        self.serve()
        if self._serves is None:
            return True
        if self._serves < 0:
            return False
        try:
            fcntl.flock(self._serves, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        else:
            alone = True
        # To change a lock is to give it up first: take ours back in either case.
        try:
            fcntl.flock(self._serves, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._serves)
            self._serves = None
        return not alone

    def resign(self) -> None:
        """Give up both. In the child of a fork this leaves the parent's locks alone: they go with its own files."""
        for held in (self._looks, self._serves):
            if held is not None and held >= 0:
                with suppress(OSError):
                    os.close(held)
        self._looks = self._serves = None

    def _lock(self, name: str, kind: int) -> int | None:
        """The open file that holds the lock, -1 where there can be none, `None` where another process has it."""
        try:
            directory = self._directory or Path(tempfile.gettempdir())
            opened = os.open(directory / f"ai-otel-{os.getuid()}-{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning(
                    "ai-otel: no directory for locks (%s): each process looks at the GPUs. Mount a writable /tmp.",
                    error,
                )
            return -1
        try:
            fcntl.flock(opened, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(opened)
            return None
        return opened
