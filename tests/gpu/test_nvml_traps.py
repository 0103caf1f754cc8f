"""
Traps of NVML: values that do not mean what their name suggests. Each has a number and at least one test.

Trap 18 is AMD's (test_amd.py).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pynvml
import pytest

from ai_otel.gpu.source import Options, Support
from harness.gpu import nvml
from harness.gpu.nvml import GIB, Field, Gpu, Instance, Scenario, Value, with_fields

pytestmark = pytest.mark.requires(**nvml.REQUIRES)

PROCESSES = Options(processes=True)


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
