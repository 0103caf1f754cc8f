"""Which directory holds the lock files, and what is done with files that others left there."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

import pytest

from ai_otel.gpu.sharing import lock_files
from ai_otel.gpu.sharing.lock_files import holders, lock_directory, open_owned, open_shared
from ai_otel.gpu.sharing.serving import ServingMarks


def directory(path: Path, mode: int) -> Path:
    path.mkdir()
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("modes", "chosen"),
    [
        ((0o1777, 0o1777), 0),
        ((0o777, 0o1777), 1),
        ((0o777, 0o777), 0),
        ((0o755, 0o777), 1),
        ((0o755, 0o755), 1),
    ],
)
def test_the_directory_is_the_first_in_which_every_user_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modes: tuple[int, int], chosen: int
) -> None:
    shared = tuple(directory(tmp_path / str(place), mode) for place, mode in enumerate(modes))
    monkeypatch.setattr(lock_files, "SHARED", shared)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert lock_directory() == shared[chosen]
    assert lock_directory("/elsewhere") == Path("/elsewhere")


def test_a_directory_that_is_not_there_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = directory(tmp_path / "there", 0o1777)
    monkeypatch.setattr(lock_files, "SHARED", (tmp_path / "absent", there))
    assert lock_directory() == there


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_can_be_read_and_locked_by_every_user_for_any_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        os.close(open_owned(tmp_path / "own", os.O_RDWR | os.O_CREAT, os.getuid()))
        os.close(open_shared(tmp_path / "shared"))
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("own", "shared")] == [0o644, 0o444]


def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(PermissionError, match=f"is a file of user {os.getuid()}"):
        open_owned(tmp_path / "file", os.O_RDWR | os.O_CREAT, os.getuid() + 1)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.fault(
    "gpu",
    "another user leaves a link, a directory or a pipe in place of the lock file of servers on one GPU",
    "it is not followed, requests have no energy, and log and `ai-otel doctor` name the file",
)
@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_what_is_no_file_is_not_locked(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / f"ai-otel-serving-{lock_files.hash_of('GPU-1')}.lock"
    (tmp_path / "precious").write_text("kept")
    {
        "link": lambda: path.symlink_to(tmp_path / "precious"),
        "directory": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
    }[kind]()
    marks = ServingMarks(tmp_path, lambda: 0.0)
    marks.mark(["GPU-1"])
    assert marks.others()
    assert marks.others()
    (message,) = caplog.messages
    assert str(path) in message
    path.rmdir() if kind == "directory" else path.unlink()
    assert not marks.others(), "it takes a lock as soon as it can"
    marks.release()
    assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc/locks; next: run it on Linux")
def test_the_processes_that_hold_a_lock_are_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("w") as held:
        assert holders(path) == []
        fcntl.flock(held, fcntl.LOCK_SH)
        assert holders(path) == [os.getpid()]
    assert holders(tmp_path / "absent") == []
