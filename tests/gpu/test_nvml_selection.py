"""Which GPUs the server's processes hold, by NVML's process list."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ai_otel.gpu.nvidia.processes import is_descendant
from ai_otel.gpu.source import Options, Support
from harness.gpu import nvml
from harness.gpu.nvml import SECOND_GPU, Gpu, Holder, Instance

pytestmark = pytest.mark.requires(**nvml.REQUIRES)

HOLDERS = Options(holders=True)
FOREIGN = 2**22 + 1
"""A PID above the maximum, which no process has."""


def test_a_device_is_held_by_this_process_or_a_child(tmp_path: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        gpus = [Gpu(holders=[Holder(worker.pid)]), Gpu(**SECOND_GPU, holders=[Holder(FOREIGN)])]
        with nvml.opened(tmp_path, *gpus, options=HOLDERS) as gpu:
            assert [gpu.read(index).held for index in range(2)] == [True, False]
    finally:
        worker.communicate()


def test_another_server_of_the_host_is_no_descendant(tmp_path: Path) -> None:
    """Its process has the same control group if both were started from one shell."""
    with nvml.opened(tmp_path, Gpu(holders=[Holder(os.getppid())]), options=HOLDERS) as gpu:
        assert gpu.read().held is False


def test_an_instance_is_held_by_its_own_processes(tmp_path: Path) -> None:
    parts, holders = [Instance(1), Instance(2)], [Holder(os.getpid(), instance=2)]
    with nvml.opened(tmp_path, Gpu(instances=parts, holders=holders), options=HOLDERS) as gpu:
        assert [gpu.read(index).held for index in range(3)] == [None, False, True]


def test_without_a_process_list_it_is_unknown(tmp_path: Path) -> None:
    returns = {"nvmlDeviceGetComputeRunningProcesses_v3": 3, "nvmlDeviceGetComputeRunningProcesses_v2": 3}
    with nvml.opened(tmp_path, Gpu(returns=returns), options=HOLDERS) as gpu:
        assert gpu.read().held is None


def test_the_list_is_read_on_request_and_every_ten_seconds(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(holders=[Holder(os.getpid())]), options=HOLDERS) as gpu:
        assert [gpu.read(after_s=1).held for _ in range(9)] == [True] * 9
        calls = gpu.fake.calls("nvmlDeviceGetComputeRunningProcesses_v3")
        gpu.read(after_s=10)
        assert gpu.fake.calls("nvmlDeviceGetComputeRunningProcesses_v3") == 2 * calls
    with nvml.opened(tmp_path, Gpu(holders=[Holder(os.getpid())])) as gpu:
        assert gpu.read().held is None


def test_descent_is_followed_in_the_proc_that_is_mounted(tmp_path: Path) -> None:
    parents = {"self": (50, 1), "50": (50, 1), "60": (60, 50), "70": (70, 60), "80": (80, 1)}
    for name, (pid, parent) in parents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "status").write_text(f"Name:\tpython\nPid:\t{pid}\nPPid:\t{parent}\n")
    assert [is_descendant(pid, tmp_path) for pid in (50, 60, 70, 80, 1, 99)] == [True, True, True, False, False, False]


# ---------------------------------------------------------------- whose processes compute


def test_an_idle_gpu_that_unresolvable_processes_hold_has_an_unknown_share(tmp_path: Path) -> None:
    """With process ids of the host, the server's own process is one of them: the next one to compute may be either."""
    holders = [Holder(os.getpid(), host_pid=FOREIGN)]
    with nvml.opened(tmp_path, Gpu(holders=holders), options=HOLDERS, pids="host") as gpu:
        reading = gpu.read()
    assert (reading.own_share, reading.absent["own_share"]) == (None, Support.INVALID)


def test_an_idle_gpu_that_the_server_holds_is_its_own(tmp_path: Path) -> None:
    for holders in ([], [Holder(os.getpid())], [Holder(os.getpid()), Holder(FOREIGN)]):
        with nvml.opened(tmp_path, Gpu(holders=holders), options=HOLDERS) as gpu:
            assert gpu.read().own_share == 1.0


@pytest.mark.parametrize(
    ("holders", "share"),
    [([], Support.NOT_SUPPORTED), ([os.getpid()], 1.0), ([FOREIGN], Support.INVALID), ([os.getpid(), FOREIGN], None)],
)
def test_without_compute_times_the_processes_that_hold_it_decide(
    tmp_path: Path, holders: list[int], share: float | Support | None
) -> None:
    simulated = Gpu(holders=[Holder(pid) for pid in holders], process_utilization=False)
    with nvml.opened(tmp_path, simulated, options=HOLDERS) as gpu:
        reading = gpu.read()
    assert (reading.own_share or reading.absent["own_share"]) == (share or Support.INVALID)
