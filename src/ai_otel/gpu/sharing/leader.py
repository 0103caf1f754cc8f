"""
Leader election among processes that see the same devices: the leader samples them.

A candidate has opened its devices. It needs the kernel lock (`flock`) on one file of its user, which needs no privilege
and is released when its process ends. The leader writes to that file while it samples. A leader that stops writing
(stopped, hung, or a copy of its descriptors in another process) is replaced: the next candidate replaces the file, and
a leader whose file is not the one in the directory any more has lost.

Of the leaders of several users the one that has led the longest samples, if it has all devices of the others. Only its
own user can write to its file. A user who holds a lock and does not sample keeps no other from sampling for long, and
one who pretends to sample is named in the log and by `ai-otel doctor`.

Files are named after the first device, so processes with different devices do not exclude each other. Abstract sockets
would do without a directory, but containers of a pod share them, each with devices of its own.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_otel.gpu.sharing import lock_files
from ai_otel.gpu.sharing.lock_files import Lock
from ai_otel.gpu.sharing.serving import ServingMarks

log = logging.getLogger("ai_otel")

BEAT_S = 5.0
"""Seconds between two writes of the leader."""
LAPSE_S = 30.0
"""Seconds without a write after which a leader is replaced; three sampling intervals if that is longer."""
MOST_LAPSE_S = 300.0


@dataclass(frozen=True, slots=True)
class Leader:
    """What the leader last wrote: its process, and since when it has led (Unix time in seconds)."""

    pid: int
    since_s: float
    devices: Sequence[str] = ()
    lapse_s: float = LAPSE_S
    sampled_ago_s: float = 0.0
    """Seconds since the last write, by the file's time."""
    uid: int = -1
    """The user whose file it is."""

    @property
    def lapsed(self) -> bool:
        """Whether the next candidate may replace it."""
        return self.sampled_ago_s > self.lapse_s


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
        self._directory = directory if directory is not None else lock_files.lock_directory()
        self._stands = stands
        self._clock = clock
        self._pid = os.getpid()
        self._devices: Sequence[str] = ()
        self._leading: Lock | None = None
        self._marks = ServingMarks(self._directory, clock) if serves else None
        self._seen: dict[Path, tuple[object, float]] = {}
        self._resigned = False
        self._logged: set[str] = set()

    def vacant(self) -> bool:
        """Return whether no other process leads for the devices of the last candidacy."""
        if not self._devices or not self._stands:
            return True
        self._mark()
        return not self._user_leads() and self._other_users_leader() is None

    def _user_leads(self) -> bool:
        """Return whether another process of this user leads."""
        path = self._path(os.getuid())
        try:
            opened = lock_files.open_owned(path, os.O_RDONLY, os.getuid())
        except OSError:
            return False
        try:
            return not lock_files.locked(opened, fcntl.LOCK_SH) and not self._lapsed(path, opened)
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
        self._mark()
        if not self._stands:
            return True
        path = self._path(os.getuid())
        if self._leading is not None and not (self._leading.path == path and self._leading.current):
            self.step_down()
        if self._leading is None:
            self._leading = self._take(path)
        if self._leading is None:
            return False
        if self._leading.descriptor >= 0 and self._clock() - self._leading.written_s >= BEAT_S:
            # Written first: of two processes that start at once, one at least sees the other.
            self._write(self._leading, min(max(LAPSE_S, 3 * interval_s), MOST_LAPSE_S))
            other = self._other_users_leader()
            if other is not None and (other.since_s, other.uid) < (self._leading.since_s, os.getuid()):
                self.step_down()
        return self._leading is not None

    def step_down(self) -> None:
        """Stop leading: no device is left, or another process leads."""
        held, self._leading = self._leading, None
        if held is not None and held.descriptor >= 0 and os.getpid() == self._pid:
            with suppress(OSError):
                os.ftruncate(held.descriptor, 0)
        if held is not None:
            held.close()

    def _take(self, path: Path) -> Lock | None:
        """Lock the file; `None` if another process leads."""
        for _ in range(4):  # other candidates may replace the file meanwhile
            try:
                opened = lock_files.open_owned(path, os.O_RDWR | os.O_CREAT, os.getuid())
            except OSError as error:
                self._log_once(
                    f"no lock file ({error}): each process samples the GPUs. "
                    "Set AI_OTEL_LOCK_DIR to a directory to which they can write."
                )
                return Lock(path, -1)
            won = False
            try:
                if lock_files.locked(opened, fcntl.LOCK_EX):
                    if won := lock_files.is_at(opened, path):
                        return Lock(path, opened)
                elif not self._lapsed(path, opened):
                    self._compare(opened)
                    return None
                elif lock_files.is_at(opened, path):
                    with suppress(OSError):
                        path.unlink()
            finally:
                if not won:
                    os.close(opened)
        return None

    def _other_users_leader(self) -> Leader | None:
        """Return the leader of another user that samples at least the devices of the last candidacy, and log it."""
        for path, opened, uid in _held_files(self._directory, lock_files.hash_of(self._devices[0])):
            leader = leader_of(lock_files.read(opened), uid=uid)
            if uid != os.getuid() and leader is not None and set(self._devices) <= set(leader.devices):
                if self._lapsed(path, opened):
                    continue
                self._log_once(
                    f"process {leader.pid} of user {uid} samples the GPUs, so this one exports no hw.* metric. "
                    "If that telemetry is not yours, set AI_OTEL_LOCK_DIR to a directory of your own."
                )
                return leader
        return None

    def _lapsed(self, path: Path, opened: int) -> bool:
        """
        Return whether the holder of the lock has not written for too long.

        Only changes count, by this process's clock: the clocks of two containers may differ.
        """
        file, text, now_s = os.fstat(opened), lock_files.read(opened), self._clock()
        state = file.st_ino, file.st_mtime_ns, text
        if path not in self._seen or self._seen[path][0] != state:
            self._seen[path] = state, now_s
        written = leader_of(text)
        return now_s - self._seen[path][1] > (written.lapse_s if written is not None else LAPSE_S)

    def _compare(self, opened: int) -> None:
        """Log the devices that the leader does not have, because no process samples them."""
        leader = leader_of(lock_files.read(opened))
        missing = [] if leader is None else [device for device in self._devices if device not in leader.devices]
        if leader is not None and missing:
            self._log_once(
                f"process {leader.pid} samples for this user and does not have {', '.join(missing)}: "
                "give this process another AI_OTEL_LOCK_DIR"
            )

    def _write(self, held: Lock, lapse_s: float) -> None:
        held.written_s = self._clock()
        written = {"pid": self._pid, "since_s": held.since_s, "lapse_s": lapse_s, "devices": self._devices}
        text = json.dumps(written).encode()
        with suppress(OSError):  # a full disk: the time of the file changes nevertheless
            os.pwrite(held.descriptor, text, 0)
            os.ftruncate(held.descriptor, len(text))
        with suppress(OSError):
            os.utime(held.descriptor, ns=(time.time_ns(), time.time_ns()))

    # ---------------------------------------------------------------- processes that serve

    def _mark(self) -> None:
        if self._marks is not None:
            self._marks.mark(self._devices)

    def others_serving(self) -> bool:
        """Return whether another process, of any user, serves requests on one of these devices."""
        return self._marks is not None and self._marks.others()

    def resign(self) -> None:
        """Release all locks for good. In the child of a fork the parent keeps them, through its own descriptors."""
        self._resigned = True
        self.step_down()
        if self._marks is not None:
            self._marks.release()

    def _path(self, uid: int) -> Path:
        return self._directory / f"ai-otel-{uid}-gpu-{lock_files.hash_of(self._devices[0])}.lock"

    def _log_once(self, sentence: str) -> None:
        if sentence not in self._logged:
            self._logged.add(sentence)
            log.warning("ai-otel: %s", sentence)


def _held_files(directory: Path, device: str = "*") -> Iterator[tuple[Path, int, int]]:
    """Yield the candidates' files that are locked: path, descriptor and user."""
    for path in lock_files.files(directory, f"ai-otel-*-gpu-{device}.lock"):
        user = path.name.split("-")[2]
        with suppress(OSError):
            opened = lock_files.open_owned(path, os.O_RDONLY, int(user) if user.isdecimal() else -1)
            try:
                if not lock_files.locked(opened, fcntl.LOCK_SH):
                    yield path, opened, int(user)
            finally:
                os.close(opened)


def leaders(directory: Path) -> list[Leader]:
    """Return what the present leaders of all users have written."""
    found = []
    for _, opened, uid in _held_files(directory):
        leader = leader_of(lock_files.read(opened), max(0.0, time.time() - os.fstat(opened).st_mtime), uid)
        if leader is not None:
            found.append(leader)
    return found


def leader_of(text: bytes, ago_s: float = 0.0, uid: int = -1) -> Leader | None:
    """Return the leader that wrote this; `None` for a file without one."""
    try:
        written: Any = json.loads(text)
        pid, since_s, lapse_s = int(written["pid"]), float(written["since_s"]), float(written["lapse_s"])
        devices = [str(device) for device in written["devices"]]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return Leader(pid, since_s, devices, lapse_s if 0 < lapse_s < MOST_LAPSE_S else MOST_LAPSE_S, ago_s, uid)
