"""
Leader election among processes that see the same devices: the leader samples them.

A candidate has opened its devices. It needs the kernel lock (`flock`) on one file in the temporary directory, which
needs no privilege and is released when its process ends. The leader writes to that file while it samples. A leader that
stops writing (stopped, hung, or a copy of its descriptors in another process) is replaced: the next candidate replaces
the file, and a leader whose file is not the one in the directory any more has lost.

Every process that serves requests holds a shared lock on a second file; one that can upgrade its lock is alone.

Files are named after the first device, so processes with different devices do not exclude each other. The first file
also has the user's id: telemetry of two users has two owners, and neither may silence the other. The second file is
shared by all users, because two processes that serve on one device must not both claim its energy. Abstract sockets
would span temporary directories, but containers of a pod share them, each with devices of its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger("ai_otel")

BEAT_S = 5.0
"""Seconds between two writes of the leader."""
LAPSE_S = 30.0
"""Seconds without a write after which a leader is replaced; three sampling intervals if that is longer."""
MOST_LAPSE_S = 300.0
MOST_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Leader:
    """What the leader last wrote: its process, and since when it has led (Unix time in seconds)."""

    pid: int
    since_s: float
    devices: Sequence[str] = ()
    lapse_s: float = LAPSE_S
    sampled_ago_s: float = 0.0
    """Seconds since the last write, by the file's time."""

    @property
    def lapsed(self) -> bool:
        """Whether the next candidate may replace it."""
        return self.sampled_ago_s > self.lapse_s


@dataclass(slots=True)
class _Lock:
    """A lock that is held. `descriptor` is -1 where there is no directory for lock files."""

    path: Path
    descriptor: int
    since_s: float = field(default_factory=time.time)
    written_s: float = float("-inf")

    @property
    def current(self) -> bool:
        """Whether the file is still the one in the directory. Cleaners of temporary directories remove old files."""
        return self.descriptor < 0 or _is_at(self.descriptor, self.path)

    def close(self) -> None:
        if self.descriptor >= 0:
            with suppress(OSError):
                os.close(self.descriptor)


class LeaderElection:
    """
    One process's locks. Without a writable directory every process is a leader and sees no others.

    A process that exports no metrics does not stand (`stands`): it samples for its own requests, beside the leader.
    `serves` says that its requests get a share of the devices' energy.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        stands: bool = True,
        serves: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._stands = stands
        self._serves = serves
        self._clock = clock
        self._pid = os.getpid()
        self._devices: Sequence[str] = ()
        self._leading: _Lock | None = None
        self._serving: _Lock | None = None
        self._seen: dict[Path, tuple[object, float]] = {}
        self._alone_from_s = float("-inf")
        self._resigned = False
        self._logged: set[str] = set()

    # ---------------------------------------------------------------- the leader

    def vacant(self) -> bool:
        """Return whether no other process leads for the devices of the last candidacy."""
        if not self._devices or not self._stands:
            return True
        if self._serves:
            self._serve()
        path = self._path(f"{os.getuid()}-gpu")
        try:
            opened = _open(path, os.O_RDONLY)
        except OSError:
            return True
        try:
            return _locked(opened, fcntl.LOCK_SH) or self._lapsed(path, opened)
        finally:
            os.close(opened)

    def lead(self, devices: Sequence[str], interval_s: float = 1.0) -> bool:
        """
        Stand for election with the devices that this process has opened; return whether it leads.

        The leader calls this with each sample, which proves that it samples.
        """
        if self._resigned or not devices:
            return False
        self._devices = sorted(devices)
        if self._serves:
            self._serve()
        if not self._stands:
            return True
        path = self._path(f"{os.getuid()}-gpu")
        if self._leading is not None and not (self._leading.path == path and self._leading.current):
            self.step_down()
        if self._leading is None:
            self._leading = self._take(path)
        if self._leading is None:
            return False
        self._write(self._leading, min(max(LAPSE_S, 3 * interval_s), MOST_LAPSE_S))
        return True

    def step_down(self) -> None:
        """Stop leading: no device is left, or another process leads."""
        held, self._leading = self._leading, None
        if held is not None and held.descriptor >= 0 and os.getpid() == self._pid:
            with suppress(OSError):
                os.ftruncate(held.descriptor, 0)
        if held is not None:
            held.close()

    def _take(self, path: Path) -> _Lock | None:
        """Lock the file; `None` if another process leads."""
        for _ in range(4):  # other candidates may replace the file meanwhile
            try:
                opened = _open(path, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                self._log_once(
                    f"no directory for lock files ({error}): each process samples the GPUs. Mount a writable /tmp."
                )
                return _Lock(path, -1)
            won = False
            try:
                if _locked(opened, fcntl.LOCK_EX):
                    if won := _is_at(opened, path):
                        return _Lock(path, opened)
                elif not self._lapsed(path, opened):
                    self._compare(opened)
                    return None
                elif _is_at(opened, path):
                    with suppress(OSError):
                        path.unlink()
            finally:
                if not won:
                    os.close(opened)
        return None

    def _lapsed(self, path: Path, opened: int) -> bool:
        """
        Return whether the holder of the lock has not written for too long.

        Only changes count, by this process's clock: the clocks of two containers may differ.
        """
        file, text, now_s = os.fstat(opened), _read(opened), self._clock()
        state = file.st_ino, file.st_mtime_ns, text
        if path not in self._seen or self._seen[path][0] != state:
            self._seen[path] = state, now_s
        written = leader_of(text)
        return now_s - self._seen[path][1] > (written.lapse_s if written is not None else LAPSE_S)

    def _compare(self, opened: int) -> None:
        """Log the devices that the leader does not have, because no process samples them."""
        leader = leader_of(_read(opened))
        missing = [] if leader is None else [device for device in self._devices if device not in leader.devices]
        if leader is not None and missing:
            self._log_once(
                f"process {leader.pid} samples for this user and does not have {', '.join(missing)}: "
                "give this process another TMPDIR"
            )

    def _write(self, held: _Lock, lapse_s: float) -> None:
        now_s = self._clock()
        if held.descriptor < 0 or now_s - held.written_s < BEAT_S:
            return
        held.written_s = now_s
        written = {"pid": self._pid, "since_s": held.since_s, "lapse_s": lapse_s, "devices": self._devices}
        text = json.dumps(written).encode()
        with suppress(OSError):  # a full disk: the time of the file changes nevertheless
            os.pwrite(held.descriptor, text, 0)
            os.ftruncate(held.descriptor, len(text))
        with suppress(OSError):
            os.utime(held.descriptor, ns=(time.time_ns(), time.time_ns()))

    # ---------------------------------------------------------------- processes that serve

    def _serve(self) -> None:
        """Mark this process as serving requests on its devices."""
        path = self._path("serving")
        held = self._serving
        if held is not None and held.path == path and held.current:
            return
        if held is not None:
            if held.path == path:  # removed: others hold a lock on the old file until they notice, too
                self._alone_from_s = self._clock() + LAPSE_S
            held.close()
            self._serving = None
        try:
            opened = _open_shared(path)
        except OSError:
            self._serving = _Lock(path, -1)
            return
        if _locked(opened, fcntl.LOCK_SH):
            self._serving = _Lock(path, opened)
        else:
            os.close(opened)  # another process tests its own lock; the next sample retries

    def others_serving(self) -> bool:
        """Return whether another process, of any user, serves requests on these devices."""
        if not self._devices:
            return False
        self._serve()
        held = self._serving
        if held is None or held.descriptor < 0:
            return held is None
        alone = _locked(held.descriptor, fcntl.LOCK_EX)
        # Converting a lock releases it first: reacquire the shared lock in either case.
        if not _locked(held.descriptor, fcntl.LOCK_SH):
            held.close()
            self._serving = None
        return not alone or self._clock() < self._alone_from_s

    # ---------------------------------------------------------------- both

    def resign(self) -> None:
        """Release both locks for good. In the child of a fork the parent keeps them, through its own descriptors."""
        self._resigned = True
        self.step_down()
        held, self._serving = self._serving, None
        if held is not None:
            held.close()

    def _path(self, kind: str) -> Path:
        first = hashlib.sha256(self._devices[0].encode()).hexdigest()[:8]
        return (self._directory or lock_directory()) / f"ai-otel-{kind}-{first}.lock"

    def _log_once(self, sentence: str) -> None:
        if sentence not in self._logged:
            self._logged.add(sentence)
            log.warning("ai-otel: %s", sentence)


def lock_directory() -> Path:
    """Return the temporary directory; `/tmp` where Python finds none that it can write to, or has disk space."""
    with suppress(OSError):
        return Path(tempfile.gettempdir())
    return Path("/tmp")  # noqa: S108 - no file can be created there


def leaders(directory: Path, uid: int) -> list[Leader]:
    """Return what the present leaders of a user have written."""
    found = []
    for path in sorted(directory.glob(f"ai-otel-{uid}-gpu-*.lock")):
        with suppress(OSError):
            opened = _open(path, os.O_RDONLY, uid)
            try:
                leader = leader_of(_read(opened), max(0.0, time.time() - os.fstat(opened).st_mtime))
                if leader is not None and not _locked(opened, fcntl.LOCK_SH):
                    found.append(leader)
            finally:
                os.close(opened)
    return found


def leader_of(text: bytes, ago_s: float = 0.0) -> Leader | None:
    """Return the leader that wrote this; `None` for a file without one."""
    try:
        written: Any = json.loads(text)
        pid, since_s, lapse_s = int(written["pid"]), float(written["since_s"]), float(written["lapse_s"])
        devices = [str(device) for device in written["devices"]]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return Leader(pid, since_s, devices, lapse_s if 0 < lapse_s < MOST_LAPSE_S else MOST_LAPSE_S, ago_s)


def _open(path: Path, flags: int, uid: int | None = None) -> int:
    """Open a user's file. Raises `OSError` for a link, another kind of file, or a file that is another user's."""
    opened = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    state = os.fstat(opened)
    if not stat.S_ISREG(state.st_mode) or state.st_uid != (os.getuid() if uid is None else uid):
        os.close(opened)
        raise PermissionError(f"{path} is not a file of this user")
    return opened


def _open_shared(path: Path) -> int:
    """Open a file that any user may lock. The kernel refuses `O_CREAT` on other users' files in /tmp."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        opened = os.open(path, flags | os.O_CREAT, 0o444)
        with suppress(OSError):
            os.fchmod(opened, 0o444)  # for any umask
        return opened


def _locked(opened: int, kind: int) -> bool:
    try:
        fcntl.flock(opened, kind | fcntl.LOCK_NB)
    except OSError as error:  # on a file system without locks every process leads, as without a directory
        return not isinstance(error, BlockingIOError)
    return True


def _is_at(opened: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened), path.stat(follow_symlinks=False))
    except OSError:
        return False


def _read(opened: int) -> bytes:
    return os.pread(opened, MOST_BYTES, 0)
