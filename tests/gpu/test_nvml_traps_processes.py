"""Traps 12 to 17 of NVML (see test_nvml_traps.py): processes, performance metrics, units and start."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ai_otel.gpu.nvidia.processes import own_pid, share_of
from ai_otel.gpu.source import Options, Support
from harness.gpu import nvml
from harness.gpu.nvml import GIB, Field, Gpu, Holder, Instance, Value, with_fields

pytestmark = pytest.mark.requires(**nvml.REQUIRES)

PROCESSES = Options(processes=True)


# ---------------------------------------------------------------- 12 and 13: processes


FOREIGN = 2**22 + 1
"""A PID above the maximum, which no process has."""


def test_trap_12_processes_have_the_containers_pids(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        holders = [Holder(os.getpid(), 7 * GIB), Holder(other.pid, 2 * GIB), Holder(FOREIGN, 9 * GIB)]
        with nvml.opened(tmp_path, Gpu(holders=holders), options=PROCESSES) as gpu:
            assert gpu.read().process_memory_bytes == {os.getpid(): 7 * GIB, other.pid: 2 * GIB}
    finally:
        other.communicate()


def test_trap_12_host_pids_are_ignored(tmp_path: Path) -> None:
    """Older drivers report host PIDs. They are not attributed to processes of this container."""
    holders = [Holder(os.getpid(), 7 * GIB, sm_percent=80, host_pid=FOREIGN)]
    with nvml.opened(tmp_path, Gpu(holders=holders), options=PROCESSES, pids="host") as gpu:
        reading = gpu.read()
    assert reading.process_memory_bytes == {}
    assert reading.own_share is None
    assert reading.absent["own_share"] is Support.INVALID


def test_trap_12_unavailable_process_memory_is_absent(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(holders=[Holder(os.getpid(), None)]), options=PROCESSES) as gpu:
        reading = gpu.read()
    assert reading.process_memory_bytes == {}
    assert reading.absent[f"process_memory_bytes.{os.getpid()}"] is Support.INVALID


@pytest.mark.parametrize(
    ("driver", "agree"), [("535.54.03", False), ("535.98", True), ("535.261.03", True), ("580.1", True)]
)
def test_trap_12_rows_of_another_layout_are_not_decoded(tmp_path: Path, driver: str, agree: bool) -> None:
    """535.54 has rows of 32 bytes under the name of those of 24: all but the first would be misread."""
    holders = [Holder(os.getpid(), GIB)]
    with nvml.opened(tmp_path, Gpu(holders=holders), options=PROCESSES, driver=driver) as gpu:
        reading = gpu.read()
    assert reading.process_memory_bytes == ({os.getpid(): GIB} if agree else {})
    assert reading.absent.get("process_memory_bytes") is (None if agree else Support.NOT_FOUND)


def test_trap_12_processes_are_read_on_request(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(holders=[Holder(os.getpid(), GIB)])) as gpu:
        reading = gpu.read()
        assert gpu.fake.calls("nvmlDeviceGetComputeRunningProcesses_v3") == 0
    assert reading.process_memory_bytes == {}
    assert not [name for name in reading.absent if name.startswith("process")]


def test_trap_12_a_mig_instance_has_its_own_processes(tmp_path: Path) -> None:
    holders = [Holder(os.getpid(), GIB, instance=2)]
    parts = [Instance(1), Instance(2)]
    with nvml.opened(tmp_path, Gpu(instances=parts, holders=holders), options=PROCESSES) as gpu:
        assert [gpu.read(index).process_memory_bytes for index in range(3)] == [{}, {}, {os.getpid(): GIB}]


def test_trap_12_with_the_hosts_proc_host_pids_are_translated(tmp_path: Path) -> None:
    """`NSpid` lists a process's PIDs from the namespace of `/proc` to the innermost."""
    processes = {"self": ("400001 11", "/pod"), "400002": ("400002 12 1", "/pod"), "400003": ("400003 13", "/other")}
    for name, (numbers, group) in processes.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "status").write_text("Name:\tpython\nNSpid:\t" + numbers.replace(" ", "\t") + "\n")
        (tmp_path / name / "cgroup").write_text(f"0::{group}\n")
    assert own_pid(400002, tmp_path) == 12
    assert own_pid(400003, tmp_path) is None, "another container's"
    assert own_pid(12, tmp_path) is None


def test_trap_13_own_share_is_the_containers_part_of_compute_time(tmp_path: Path) -> None:
    holders = [Holder(os.getpid(), 0, sm_percent=60), Holder(FOREIGN, 0, sm_percent=20)]
    with nvml.opened(tmp_path, Gpu(holders=holders)) as gpu:
        assert gpu.read().own_share == pytest.approx(0.75)


@pytest.mark.parametrize("idle_is_success", [False, True], ids=["not found", "success without a row"])
def test_trap_13_the_own_share_of_an_idle_gpu_is_1(tmp_path: Path, idle_is_success: bool) -> None:
    """NVML returns NOT_FOUND, or success without rows, which the binding raises as an error with code 0."""
    with nvml.opened(tmp_path, Gpu(idle_is_success=idle_is_success)) as gpu:
        assert gpu.read().own_share == 1.0


def test_trap_13_only_new_samples_are_requested_every_ten_seconds(tmp_path: Path) -> None:
    """Otherwise an ended process would keep its share."""
    holders = [Holder(os.getpid(), 0, sm_percent=50), Holder(FOREIGN, 0, sm_percent=[(0, 50), (11, 50), (11, 0)])]
    with nvml.opened(tmp_path, Gpu(holders=holders)) as gpu:
        assert [gpu.read(after_s=1).own_share for _ in range(9)] == [0.5] * 9
        # The binding makes two calls: for the size, and for the rows.
        assert gpu.fake.calls("nvmlDeviceGetProcessUtilization") == 2
        assert gpu.read(after_s=10).own_share == 1.0
        assert gpu.fake.calls("nvmlDeviceGetProcessUtilization") == 4


def test_trap_13_without_new_samples_the_own_share_is_1(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(holders=[Holder(FOREIGN, 0, sm_percent=[(0, 90), (10, 90), (10, 0)])])) as gpu:
        assert gpu.read().own_share is None
        assert gpu.read(after_s=10).own_share == 1.0


def test_trap_13_without_processes_of_the_container_the_share_is_invalid() -> None:
    assert share_of([(5, 0), (6, 0)], lambda _pid: None) == 1.0
    assert share_of([(5, 10)], lambda _pid: None) is Support.INVALID
    assert share_of([(5, 10), (6, 30)], lambda pid: pid if pid == 6 else None) == 0.75


# ---------------------------------------------------------------- 14: performance metrics


def test_trap_14_activity_is_the_mean_between_two_samples(tmp_path: Path) -> None:
    """A burst of 100 % for 0.5 s of 1 s is 50 %, independent of the time of the sample."""
    burst: Value = [(0, 0), (11.2, 0), (11.2, 100), (11.7, 100), (11.7, 0), (30, 0)]
    with nvml.opened(tmp_path, Gpu(gpm={2: burst})) as gpu:
        values = [gpu.read(after_s=1).sm_activity for _ in range(3)]
    assert values == [pytest.approx(0), pytest.approx(0.5), pytest.approx(0)]


def test_trap_14_samples_are_at_least_100_ms_apart(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(gpm={2: [(0, 0), (20, 100)]})) as gpu:
        early = gpu.read(after_s=0.05)
        assert early.sm_activity is None
        assert "sm_activity" not in early.absent, "not known yet is no reason"
        assert gpu.fake.calls("nvmlGpmSampleGet") == 1
        first = gpu.read(after_s=0.06)
        assert first.sm_activity == pytest.approx(0.50275)
        assert gpu.read(after_s=0.05).sm_activity == first.sm_activity, "the last that is known"
        assert gpu.fake.calls("nvmlGpmMetricsGet") == 1


def test_trap_14_nan_is_absent_and_not_zero(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(gpm={2: math.nan, 3: 0.0})) as gpu:
        reading = gpu.read(after_s=1)
    assert reading.sm_activity is None
    assert reading.absent["sm_activity"] is Support.INVALID
    assert reading.sm_occupancy == 0.0, "zero is a measurement"


def test_trap_14_single_metrics_of_a_call_may_fail(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(gpm={2: 50.0, 3: 20.0}, gpm_codes={3: 21, 11: 3})) as gpu:
        reading = gpu.read(after_s=1)
    assert (reading.sm_activity, reading.sm_occupancy) == (0.5, None)
    assert reading.absent["sm_occupancy"] is Support.ERROR
    assert reading.absent["pipe_activity.fp64"] is Support.NOT_SUPPORTED


def test_trap_14_samples_are_allocated_once_and_freed(tmp_path: Path) -> None:
    with nvml.opened(tmp_path) as gpu:
        for _ in range(10):
            gpu.read(after_s=1)
        assert gpu.fake.calls("nvmlGpmSampleAlloc") == 2
        assert gpu.fake.live("samples") == 2
        gpu.source.close()
        assert gpu.fake.live("samples") == 0


def test_trap_14_a_failed_sample_restarts_the_mean(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(gpm={2: 50.0}, returns={"nvmlGpmSampleGet": [(999, 11.5), (0, 12.5)]})) as gpu:
        values = [gpu.read(after_s=1) for _ in range(4)]
    assert [reading.sm_activity for reading in values] == [0.5, None, None, 0.5]
    assert values[1].absent["sm_activity"] is Support.ERROR


def test_trap_14_before_hopper_gpm_is_not_supported(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(gpm=None, architecture=8)) as gpu:
        reading = gpu.read(after_s=1)
        assert gpu.fake.calls("nvmlGpmSampleGet") == gpu.fake.calls("nvmlGpmSampleAlloc") == 0
    assert reading.absent["pipe_activity.tensor"] is Support.NOT_SUPPORTED


# ---------------------------------------------------------------- 15 to 17


def test_trap_15_kib_are_1024_bytes_and_memory_is_bytes(tmp_path: Path) -> None:
    """141 GiB read as MB of 10**6 bytes would be 4.6 % less."""
    fields = with_fields({138: Field(1_000_000, "ullong")})
    with nvml.opened(tmp_path, Gpu(fields=fields, memory_total=141 * GIB)) as gpu:
        reading = gpu.read()
    assert reading.io_bytes["nvlink", "transmit"] == 1_024_000_000
    assert reading.memory_total_bytes == 151_397_597_184


def test_trap_16_nvml_is_initialized_once(tmp_path: Path) -> None:
    """With persistence mode off, every initialization wakes the GPU, which takes 22 ms to seconds."""
    with nvml.opened(tmp_path) as gpu:
        for _ in range(5):
            gpu.read(after_s=1)
            gpu.source.read_energy(gpu.devices[0])
        assert gpu.fake.calls("nvmlInitWithFlags") == 1
        assert gpu.fake.calls("nvmlDeviceGetUUID") == 1
        assert gpu.fake.live("inits") == 1


def test_trap_16_disabled_persistence_mode_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    second = Gpu(uuid="GPU-51a0fa4e-0000-4000-8000-000000000002", persistence=0)
    with nvml.opened(tmp_path, Gpu(persistence=0), second):
        pass
    (record,) = caplog.records
    assert record.getMessage().count("GPU-51a0fa4e") == 2
    assert "run nvidia-persistenced" in record.getMessage()


@pytest.mark.parametrize(("driver", "number"), [("580.159.03", 251), ("575.51.03", 256), ("570.172.08", 251)])
def test_trap_17_power_smoothing_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, driver: str, number: int
) -> None:
    """Power smoothing keeps the power draw up between bursts."""
    with nvml.opened(tmp_path, Gpu(fields=with_fields({number: Field(1)})), driver=driver):
        pass
    (record,) = caplog.records
    assert "power smoothing is on" in record.getMessage()


def test_trap_17_older_drivers_are_not_asked_for_power_smoothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with nvml.opened(tmp_path, Gpu(fields=with_fields({251: Field(1)})), driver="550.54.15"):
        pass
    assert caplog.records == []
