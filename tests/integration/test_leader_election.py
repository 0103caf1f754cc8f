"""The leader election between processes: kill, stop, fork, and processes that can read no device."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ai_otel.doctor.finding import Level
from ai_otel.doctor.sampling import check_sampling
from ai_otel.doctor.server import Server
from ai_otel.gpu.leader import LAPSE_S, LeaderElection
from ai_otel.gpu.sampler import Sampler
from ai_otel.gpu.source import Device, GpuReading, Unavailable
from ai_otel.testing import FakeGpu

GPU = Device("GPU-1", "fake")
ONE = ["GPU-1"]

LEADING = """
import sys, time
from pathlib import Path
from ai_otel.gpu.leader import LeaderElection
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


# ---------------------------------------------------------------- doctor


def test_doctor_says_which_process_samples_and_since_when(tmp_path: Path) -> None:
    with other_leader(tmp_path) as other:
        environment = {"TMPDIR": str(tmp_path)}
        (leading,) = check_sampling(Server(other.pid, "python", "python", frozenset(), environment))
        assert leading.says.startswith(f"this server {other.pid} samples 1 device since 20")
        waiting = list(check_sampling(Server(os.getpid(), "python", "python", frozenset(), environment)))
    assert [finding.level for finding in waiting] == [Level.OK, Level.OK]
    assert waiting[0].says.startswith(f"process {other.pid} samples 1 device since 20")
    assert waiting[0].details["samples"] is True
    assert f"process {os.getpid()} does not sample" in waiting[1].says
