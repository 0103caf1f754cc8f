"""
Traps of NVML: values that do not mean what their name suggests. Each has a number and at least one test.

Trap 18 is AMD's (test_amd.py).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pynvml
import pytest

from ai_otel.gpu.nvidia.processes import own_pid, share_of
from ai_otel.gpu.source import Options, Support
from harness.gpu import nvml
from harness.gpu.nvml import ALL_LINKS, GIB, Field, Gpu, Holder, Instance, Scenario, Value

pytestmark = pytest.mark.requires(**nvml.REQUIRES)

PROCESSES = Options(processes=True)


def with_fields(changed: Mapping[int, Field | None]) -> dict[tuple[int, int], Field]:
    """Return the default fields with some changed or removed."""
    usual = {key: row for key, row in nvml.fields_of_an_h200().items() if key[0] not in changed}
    return usual | {(number, -1): row for number, row in changed.items() if row is not None}


# ---------------------------------------------------------------- 1: utilization


def test_trap_01_one_tiny_kernel_is_full_utilization_and_low_activity(tmp_path: Path) -> None:
    """One block on one of 132 units: NVML's utilization is 100 % regardless of how many units are active."""
    spinning = Gpu(utilization=100, memory_busy=100, gpm={2: 100 / 132, 10: 0.4}, memory_used=1 * GIB)
    with nvml.opened(tmp_path, spinning) as gpu:
        reading = gpu.read(after_s=1)
    assert reading.utilization == 1.0
    assert reading.sm_activity == pytest.approx(1 / 132)
    assert reading.memory_controller_utilization == 1.0, "share of time with any access"
    assert reading.memory_bandwidth_utilization == pytest.approx(0.004), "share of the peak rate"
    assert reading.memory_used_bytes == 1 * GIB, "share of the capacity"


def test_trap_01_without_gpm_activity_is_absent(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(utilization=100, memory_busy=70, gpm=None, architecture=8)) as gpu:
        reading = gpu.read(after_s=1)
    assert (reading.sm_activity, reading.memory_bandwidth_utilization) == (None, None)
    assert reading.absent["sm_activity"] is reading.absent["memory_bandwidth_utilization"] is Support.NOT_SUPPORTED


# ---------------------------------------------------------------- 2 and 3: MIG


MIG = Gpu(instances=[Instance(1, gpm={2: 90.0, 10: 50.0}), Instance(4, gpm={2: 10.0, 10: 5.0}, memory_used=GIB)])


def test_trap_02_mig_has_activity_by_instance_and_no_utilization(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, MIG) as gpu:
        whole, one, four = (gpu.read(index, after_s=0.2) for index in range(3))
    assert [reading.utilization for reading in (whole, one, four)] == [None, None, None]
    assert {reading.absent["utilization"] for reading in (whole, one, four)} == {Support.NOT_SUPPORTED}
    assert [reading.sm_activity for reading in (whole, one, four)] == [None, pytest.approx(0.9), pytest.approx(0.1)]
    # The sum of the GPU's and its instances' values would count memory twice.
    assert [reading.memory_used_bytes for reading in (whole, one, four)] == [None, 4 * GIB, GIB]


def test_trap_03_power_energy_temperature_and_clocks_are_by_device(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, MIG) as gpu:
        whole, part = gpu.read(0), gpu.read(1)
        assert gpu.source.read_energy(gpu.devices[0]) == pytest.approx(1000 + 300 * 10)
        assert gpu.source.read_energy(gpu.devices[1]) is None
    assert whole.power_w == pytest.approx(300)
    assert whole.temperature_c == {"gpu": 61.0, "memory": 52.0}
    assert whole.frequency_hz["sm"] == 1_755_000_000
    for name in ("energy_j", "power_w", "temperature_c", "frequency_hz", "throttle_s", "power_limit_w"):
        assert not getattr(part, name)
        assert part.absent[name] is Support.NOT_SUPPORTED


# ---------------------------------------------------------------- 4: energy


def test_trap_04_a_reset_energy_counter_is_returned_as_it_is(tmp_path: Path) -> None:
    """`Counters` corrects the reset, not the source."""
    with nvml.opened(tmp_path, Gpu(resets=[12.0])) as gpu:
        readings = [gpu.source.read_energy(gpu.devices[0])]
        readings += [gpu.read(after_s=1).energy_j for _ in range(4)]
    assert readings == [pytest.approx(joules) for joules in (4000, 4300, 0, 300, 600)]


def test_trap_04_the_energy_counter_is_constant_between_its_steps(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(power_w=700), now_s=10.01) as gpu:
        steps = [gpu.read(after_s=0.02).energy_j for _ in range(5)]
    assert steps == [pytest.approx(1000 + 700 * at_s) for at_s in (10.0, 10.0, 10.0, 10.0, 10.1)]


@pytest.mark.parametrize("gone", ["the scalar call", "the numbered value", "both"])
def test_trap_04_energy_is_read_by_either_call_and_is_absent_without_both(tmp_path: Path, gone: str) -> None:
    """GPUs before Volta have no counter. Energy is then absent, not integrated from power."""
    gpu = Gpu(energy=gone == "the numbered value", fields=with_fields({} if gone == "the scalar call" else {83: None}))
    with nvml.opened(tmp_path, gpu) as opened:
        values = [opened.read().energy_j, opened.source.read_energy(opened.devices[0])]
    assert values == ([None, None] if gone == "both" else [pytest.approx(4000), pytest.approx(4000)])


# ---------------------------------------------------------------- 5: power


RAMP: Value = [(0, 100), (9, 100), (10, 500), (20, 500)]


@pytest.mark.parametrize(
    ("gpu", "watts", "window"),
    [
        (Gpu(power_w=RAMP), 300, "average"),
        (Gpu(power_w=RAMP, fields=with_fields({185: None})), 500, "instant"),
        (Gpu(power_w=RAMP, fields={}), 300, "average"),
        (Gpu(power_w=RAMP, fields={}, architecture=7, compute_capability=86), 300, "average"),
        (Gpu(power_w=RAMP, fields={}, architecture=7, compute_capability=80), 300, "instant"),
        (Gpu(power_w=RAMP, fields={}, architecture=5, compute_capability=70), 300, "instant"),
    ],
    ids=["H200", "no mean", "older call on Hopper", "on GA102", "on GA100", "on Volta"],
)
def test_trap_05_power_has_its_averaging_window(tmp_path: Path, gpu: Gpu, watts: float, window: str) -> None:
    with nvml.opened(tmp_path, gpu) as opened:
        reading = opened.read()
    assert (reading.power_w, reading.power_window) == (pytest.approx(watts, abs=0.01), window)


def test_trap_05_power_excludes_the_modules_cpu(tmp_path: Path) -> None:
    """On a Grace-Hopper module, scope 1 is the sum of GPU and CPU."""
    scopes = {(185, 0): Field(400_000), (185, 1): Field(620_000), (186, 0): Field(410_000), (186, 1): Field(630_000)}
    with nvml.opened(tmp_path, Gpu(fields=with_fields({185: None, 186: None}) | scopes)) as gpu:
        assert gpu.read().power_w == pytest.approx(400)


# ---------------------------------------------------------------- 6: memory


def test_trap_06_used_memory_excludes_reserved_memory(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(memory_used=40 * GIB, memory_reserved=600 * 2**20)) as gpu:
        reading = gpu.read()
    assert (reading.memory_used_bytes, reading.memory_reserved_bytes) == (40 * GIB, 600 * 2**20)


def test_trap_06_version_1_of_the_call_has_no_reserved_memory(tmp_path: Path) -> None:
    """Its used memory includes an unknown amount of reserved memory."""
    for code, why in ((13, Support.NOT_FOUND), (25, Support.NOT_FOUND), (3, Support.NOT_SUPPORTED)):
        with nvml.opened(tmp_path, Gpu(returns={"nvmlDeviceGetMemoryInfo_v2": code})) as gpu:
            reading = gpu.read()
        assert reading.memory_used_bytes == 40 * GIB + GIB // 2
        assert reading.memory_total_bytes == 141 * GIB
        assert reading.memory_reserved_bytes is None
        assert reading.absent["memory_reserved_bytes"] is why


def test_trap_06_reserved_memory_within_used_memory_is_subtracted(tmp_path: Path) -> None:
    """By the header, version 2 may include reserved memory in used memory. The sum then exceeds the total."""
    with nvml.opened(tmp_path, Gpu(memory_v2_used_has_reserved=True)) as gpu:
        reading = gpu.read()
    assert (reading.memory_used_bytes, reading.memory_reserved_bytes) == (40 * GIB, GIB // 2)


def test_trap_06_the_bindings_version_constant_is_passed(tmp_path: Path) -> None:
    with nvml.library(tmp_path, Scenario()):
        pynvml.nvmlInit()
        try:
            with pytest.raises(pynvml.NVMLError):
                pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0), version=2)
        finally:
            pynvml.nvmlShutdown()


def test_trap_06_memory_of_an_integrated_gpu_is_absent(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(memory_total=None)) as gpu:
        assert gpu.read().absent["memory_total_bytes"] is Support.NOT_SUPPORTED


# ---------------------------------------------------------------- 7: the host link


def test_trap_07_the_call_that_blocks_for_20_ms_is_not_made(tmp_path: Path) -> None:
    for fields in (nvml.fields_of_an_h200(), {}):
        with nvml.opened(tmp_path, Gpu(fields=fields)) as gpu:
            gpu.read(after_s=1)
            assert gpu.fake.calls("nvmlDeviceGetPcieThroughput") == 0


def wrapping(bytes_per_s: float, *, gpm: bool, pcie: tuple[int, int] = (5, 16)) -> Gpu:
    """Return a GPU whose driver counts the host link's bytes in 32 bits."""
    counter = Field([(0, 4e9), (100, 4e9 + 100 * bytes_per_s)])
    rate = bytes_per_s / 2**20
    return Gpu(
        fields=with_fields({197: counter, 198: counter}),
        gpm={2: 50.0, 20: rate, 21: rate} if gpm else None,
        pcie=pcie,
    )


@pytest.mark.parametrize("gigabytes_per_s", [0.0, 0.3, 4.3, 25.0, 50.0])
def test_trap_07_wraparounds_of_a_32_bit_counter_follow_from_the_rate(tmp_path: Path, gigabytes_per_s: float) -> None:
    """At 50 GB/s the counter wraps eleven times a second. The GPM rate determines the number."""
    with nvml.opened(tmp_path, wrapping(gigabytes_per_s * 1e9, gpm=True)) as gpu:
        totals = [gpu.read(after_s=1).io_bytes.get(("pcie", "transmit")) for _ in range(6)]
    assert totals[0] is None, "nothing to compare with yet"
    steps = [later - sooner for sooner, later in pairwise(totals[1:])]
    assert steps == [pytest.approx(gigabytes_per_s * 1e9, abs=2)] * 4


def test_trap_07_a_slow_link_cannot_wrap_between_two_samples(tmp_path: Path) -> None:
    """3.9 GB/s, the capacity of four lanes of the third generation, is less than 4 GiB/s."""
    with nvml.opened(tmp_path, wrapping(3.5e9, gpm=False, pcie=(3, 4))) as gpu:
        totals = [gpu.read(after_s=1).io_bytes.get(("pcie", "receive")) for _ in range(4)]
    assert [later - sooner for sooner, later in pairwise(totals[1:])] == [3_500_000_000] * 2


def test_trap_07_with_unknown_wraparounds_the_counter_is_absent(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, wrapping(25e9, gpm=False)) as gpu:
        gpu.read()
        reading = gpu.read(after_s=1)
    assert ("pcie", "transmit") not in reading.io_bytes
    assert reading.absent["io_bytes.pcie.transmit"] is Support.INVALID


def test_trap_07_on_a_virtual_gpu_the_link_is_absent(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(fields=with_fields({197: None, 198: None}))) as gpu:
        reading = gpu.read()
    assert reading.absent["io_bytes.pcie.receive"] is Support.NOT_SUPPORTED
    assert ("nvlink", "receive") in reading.io_bytes


# ---------------------------------------------------------------- 8: fields


def test_trap_08_nvlink_traffic_is_the_sum_of_all_links(tmp_path: Path) -> None:
    fields = with_fields({138: None, 139: None})
    fields |= {(138, 0): Field(1000, "ullong"), (138, ALL_LINKS): Field(18_000, "ullong")}
    with nvml.opened(tmp_path, Gpu(fields=fields)) as gpu:
        reading = gpu.read()
    assert reading.io_bytes["nvlink", "transmit"] == 18_000 * 1024
    assert reading.absent["io_bytes.nvlink.receive"] is Support.NOT_SUPPORTED


def test_trap_08_single_fields_of_a_batch_may_fail(tmp_path: Path) -> None:
    """The value of a failed field is undefined."""
    failing = {82: Field(52, code=3), 190: Field(650_000, code=4), 4: Field(7, "ullong", code=999)}
    with nvml.opened(tmp_path, Gpu(fields=with_fields(failing))) as gpu:
        reading = gpu.read()
    assert "memory" not in reading.temperature_c
    assert "enforced" not in reading.power_limit_w
    assert "uncorrected" not in reading.errors
    assert reading.absent["temperature_c.memory"] is Support.NOT_SUPPORTED
    assert reading.absent["power_limit_w.enforced"] is Support.NO_PERMISSION
    assert reading.absent["errors.uncorrected"] is Support.ERROR
    assert reading.power_limit_w["max"] == 700


KNOWN_TYPES = set(nvml.TYPES) - {"double"} - (set() if hasattr(pynvml.c_nvmlValue_t, "usVal") else {"ushort"})


@pytest.mark.parametrize("type_name", sorted(KNOWN_TYPES))
def test_trap_08_a_value_is_decoded_by_its_type(tmp_path: Path, type_name: str) -> None:
    """The other bytes of the union are undefined."""
    with nvml.opened(tmp_path, Gpu(fields=with_fields({3: Field(1234, type_name), 82: Field(52.0, "double")}))) as gpu:
        reading = gpu.read()
    assert reading.errors["corrected"] == 1234
    assert reading.temperature_c["memory"] == 52.0


def test_trap_08_a_value_of_unknown_type_is_invalid(tmp_path: Path) -> None:
    path = tmp_path / "scenario.txt"
    with nvml.library(tmp_path, Scenario()) as fake:
        path.write_text(path.read_text().replace("field 3 -1 3 0", "field 3 -1 9 0"))
        source = nvml.NvmlSource(Options(), clock=fake.clock)
        try:
            reading = source.read(source.open()[0])
        finally:
            source.close()
    assert reading.absent["errors.corrected"] is Support.INVALID


# ---------------------------------------------------------------- 9: versions


READS = """
import json
from ai_otel.gpu.nvidia.source import NvmlSource
from ai_otel.gpu.source import Options
source = NvmlSource(Options())
(device,) = source.open()
reading = source.read(device)
source.close()
print(json.dumps([reading.temperature_c.get("gpu"), reading.memory_reserved_bytes, reading.power_w, reading.absent]))
"""
NAMES_OF_TEMPERATURE = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")


@pytest.mark.parametrize("missing", NAMES_OF_TEMPERATURE)
def test_trap_09_older_and_newer_function_names_are_supported(tmp_path: Path, missing: str) -> None:
    if missing == NAMES_OF_TEMPERATURE[1] and not hasattr(pynvml, NAMES_OF_TEMPERATURE[0]):
        pytest.skip("this binding knows the older name only; the newest one is tested too")
    scenario = Scenario(missing=frozenset({missing}))
    temperature, *_rest = json.loads(nvml.in_its_own_process(tmp_path, scenario, READS))
    assert temperature == 61.0


def test_trap_09_a_value_of_a_missing_function_is_not_found(tmp_path: Path) -> None:
    gone = {
        *NAMES_OF_TEMPERATURE,
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetFieldValues",
        "nvmlGpmQueryDeviceSupport",
    }
    gone |= {"nvmlEventSetCreate", "nvmlDeviceGetNumFans", "nvmlDeviceGetProcessUtilization"}
    printed = nvml.in_its_own_process(tmp_path, Scenario(missing=frozenset(gone)), READS)
    temperature, reserved, power_w, absent = json.loads(printed)
    assert (temperature, reserved, power_w) == (None, None, 300.0)
    for name in ("temperature_c.gpu", "memory_reserved_bytes", "status", "sm_activity", "fan_speed_ratio", "own_share"):
        assert absent[name] == "not_found", name
    assert "power_w" not in absent, "the older call has it"


def test_trap_09_a_missing_function_is_looked_up_once(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(returns={"nvmlDeviceGetTemperatureV": 13})) as gpu:
        for _ in range(3):
            assert gpu.read(after_s=1).temperature_c["gpu"] == 61.0
        assert gpu.fake.calls("nvmlDeviceGetTemperatureV") <= 1, "an older binding has no such function at all"


@pytest.mark.parametrize(
    ("driver", "throttled"),
    [
        ("610.57.04", {"sw_thermal": 1.0, "hw_thermal": 2.0, "hw_power_brake": 3.0}),
        ("580.159.03", {"sw_thermal": 1.0, "hw_thermal": 2.0, "hw_power_brake": 3.0}),
        ("575.51.03", {"sw_thermal": 4.0, "hw_thermal": 5.0, "hw_power_brake": 6.0}),
        ("570.172.08", {"thermal": 7.0}),
        ("535.261.03", {"thermal": 7.0}),
    ],
)
def test_trap_09_field_ids_depend_on_the_driver_version(
    tmp_path: Path, driver: str, throttled: dict[str, float]
) -> None:
    """575 has throttling at 251 to 253, and its neighbours power smoothing, which 575 has at 269 to 271."""
    numbers = {269: 1, 270: 2, 271: 3, 251: 4, 252: 5, 253: 6, 75: 7}
    fields = with_fields({number: Field(seconds * 1e9, "ullong") for number, seconds in numbers.items()})
    with nvml.opened(tmp_path, Gpu(fields=fields), driver=driver) as gpu:
        assert gpu.read().throttle_s == {"power_cap": 0.5, "sync_boost": 0.0} | throttled


# ---------------------------------------------------------------- 10: errors of memory


def test_trap_10_errors_are_counted_since_the_driver_was_loaded(tmp_path: Path) -> None:
    """The lifetime counters, 5 and 6, are not reset: each start would export them again in full."""
    ecc = {3: Field(2), 4: Field(1), 5: Field(9_000), 6: Field(800)}
    with nvml.opened(tmp_path, Gpu(fields=with_fields(ecc))) as gpu:
        assert gpu.read().errors == {"corrected": 2, "uncorrected": 1}


def test_trap_10_with_ecc_off_errors_are_absent_and_not_zero(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(fields=with_fields({3: None, 4: None}))) as gpu:
        reading = gpu.read()
    assert reading.errors == {}
    assert reading.absent["errors.corrected"] is reading.absent["errors.uncorrected"] is Support.NOT_SUPPORTED


# ---------------------------------------------------------------- 11: XID


def events_of(gpu: nvml.Opened, count: int = 1, timeout_s: float = 30.0) -> list[tuple[int, str | None]]:
    """Wait for at least `count` events; returns those received until the timeout, as code and instance."""
    received: list[tuple[int, str | None]] = []
    deadline_s = time.monotonic() + timeout_s
    while len(received) < count and time.monotonic() < deadline_s:
        received += [(event.code, event.device.instance_id) for event in gpu.source.events()]
        time.sleep(0.005)
    return received


def test_trap_11_xids_since_the_start_are_received_with_their_code(tmp_path: Path) -> None:
    """Earlier events are unknown. Codes are exported without a severity: 31, for example, is an application error."""
    with nvml.opened(tmp_path, Gpu(xids=[(5.0, 79), (20.0, 31), (20.0, 109)])) as gpu:
        gpu.fake.clock.set(21.0)
        assert events_of(gpu, 2) == [(31, None), (109, None)]
        assert gpu.source.events() == []


def test_trap_11_an_xid_of_a_mig_instance_is_assigned_to_it(tmp_path: Path) -> None:
    instances = [Instance(1), Instance(4)]
    with nvml.opened(tmp_path, Gpu(instances=instances, xids=[(20.0, 13, 4), (21.0, 13, 9)])) as gpu:
        gpu.fake.clock.set(20.5)
        assert events_of(gpu) == [(13, "4")]
        gpu.fake.clock.set(21.5)
        assert events_of(gpu) == [(13, None)], "an instance of another container"


def test_trap_11_the_waiting_thread_is_a_daemon_and_stops_before_nvml(tmp_path: Path) -> None:
    with nvml.opened(tmp_path) as gpu:
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "ai-otel-xid"]
        assert thread.daemon
        gpu.source.close()
        assert not thread.is_alive()
        assert gpu.fake.live("event sets") == 0


def test_trap_11_without_events_there_is_no_thread(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(events=False)) as gpu:
        assert gpu.source.events() == []
        assert not [thread for thread in threading.enumerate() if thread.name == "ai-otel-xid"]


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
