"""
Files by whose kernel locks (`flock`) the processes of a host find each other.

Which directory holds them depends on neither user nor `TMPDIR`, so that all processes choose the same one. Any user may
create files there: links are not followed, only regular files of the expected owner count, and nothing is written to a
file of another user.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

SHARED = (Path("/dev/shm"), Path("/tmp"))  # noqa: S108 - what is created there is checked
"""Directories of a host to which every user may write. Services with `PrivateTmp=` have a /tmp of their own."""
STICKY, ANY = stat.S_ISVTX | stat.S_IRWXO, stat.S_IRWXO
MOST_BYTES = 16_384
LOCKS = Path("/proc/locks")


def lock_directory(named: str = "") -> Path:
    """
    Return the directory of the lock files: `named`, or the first of `SHARED` to which every user may write.

    One in which no user can remove another's files is preferred. Kubernetes' `emptyDir` has no sticky bit.
    """
    if named:
        return Path(named)
    return next((each for mode in (STICKY, ANY) for each in SHARED if _is_for_all(each, mode)), SHARED[-1])


def _is_for_all(directory: Path, mode: int) -> bool:
    try:
        state, system = directory.stat(), os.statvfs(directory)
    except OSError:
        return False
    return stat.S_ISDIR(state.st_mode) and state.st_mode & mode == mode and not system.f_flag & os.ST_RDONLY


@dataclass(slots=True)
class Lock:
    """A lock that is held. `descriptor` is -1 where there is no directory for lock files."""

    path: Path
    descriptor: int
    since_s: float = field(default_factory=time.time)
    written_s: float = float("-inf")

    @property
    def current(self) -> bool:
        """Whether the file is still the one in the directory. Cleaners of temporary directories remove old files."""
        return self.descriptor < 0 or is_at(self.descriptor, self.path)

    def close(self) -> None:
        """Release the lock."""
        if self.descriptor >= 0:
            with suppress(OSError):
                os.close(self.descriptor)


def files(directory: Path, pattern: str) -> list[Path]:
    """Return the lock files in a directory; none if it cannot be read."""
    with suppress(OSError):
        return sorted(path for path in directory.iterdir() if fnmatch.fnmatch(path.name, pattern))
    return []


def hash_of(device: str) -> str:
    """Return the part of a file's name that stands for a device."""
    return hashlib.sha256(device.encode()).hexdigest()[:8]


def open_owned(path: Path, flags: int, uid: int) -> int:
    """
    Open a user's file, which other users may read and lock.

    Raises `OSError` for a link, another kind of file, or a file that is another user's.
    """
    opened = _open(path, flags, 0o644)
    if (owner := os.fstat(opened).st_uid) != uid:
        os.close(opened)
        raise PermissionError(f"{path} is a file of user {owner}")
    return opened


def open_shared(path: Path) -> int:
    """Open a file that any user may lock. The kernel refuses `O_CREAT` on other users' files in /tmp."""
    try:
        return _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return _open(path, os.O_RDONLY | os.O_CREAT, 0o444)


def _open(path: Path, flags: int, mode: int = 0) -> int:
    opened = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    state = os.fstat(opened)
    if not stat.S_ISREG(state.st_mode):
        os.close(opened)
        raise PermissionError(f"{path} is not a regular file")
    if flags & os.O_CREAT and state.st_uid == os.getuid() and stat.S_IMODE(state.st_mode) != mode:
        with suppress(OSError):
            os.fchmod(opened, mode)  # for any umask
    return opened


def locked(opened: int, kind: int) -> bool:
    """Try to lock an open file, `fcntl.LOCK_SH` or `LOCK_EX`, and return whether that succeeded."""
    try:
        fcntl.flock(opened, kind | fcntl.LOCK_NB)
    except OSError as error:  # on a file system without locks every process leads, as without a directory
        return not isinstance(error, BlockingIOError)
    return True


def is_at(opened: int, path: Path) -> bool:
    """Return whether an open file is the one at this path."""
    try:
        return os.path.samestat(os.fstat(opened), path.stat(follow_symlinks=False))
    except OSError:
        return False


def read(opened: int) -> bytes:
    """Return the content of an open file."""
    return os.pread(opened, MOST_BYTES, 0)


def holders(path: Path) -> list[int]:
    """
    Return the processes that hold a lock on a file, from `/proc/locks`; none is locked for it.

    A container sees its own processes only.
    """
    try:
        inode = str(path.stat(follow_symlinks=False).st_ino)
        lines = [line.split() for line in LOCKS.read_text().splitlines()]
    except OSError:
        return []
    # "1: FLOCK ADVISORY READ 4711 00:1a:42 0 EOF"; the device's number differs from stat's on some file systems.
    held = [words[4] for words in lines if len(words) > 5 and words[1] == "FLOCK" and words[5].endswith(f":{inode}")]
    return sorted({int(pid) for pid in held if pid.isdecimal()})
