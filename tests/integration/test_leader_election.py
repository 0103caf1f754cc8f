"""The leader election between processes: kill, stop, fork, and processes that can read no device."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ai_otel.doctor.finding import Level
from ai_otel.doctor.sampling import check_sampling
from ai_otel.doctor.server import Server
from ai_otel.gpu.sampler import Sampler
from ai_otel.gpu.sharing.leader import LAPSE_S, LeaderElection
from ai_otel.gpu.source import Device, GpuReading, Unavailable
from ai_otel.settings import Settings
from ai_otel.testing import FakeGpu
from harness.gpu.host import unique_device

GPU = Device("GPU-1", "fake")
ONE = ["GPU-1"]

LEADING = """
import sys, time
from pathlib import Path
from ai_otel.gpu.sharing.leader import LeaderElection
election = LeaderElection(Path(sys.argv[1]), serves=True)
print(election.lead(["GPU-1"]), flush=True)
while True:
    time.sleep(0.05)
    election.lead(["GPU-1"])
"""


@contextmanager
def other_leader(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that leads."""
    command = [sys.executable, "-c", LEADING, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "True"
        try:
            yield other
        finally:
            other.kill()


@pytest.mark.fault("gpu", "the process that samples is killed", "another process samples within 5 s")
def test_a_killed_leader_is_replaced(tmp_path: Path) -> None:
    here = LeaderElection(tmp_path, serves=True)
    with other_leader(tmp_path) as other:
        assert not here.lead(ONE)
        other.kill()
        other.wait()
        assert here.vacant()
        assert here.lead(ONE)
        assert not here.others_serving()
        here.resign()


def test_a_stopped_leader_is_replaced_and_gives_way(tmp_path: Path) -> None:
    now_s = [0.0]
    here = LeaderElection(tmp_path, clock=lambda: now_s[0])
    with other_leader(tmp_path) as other:
        assert not here.lead(ONE)
        other.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        assert not here.vacant()
        now_s[0] += LAPSE_S + 1
        assert here.lead(ONE)
        other.send_signal(signal.SIGCONT)
        time.sleep(0.3)
        assert here.lead(ONE), "the other one must not take it back"
        here.resign()


def test_a_forked_child_does_not_release_the_parents_locks(tmp_path: Path) -> None:
    parent = LeaderElection(tmp_path)
    assert parent.lead(ONE)
    child = os.fork()
    if child == 0:
        parent.resign()
        os._exit(0 if not LeaderElection(tmp_path).lead(ONE) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not LeaderElection(tmp_path).lead(ONE)
    assert parent.lead(ONE)
    parent.resign()


# ---------------------------------------------------------------- the sampler, driven by hand


class Node:
    """Samplers of several processes, and a manual clock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now_s = 0.0
        self.elections: list[LeaderElection] = []

    def sampler(self, gpu: FakeGpu, **options: bool) -> Sampler:
        election = LeaderElection(self.directory, clock=lambda: self.now_s, **options)
        self.elections.append(election)
        return Sampler(lambda: {"fake": gpu}, clock=lambda: self.now_s, election=election)

    def close(self) -> None:
        for election in self.elections:
            election.resign()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()


def one() -> FakeGpu:
    return FakeGpu({GPU: GpuReading(power_w=100.0)})


def without_a_gpu() -> FakeGpu:
    gpu = one()
    gpu.trouble = Unavailable("NVML sees no GPU in this container.", installed=True)
    return gpu


@pytest.mark.fault(
    "gpu",
    "a process that can read no GPU was started first and stays",
    "it does not stand for election, so a server with a GPU beside it samples",
)
def test_a_process_without_a_device_does_not_keep_others_from_sampling(node: Node) -> None:
    demo, server = node.sampler(without_a_gpu()), node.sampler(one())
    demo.collect()
    server.collect()
    assert demo.snapshot.samples == ()
    assert server.snapshot.ids == ("GPU-1",)


@pytest.mark.fault(
    "gpu",
    "the process that samples loses its last GPU, which another process can still read",
    "it steps down, and the other one samples",
)
def test_a_leader_that_loses_its_devices_steps_down(node: Node) -> None:
    gpu = one()
    first, second = node.sampler(gpu), node.sampler(one())
    first.collect()
    second.collect()
    assert (first.snapshot.ids, second.snapshot.ids) == (("GPU-1",), ())
    gpu.lost.add(GPU)
    node.now_s += 1
    first.collect()
    node.now_s += 1
    first.collect()
    assert [sample.reading.status for sample in first.snapshot.samples] == ["failed"], "as long as none can read it"
    second.collect()
    assert second.snapshot.ids == ("GPU-1",)
    node.now_s += 1
    first.collect()
    assert first.snapshot.samples == ()


def test_a_follower_keeps_no_device_open(node: Node) -> None:
    waiting = one()
    first, second = node.sampler(one()), node.sampler(waiting)
    first.collect()
    second.collect()
    assert (waiting.opened, waiting.closed) == (1, 1)
    node.elections[0].resign()
    second.collect()
    assert second.snapshot.ids == ("GPU-1",)


def test_the_thread_of_a_follower_opens_nothing_and_can_be_stopped(node: Node) -> None:
    waiting = one()
    first, second = node.sampler(one()), node.sampler(waiting)
    first.collect()
    second.start()
    deadline = time.monotonic() + 10
    while not waiting.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert second.stop()
    assert (waiting.opened, waiting.closed) == (1, 1)


@pytest.mark.fault(
    "gpu",
    "a process that exports no metrics runs beside one that does",
    "it does not stand for election, so hw.* is exported",
)
def test_a_process_without_metrics_does_not_lead(node: Node) -> None:
    silent, server = node.sampler(one(), stands=False), node.sampler(one())
    silent.collect()
    server.collect()
    assert (silent.snapshot.ids, server.snapshot.ids) == (("GPU-1",), ("GPU-1",))


# ---------------------------------------------------------------- the directory of a host


@pytest.fixture
def device() -> Iterator[str]:
    with unique_device() as made:
        yield made


STANDING = """
import sys
from ai_otel.gpu.sharing.leader import LeaderElection
election = LeaderElection(serves=True)
print(election.lead(sys.argv[1:]), flush=True)
for line in sys.stdin:
    print(election.others_serving(), flush=True)
"""


@contextmanager
def standing(device: str, temporary: Path) -> Iterator[Callable[[], str]]:
    """A process that stands for election, with a TMPDIR of its own; yields what reads its next answer."""
    temporary.mkdir()
    command = [sys.executable, "-c", STANDING, device]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        leads = stdout.readline().strip()

        def answer() -> str:
            stdin.write("\n")
            stdin.flush()
            return f"leads {leads}, others serve {stdout.readline().strip()}"

        try:
            yield answer
        finally:
            stdin.close()
            process.wait(timeout=10)


@pytest.mark.fault(
    "gpu",
    "two servers on one GPU have different TMPDIR",
    "one samples, and neither claims the energy of the GPU for its own requests",
)
def test_processes_with_different_temporary_directories_find_each_other(device: str, tmp_path: Path) -> None:
    with standing(device, tmp_path / "first") as first, standing(device, tmp_path / "second") as second:
        assert first() == "leads True, others serve True"
        assert second() == "leads False, others serve True"


def as_another_user(work: Callable[[], None]) -> int:
    """Run `work` in a forked child that is another user; returns the child's process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            work()
            status = 0
        finally:
            os._exit(status)
    return child


@pytest.mark.fault(
    "gpu",
    "servers of two users run on one GPU",
    "one samples, neither claims the energy of the GPU, and `ai-otel doctor` names the user",
)
@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user; next: run it as root")
def test_processes_of_two_users_find_each_other(device: str) -> None:
    answer, ready = os.pipe()
    waiting, done = os.pipe()

    def work() -> None:
        os.close(done)
        election = LeaderElection(serves=True)
        os.write(ready, str(election.lead([device])).encode())
        os.read(waiting, 1)

    other = as_another_user(work)
    os.close(waiting)
    here = LeaderElection(serves=True)
    try:
        assert os.read(answer, 8) == b"True"
        assert not here.lead([device])
        assert not here.vacant()
        assert here.others_serving()
        found = list(check_sampling(Settings()))
        (leading,) = [each for each in found if each.details.get("pid") == other]
        assert leading.level is Level.NOTE
        assert leading.says.startswith(f"process {other} of user 65534 samples 1 device since 20")
        assert "AI_OTEL_LOCK_DIR" in leading.next_step
        (serving,) = [each for each in found if other in each.details.get("serving", [])]
        assert "none claims its energy" in serving.says
    finally:
        os.close(done)
        os.waitpid(other, 0)
    assert here.lead([device])
    here.resign()


# ---------------------------------------------------------------- doctor


def test_doctor_says_which_process_samples_and_since_when(tmp_path: Path) -> None:
    settings = Settings(lock_dir=str(tmp_path))
    with other_leader(tmp_path) as other:
        server = Server(other.pid, "python", "python", frozenset(), {})
        directory, leading = check_sampling(settings, server)
        assert directory.says.endswith(f"by lock files in {tmp_path}")
        assert leading.says.startswith(f"this server {other.pid} samples 1 device since 20")
        waiting = list(check_sampling(settings, Server(os.getpid(), "python", "python", frozenset(), {})))[1:]
    assert [finding.level for finding in waiting] == [Level.OK, Level.OK]
    assert waiting[0].says.startswith(f"process {other.pid} samples 1 device since 20")
    assert waiting[0].details["samples"] is True
    assert f"process {os.getpid()} does not sample" in waiting[1].says


@pytest.mark.fault(
    "gpu",
    "the directory of the lock files does not exist",
    "each process samples, and log and `ai-otel doctor` name the directory",
)
@pytest.mark.parametrize("name", ["absent", "file", "long" * 100])
def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    election = LeaderElection(tmp_path / name, serves=True)
    assert election.lead(ONE)
    assert election.vacant()
    assert not election.others_serving()
    election.resign()
    assert name in caplog.text
    (finding,) = check_sampling(Settings(lock_dir=str(tmp_path / name)))
    assert finding.level is Level.NOTE
    assert finding.says.startswith(f"no lock file can be created in {tmp_path / name}")


def test_doctor_names_files_that_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "ai-otel-serving-12345678.lock").symlink_to("/dev/null")
    _, finding = check_sampling(Settings(lock_dir=str(tmp_path)))
    assert finding.level is Level.NOTE
    assert finding.says.startswith(f"{tmp_path}/ai-otel-serving-12345678.lock cannot be locked: user {os.getuid()}")
