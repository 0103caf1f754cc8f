"""Intel's source against a simulated Level Zero loader, loaded by Intel's unpatched `pyzes`."""

from __future__ import annotations

import ctypes
import os

import pytest

from ai_otel.gpu.intel import sysman as level_zero_sysman
from ai_otel.gpu.intel.source import LevelZeroSource, binding
from ai_otel.gpu.intel.sysman import Sysman
from ai_otel.gpu.source import DeviceLost, Options, Support, Unavailable
from harness.gpu import intel
from harness.gpu.intel import GIB, ONE_TILE, opened, simulated
from isolated import python

INSUFFICIENT_PERMISSIONS = 0x70010000
UNSUPPORTED_FEATURE = 0x78000003
UNINITIALIZED = 0x78000001
pytestmark = [pytest.mark.requires(**each) for each in intel.REQUIRES]


def test_the_binding_is_intels_own_and_its_library_is_the_simulated_one() -> None:
    with opened():
        import pyzes

        assert pyzes.gpuLib._name == intel.LOADER
        simulated_one = ctypes.cast(intel.library().c.zesInit, ctypes.c_void_p).value
        assert ctypes.cast(pyzes.gpuLib.zesInit, ctypes.c_void_p).value == simulated_one


def test_the_simulated_structures_have_the_bindings_sizes() -> None:
    with opened() as it:
        import pyzes

        sizes = it.fake.sizes()
        assert len(sizes) > 20
        for name, size in sizes.items():
            structure, _, field = name.partition(".")
            theirs = getattr(pyzes, structure, None) or getattr(level_zero_sysman, structure)
            assert size == (getattr(theirs, field).offset if field else ctypes.sizeof(theirs)), name


# ---------------------------------------------------------------- absent values


def test_trap_0_celsius_is_a_missing_permission() -> None:
    """intel/xpumanager #92: without CAP_DAC_READ_SEARCH Sysman returns 0.0 with success."""
    with opened({"sensor1.celsius": 0.0, "sensor2.celsius": 0.0}) as it:
        reading = it.read()
        assert reading.temperature_c == {}
        assert reading.absent["temperature_c.gpu"] is Support.NO_PERMISSION
        assert reading.absent["temperature_c.memory"] is Support.NO_PERMISSION


def test_a_missing_permission_is_the_reason_of_absence() -> None:
    """Without CAP_PERFMON engines are absent; power and memory are available."""
    with opened() as it:
        it.fake.fail("d0.engine0", "zesEngineGetActivity", code=INSUFFICIENT_PERMISSIONS)
        reading = it.read()
        assert reading.absent["utilization"] is Support.NO_PERMISSION
        assert (reading.power_w, reading.memory_used_bytes) == (150.0, 6 * GIB)


def test_engines_that_cannot_be_listed_have_a_reason() -> None:
    with simulated(ONE_TILE) as fake:
        fake.fail("d0", "zesDeviceEnumEngineGroups", code=INSUFFICIENT_PERMISSIONS)
        source = LevelZeroSource(Options())
        (device,) = source.open()
        assert source.read(device).absent["utilization"] is Support.NO_PERMISSION


def test_compute_engines_do_not_replace_the_total() -> None:
    """If the driver has no group of all engines, utilization is absent."""
    with opened({"engine0.type": 4}) as it:
        reading = it.read()
        assert reading.utilization is None
        assert reading.absent["utilization"] is Support.NOT_SUPPORTED


def test_unknown_clocks_and_limits_are_absent() -> None:
    with opened({"clock0.actual": -1.0, "power1.limit": -1}) as it:
        reading = it.read()
        assert reading.absent["frequency_hz.sm"] is Support.NOT_SUPPORTED
        assert reading.absent["power_limit_w.enforced"] is Support.NOT_SUPPORTED
        assert reading.absent["power_limit_w.min"] is Support.NOT_SUPPORTED


def test_a_function_missing_in_the_loader_is_not_found() -> None:
    with opened():
        assert Sysman(binding()).ask("zesOfTheFuture") is Support.NOT_FOUND


def test_host_memory_is_not_counted() -> None:
    with opened({"memory0.location": 0}) as it:
        assert it.read().absent["memory_total_bytes"] is Support.NOT_SUPPORTED


# ---------------------------------------------------------------- rates


def test_power_is_the_growth_of_the_card_domains_energy() -> None:
    with opened() as it:
        reading = it.read(after_s=2.0)
        assert reading.power_w == pytest.approx(150.0)
        assert reading.energy_j == pytest.approx(1800.0)
        assert reading.power_window == "average"


def test_rates_are_kept_while_the_devices_time_is_unchanged() -> None:
    with opened() as it:
        first = it.read()
        again = it.read(after_s=0.0)
        assert (again.power_w, again.utilization) == (first.power_w, first.utilization) == (150.0, 0.64)


def test_without_elapsed_time_the_first_rate_is_absent() -> None:
    with opened() as it:
        reading = it.read(after_s=0.0)
        assert (reading.power_w, reading.utilization, reading.memory_bandwidth_utilization) == (None, None, None)
        assert reading.absent["power_w"] is Support.INVALID
        assert reading.energy_j == 1500.0


def test_a_reset_counter_has_no_rate_for_one_sample() -> None:
    with opened() as it:
        it.read()
        it.fake.put("d0", {"power1.energy": (1_000, 150e6)})
        it.fake.c.simulated_number(b"d0.power1.energy", 1_000, 0.0)
        assert it.read().power_w is None
        it.fake.c.simulated_number(b"d0.power1.energy", 100_001_000, 0.0)
        assert it.read().power_w == pytest.approx(100.0)


def test_bandwidth_utilization_is_reads_plus_writes_over_the_peak() -> None:
    with opened() as it:
        assert it.read().memory_bandwidth_utilization == pytest.approx((90e9 + 24e9) / 456e9)


# ---------------------------------------------------------------- counters


def test_hardware_errors_are_counted_and_not_cleared() -> None:
    """Resets and software errors of the same sets are excluded. The simulation fails if counters are cleared."""
    with opened() as it:
        assert [it.read().errors for _ in range(2)] == [{"corrected": 3, "uncorrected": 1}] * 2


def test_processes_are_read_on_request() -> None:
    holders = {"processes": 1, "process0.processId": 4711, "process0.memSize": 3 * GIB}
    with opened(holders) as it:
        assert it.read().process_memory_bytes == {}
        assert it.fake.calls("d0", "zesDeviceProcessesGetState") == 0
    with opened(holders, options=Options(processes=True)) as it:
        assert it.read().process_memory_bytes == {4711: 3 * GIB}


# ---------------------------------------------------------------- opening


def test_the_servers_environment_is_not_changed() -> None:
    before = dict(os.environ)
    with opened():
        assert dict(os.environ) == before
        assert "ZES_ENABLE_SYSMAN" not in os.environ


def test_devices_of_other_vendors_and_kinds_are_left_out() -> None:
    npu, foreign = {**ONE_TILE, "type": 5}, {**ONE_TILE, "vendorId": 0x10DE}
    with simulated(npu, foreign, ONE_TILE):
        assert len(LevelZeroSource(Options()).open()) == 1


def test_no_gpu_and_a_failed_start_are_different_messages() -> None:
    source = LevelZeroSource(Options())
    with simulated() as fake:
        with pytest.raises(Unavailable, match="finds no Intel GPU: give this container"):
            source.open()
        fake.fail("library", "zesInit", code=UNINITIALIZED)
        with pytest.raises(Unavailable, match=r"does not start \(0x78000001\).*without ZES_ENABLE_SYSMAN"):
            source.open()


def test_without_the_loader_the_message_names_its_package() -> None:
    printed = python("""
from ai_otel.gpu.intel.source import LevelZeroSource
from ai_otel.gpu.source import Options, Unavailable
try:
    LevelZeroSource(Options()).open()
except Unavailable as why:
    print(why)
""")
    assert "install libze1" in printed


def test_reading_energy_of_a_lost_gpu_raises_device_lost() -> None:
    with opened() as it:
        it.fake.fail("d0.power1", "zesPowerGetEnergyCounter", code=intel.DEVICE_LOST)
        with pytest.raises(DeviceLost):
            it.source.read_energy(it.devices[0])


def test_without_an_energy_counter_energy_is_absent() -> None:
    with opened() as it:
        it.fake.fail("d0.power1", "zesPowerGetEnergyCounter", code=UNSUPPORTED_FEATURE)
        assert it.source.read_energy(it.devices[0]) is None
        assert it.read().absent["energy_j"] is Support.NOT_SUPPORTED


def test_a_gpu_that_is_lost_before_it_is_identified_is_reported_as_unopened() -> None:
    source = LevelZeroSource(Options())
    with simulated(ONE_TILE, ONE_TILE) as fake:
        fake.fail("d0", "zesDeviceGetProperties", code=intel.DEVICE_LOST)
        assert len(source.open()) == 1
        assert [device.id for device in source.unopened] == ["intel:0"]
        source.close()


def test_gpus_with_the_same_uuid_are_two() -> None:
    source = LevelZeroSource(Options())
    with simulated(ONE_TILE, ONE_TILE):
        devices = source.open()
        source.close()
    assert len({device.id for device in devices}) == 2
