"""`flock` locks belong to open files, so one process can hold the locks of several candidates."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ai_otel.gpu.sharing import lock_files
from ai_otel.gpu.sharing.leader import BEAT_S, LAPSE_S, LeaderElection, leader_of, leaders

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
    assert {leader.devices[0] for leader in leaders(tmp_path)} == {"GPU-1", "GPU-2"}
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
    (leader,) = leaders(tmp_path)
    assert (leader.pid, leader.uid, leader.devices, leader.lapsed) == (os.getpid(), os.getuid(), ONE, False)
    assert leader.since_s == pytest.approx(time.time(), abs=60)
    both[0].resign()
    assert leaders(tmp_path) == []


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

    monkeypatch.setattr("ai_otel.gpu.sharing.leader.os.pwrite", full)
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

    monkeypatch.setattr("ai_otel.gpu.sharing.leader.fcntl.flock", unsupported)
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
    monkeypatch.setattr("ai_otel.gpu.sharing.leader.os.getuid", lambda: 12345)
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
    assert "Set AI_OTEL_LOCK_DIR to a directory" in caplog.text
    assert len(caplog.records) == 1
    election.resign()


@pytest.mark.fault(
    "gpu",
    "the root file system is read-only and neither /dev/shm nor /tmp is mounted",
    "each process samples, and a line names the cause",
)
def test_without_a_directory_of_all_users_every_process_leads(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(*_: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(lock_files, "SHARED", (Path("/no/such/directory"),))
    monkeypatch.setattr("ai_otel.gpu.sharing.leader.os.open", read_only)
    election = LeaderElection(serves=True)
    assert election.lead(ONE)
    assert election.vacant()
    assert not election.others_serving()
    assert leaders(lock_files.lock_directory()) == []
    assert "Set AI_OTEL_LOCK_DIR to a directory" in caplog.text
    election.resign()


# ---------------------------------------------------------------- several users


class OfUser(Candidate):
    """A candidate of another user; the owner of its files is this one."""

    def __init__(self, directory: Path, uid: int, patched: pytest.MonkeyPatch) -> None:
        self.uid = uid
        self.patched = patched
        super().__init__(directory)

    def lead(self, devices: Sequence[str], interval_s: float = 1.0) -> bool:
        """Stand as that user."""
        with self.patched.context() as patched:
            patched.setattr(os, "getuid", lambda: self.uid)
            return super().lead(devices, interval_s)

    def vacant(self) -> bool:
        """Ask as that user."""
        with self.patched.context() as patched:
            patched.setattr(os, "getuid", lambda: self.uid)
            return super().vacant()


@pytest.fixture
def two_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[OfUser, OfUser]]:
    me, opened = os.getuid(), lock_files.open_owned
    monkeypatch.setattr(lock_files, "open_owned", lambda path, flags, _: opened(path, flags, me))
    first, second = OfUser(tmp_path, 12345, monkeypatch), OfUser(tmp_path, 54321, monkeypatch)
    yield first, second
    first.resign()
    second.resign()


@pytest.mark.fault(
    "gpu",
    "servers of two users have the same GPU",
    "the first samples; the second exports no hw.*, and log and `ai-otel doctor` name the first one and its user",
)
def test_of_the_leaders_of_two_users_the_first_samples(
    two_users: tuple[OfUser, OfUser], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = two_users
    assert first.lead(ONE)
    assert not second.lead(ONE)
    assert not second.vacant()
    assert f"process {os.getpid()} of user 12345 samples the GPUs" in caplog.text
    assert [leader.uid for leader in leaders(tmp_path)] == [12345]
    first.resign()
    assert second.vacant()
    assert second.lead(ONE)


def test_of_two_leaders_that_began_at_once_one_gives_way(two_users: tuple[OfUser, OfUser]) -> None:
    first, second = two_users
    assert first.lead(TWO)
    assert second.lead(ONE)
    assert second._leading is not None
    second._leading.since_s -= 10
    second.now_s += BEAT_S
    assert second.lead(ONE)
    assert not first.lead(ONE), "the other one leads for longer"
    assert second.lead(ONE)


@pytest.mark.fault(
    "gpu",
    "a process of another user holds the lock of a GPU and does not sample",
    "after 30 s the server samples",
)
def test_a_leader_of_another_user_that_does_not_sample_is_ignored(two_users: tuple[OfUser, OfUser]) -> None:
    first, second = two_users
    assert first.lead(ONE)
    assert not second.lead(ONE)
    second.now_s += LAPSE_S + 1
    assert second.vacant()
    assert second.lead(ONE)


def test_a_leader_of_another_user_without_all_devices_stops_none(
    two_users: tuple[OfUser, OfUser],
) -> None:
    first, second = two_users
    assert first.lead(ONE)
    assert second.lead([*ONE, *TWO])


@pytest.mark.fault(
    "gpu",
    "a user names a file as if it were the lock file of another user",
    "it names no leader",
)
def test_a_file_of_another_owner_names_no_leader(both: Any, tmp_path: Path) -> None:
    path = lock_file(tmp_path)
    forged = tmp_path / path.name.replace(f"-{os.getuid()}-", "-12345-")
    forged.write_bytes(path.read_bytes())
    with forged.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert [leader.uid for leader in leaders(tmp_path)] == [os.getuid()]
        assert both[0].lead(ONE)


@pytest.mark.fault(
    "gpu",
    "two servers have one of several GPUs in common",
    "neither claims the energy of that GPU for its own requests",
)
def test_serving_processes_that_share_one_of_their_devices_see_each_other(tmp_path: Path) -> None:
    first, second = Candidate(tmp_path, serves=True), Candidate(tmp_path, serves=True)
    first.lead([*ONE, *TWO])
    second.lead(TWO)
    assert first.others_serving()
    assert second.others_serving()
    first.lead(ONE)
    assert not first.others_serving(), "its devices are known by now"
    first.resign()
    second.resign()
