"""`flock` locks belong to open files, so one process can hold the locks of several candidates."""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ai_otel.gpu.leader import BEAT_S, LAPSE_S, LeaderElection, leader_of, leaders, lock_directory

ONE, TWO = ["GPU-1"], ["GPU-2"]


class Candidate(LeaderElection):
    """A candidate with a manual clock."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.now_s = 0.0
        super().__init__(directory, clock=lambda: self.now_s, **options)


@pytest.fixture
def both(tmp_path: Path) -> Any:
    """Two candidates, of which the first leads."""
    first, second = Candidate(tmp_path), Candidate(tmp_path)
    assert (first.lead(ONE), second.lead(ONE)) == (True, False)
    yield first, second
    first.resign()
    second.resign()


def lock_file(directory: Path) -> Path:
    (path,) = directory.glob("*-gpu-*.lock")
    return path


def test_the_next_process_takes_over_when_the_leader_resigns(both: Any) -> None:
    first, second = both
    assert first.lead(ONE)
    assert not second.vacant()
    first.resign()
    assert second.vacant()
    assert second.lead(ONE)
    assert not first.lead(ONE), "it has resigned for good"


def test_a_process_without_a_device_does_not_stand(tmp_path: Path) -> None:
    first, second = Candidate(tmp_path), Candidate(tmp_path)
    assert not first.lead([])
    assert second.lead(ONE)
    second.step_down()
    assert first.vacant()
    assert second.lead(ONE)
    second.resign()


@pytest.mark.fault(
    "gpu",
    "the process that samples is stopped or its driver hangs, and it still holds the lock",
    "after 30 s without a sample another process samples, and the old one gives way when it continues",
)
def test_a_leader_that_does_not_sample_is_replaced(both: Any) -> None:
    first, second = both
    for _ in range(7):
        second.now_s += 5.0
        assert not second.vacant() or second.now_s > LAPSE_S
    assert second.vacant()
    assert second.lead(ONE)
    assert not first.lead(ONE)
    assert second.lead(ONE)


def test_a_leader_that_samples_stays(both: Any) -> None:
    first, second = both
    for _ in range(20):
        first.now_s += BEAT_S
        second.now_s += BEAT_S
        assert first.lead(ONE)
        assert not second.vacant()
        assert not second.lead(ONE)


def test_a_leader_with_a_long_interval_has_three_of_them(tmp_path: Path) -> None:
    first, second = Candidate(tmp_path), Candidate(tmp_path)
    assert first.lead(ONE, 60.0)
    assert not second.lead(ONE)
    second.now_s = 170.0
    assert not second.vacant()
    second.now_s = 190.0
    assert second.vacant()
    first.resign()


@pytest.mark.fault(
    "gpu",
    "a cleaner of temporary directories removes the lock file of the process that samples",
    "that process stands again with its next sample, so one process samples",
)
@pytest.mark.parametrize("winner", [0, 1], ids=["the leader is first", "another process is first"])
def test_a_lock_on_a_removed_file_is_lost(both: Any, tmp_path: Path, winner: int) -> None:
    lock_file(tmp_path).unlink()
    assert both[winner].lead(ONE)
    assert not both[1 - winner].lead(ONE)
    assert both[winner].lead(ONE)


@pytest.mark.fault(
    "gpu",
    "two containers share a temporary directory, and each has a GPU of its own",
    "each samples its own",
)
def test_processes_with_other_devices_do_not_exclude_each_other(tmp_path: Path) -> None:
    first, second = Candidate(tmp_path), Candidate(tmp_path)
    assert first.lead(ONE)
    assert second.lead(TWO)
    assert {leader.devices[0] for leader in leaders(tmp_path, os.getuid())} == {"GPU-1", "GPU-2"}
    first.resign()
    second.resign()


def test_devices_that_the_leader_does_not_have_are_logged(both: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ai_otel"):
        assert not both[1].lead([*ONE, *TWO])
        assert not both[1].lead([*ONE, *TWO])
    (message,) = caplog.messages
    assert message.startswith(f"ai-otel: process {os.getpid()} samples for this user and does not have GPU-2: ")


def test_a_process_that_exports_no_metrics_samples_without_standing(tmp_path: Path) -> None:
    silent, other = Candidate(tmp_path, stands=False), Candidate(tmp_path)
    assert silent.lead(ONE)
    assert other.lead(ONE)
    assert silent.vacant()
    other.resign()
    silent.resign()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"pid": "x"}', b"\xff\xfe", b'{"pid": 1e999}'])
def test_a_file_with_other_content_names_no_leader(content: bytes) -> None:
    assert leader_of(content) is None


def test_what_the_leader_wrote_is_read_without_taking_its_lock(both: Any, tmp_path: Path) -> None:
    (leader,) = leaders(tmp_path, os.getuid())
    assert (leader.pid, leader.devices, leader.lapsed) == (os.getpid(), ONE, False)
    assert leader.since_s == pytest.approx(time.time(), abs=60)
    assert leaders(tmp_path, os.getuid() + 1) == []
    both[0].resign()
    assert leaders(tmp_path, os.getuid()) == []


@pytest.mark.fault(
    "gpu",
    "another user leaves a link with the name of the lock file in /tmp",
    "it is not followed and nothing is written to it; the process samples without a lock",
)
def test_a_link_is_not_followed(tmp_path: Path) -> None:
    first = Candidate(tmp_path)
    assert first.lead(ONE)
    path = lock_file(tmp_path)
    first.resign()
    path.unlink()
    (tmp_path / "precious").write_text("kept")
    path.symlink_to(tmp_path / "precious")
    second = Candidate(tmp_path)
    assert second.lead(ONE)
    second.resign()
    assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.fault(
    "gpu",
    "the disk with the temporary directory is full",
    "the process that samples continues, and no other one takes over",
)
def test_a_leader_on_a_full_disk_stays(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = both

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ai_otel.gpu.leader.os.pwrite", full)
    for _ in range(20):
        first.now_s += BEAT_S
        second.now_s += BEAT_S
        assert first.lead(ONE)
        assert not second.vacant()


@pytest.mark.fault(
    "gpu",
    "the file system of the temporary directory has no locks",
    "each process samples",
)
def test_without_locks_every_process_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("ai_otel.gpu.leader.fcntl.flock", unsupported)
    first, second = Candidate(tmp_path, serves=True), Candidate(tmp_path, serves=True)
    assert first.lead(ONE)
    assert second.lead(ONE)
    assert first.vacant()
    first.resign()
    second.resign()


# ---------------------------------------------------------------- processes that serve


def test_serving_processes_see_each_other(tmp_path: Path) -> None:
    first, second, elsewhere = (Candidate(tmp_path, serves=True) for _ in range(3))
    first.lead(ONE)
    elsewhere.lead(TWO)
    assert not first.others_serving()
    second.lead(ONE)
    assert first.others_serving()
    assert second.others_serving()
    second.resign()
    assert not first.others_serving()
    first.resign()
    elsewhere.resign()


@pytest.mark.fault(
    "gpu",
    "processes of two users serve on one GPU",
    "each samples it, and neither claims its energy for its own requests",
)
def test_serving_processes_of_other_users_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Candidate(tmp_path, serves=True), Candidate(tmp_path, serves=True)
    assert first.lead(ONE)
    monkeypatch.setattr("ai_otel.gpu.leader.os.getuid", lambda: 12345)
    second.lead(ONE)
    assert first.others_serving()
    assert second.others_serving()
    first.resign()
    second.resign()


@pytest.mark.fault(
    "gpu",
    "a cleaner removes the lock file of two processes that serve on one GPU",
    "the first that notices claims no energy until the other one has noticed, too",
)
def test_after_a_removal_no_process_believes_to_be_alone(tmp_path: Path) -> None:
    first, second = Candidate(tmp_path, serves=True), Candidate(tmp_path, serves=True)
    first.lead(ONE)
    second.lead(ONE)
    (serving,) = tmp_path.glob("*serving*")
    serving.unlink()
    assert first.others_serving()
    first.now_s = LAPSE_S - 1
    assert first.others_serving()
    first.now_s = LAPSE_S
    assert not first.others_serving(), "the other one has ended"
    first.resign()
    second.resign()


def test_a_removed_file_of_serving_processes_is_replaced(tmp_path: Path) -> None:
    first, second = Candidate(tmp_path, serves=True), Candidate(tmp_path, serves=True)
    first.lead(ONE)
    (serving,) = tmp_path.glob("*serving*")
    serving.unlink()
    second.lead(ONE)
    assert first.others_serving()
    assert second.others_serving()
    first.resign()
    second.resign()


def test_without_a_lock_directory_every_process_leads_and_logs_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    election = LeaderElection(tmp_path / "nowhere", serves=True)
    with caplog.at_level(logging.WARNING, "ai_otel"):
        assert election.lead(ONE)
        assert election.lead(ONE)
        assert not election.others_serving()
    assert "Mount a writable /tmp." in caplog.text
    assert len(caplog.records) == 1
    election.resign()


@pytest.mark.fault(
    "gpu",
    "the root file system is read-only and /tmp is not mounted, or every disk is full when the process starts",
    "each process samples, and a line names the cause",
)
def test_without_a_temporary_directory_every_process_leads(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    def read_only(*_: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("ai_otel.gpu.leader.tempfile.gettempdir", none)
    monkeypatch.setattr("ai_otel.gpu.leader.os.open", read_only)
    election = LeaderElection(serves=True)
    assert election.lead(ONE)
    assert election.vacant()
    assert not election.others_serving()
    assert leaders(lock_directory(), os.getuid()) == []
    assert "Mount a writable /tmp." in caplog.text
    election.resign()
