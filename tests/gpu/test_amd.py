"""AMD's source against a simulated libamd_smi, loaded by AMD's unpatched binding."""

from __future__ import annotations

import ctypes
import io
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ai_otel.gpu.amd import library as amdsmi_library
from ai_otel.gpu.amd.device import STALE_AFTER_S, EnergyCounter
from ai_otel.gpu.amd.source import AmdSmiSource
from ai_otel.gpu.source import DeviceLost, Options, Support, Unavailable
from harness.gpu import amd
from harness.gpu.amd import GIB, HOTSPOT, NOW, VRAM, Gpu, opened
from isolated import python

NO_PERMISSION = 10
NOT_SUPPORTED = 2
pytestmark = [pytest.mark.requires(**each) for each in amd.REQUIRES]


def test_the_binding_is_amds_own_and_its_library_is_the_simulated_one() -> None:
    with opened():
        import amdsmi.amdsmi_wrapper as binding

        assert Path(binding._libraries["libamd_smi.so"]._name).name == "libamd_smi.so"
        simulated = ctypes.cast(amd.library().c.amdsmi_get_energy_count, ctypes.c_void_p).value
        assert ctypes.cast(binding.amdsmi_get_energy_count, ctypes.c_void_p).value == simulated


def test_the_simulated_structures_are_as_large_as_the_bindings() -> None:
    with opened() as it:
        import amdsmi.amdsmi_wrapper as binding

        sizes = it.fake.sizes()
        assert len(sizes) > 15
        for name, size in sizes.items():
            structure, _, field = name.partition(".")
            theirs = getattr(binding, structure)
            assert size == (getattr(theirs, field).offset if field else ctypes.sizeof(theirs)), name


# ---------------------------------------------------------------- units


def test_trap_15_amds_mb_is_2_to_the_20_bytes() -> None:
    with opened(Gpu(memory_total=None, memory_usage=None)) as it:
        it.fake.fail("h0.0", "amdsmi_get_gpu_memory_total", "amdsmi_get_gpu_memory_usage", code=NOT_SUPPORTED)
        reading = it.read()
        assert reading.memory_total_bytes == 192 * GIB
        assert reading.memory_used_bytes == 40 * GIB


def test_energy_is_the_count_times_its_resolution() -> None:
    with opened(Gpu(energy_accumulator=4_000_000_000, counter_resolution=15.25)) as it:
        assert it.read().energy_j == pytest.approx(61_000.0)


def test_power_is_in_watts_with_its_averaging_window() -> None:
    with opened(Gpu(), Gpu(uuid="mi210", current_socket_power=None, average_socket_power=240)) as it:
        now, mean = it.read(0), it.read(1)
        assert (now.power_w, now.power_window) == (600.0, "instant")
        assert (mean.power_w, mean.power_window) == (240.0, "average")


def test_a_count_of_65535_is_a_count() -> None:
    """65535 is a sentinel only in the firmware's 16-bit values."""
    with opened(Gpu(correctable_count=0xFFFF)) as it:
        assert it.read().errors["corrected"] == 0xFFFF


# ---------------------------------------------------------------- absent values


@pytest.mark.parametrize(
    ("values", "entry"),
    [
        ({"gfx_activity": 0xFFFF}, "utilization"),
        ({"gfx_activity": 0xFFFF_FFFF}, "utilization"),
        ({"umc_activity": 0xFFFF}, "memory_controller_utilization"),
        ({"current_socket_power": 0xFFFF}, "power_w"),
        ({"current_socket_power": 0xFFFF_FFFF}, "power_w"),
        ({f"temperature.{HOTSPOT}.{NOW}": 0xFFFF}, "temperature_c.gpu"),
        ({f"temperature.{VRAM}.{NOW}": None}, "temperature_c.memory"),
        ({"clock.0": 0xFFFF_FFFF}, "frequency_hz.sm"),
        ({"correctable_count": 2**64 - 1}, "errors.corrected"),
        ({"ppt_residency_acc": 2**64 - 1}, "throttle_s.power_cap"),
        ({"xgmi_write_data_acc.0": 2**64 - 1}, "io_bytes.xgmi.transmit"),
        ({"energy_accumulator": 2**64 - 1}, "energy_j"),
    ],
)
def test_trap_18_sentinels_are_absent(values: dict[str, Any], entry: str) -> None:
    with opened(Gpu(**values)) as it:
        reading = it.read()
        assert reading.absent[entry] is Support.NOT_SUPPORTED
        name, _, key = entry.partition(".")
        values_by_key = getattr(reading, name)
        assert values_by_key is None or key not in {
            ".".join(each) if isinstance(each, tuple) else each for each in values_by_key
        }


def test_trap_18_a_virtual_machine_has_no_energy_counter() -> None:
    with opened() as it:
        it.fake.fail("h0.0", "amdsmi_get_energy_count", code=NOT_SUPPORTED)
        assert it.read().absent["energy_j"] is Support.NOT_SUPPORTED
        assert it.source.read_energy(it.devices[0]) is None


def test_trap_18_a_stopped_energy_counter_is_absent() -> None:
    with opened(Gpu(energy_accumulator=1_000_000)) as it:
        assert it.read().energy_j == pytest.approx(15.25)
        assert it.read(after_s=STALE_AFTER_S - 1).energy_j == pytest.approx(15.25)
        assert it.read(after_s=2).absent["energy_j"] is Support.INVALID
        it.fake.put("h0.0", {"energy_accumulator": 2_000_000})
        assert it.read(after_s=1).energy_j == pytest.approx(30.5)


def test_a_decreasing_energy_counter_is_returned_as_it_is() -> None:
    """ROCm/amdsmi #115. `Counters` distinguishes it from a reset, not the source."""
    counter = EnergyCounter(iter(range(100)).__next__)
    assert [counter.joules(joules) for joules in (1000.0, 990.0, 3.0, 9.0)] == [1000.0, 990.0, 3.0, 9.0]


def test_the_second_die_of_an_mi250_has_no_power_and_energy() -> None:
    with opened(Gpu(**amd.MI250_SECOND_DIE)) as it:
        reading = it.read()
        assert (reading.power_w, reading.energy_j) == (None, None)
        assert reading.absent["power_w"] is reading.absent["energy_j"] is Support.INVALID


def test_only_unsupported_calls_are_cached() -> None:
    with opened() as it:
        it.fake.fail("h0.0", "amdsmi_get_gpu_activity", code=NOT_SUPPORTED)
        it.fake.fail("h0.0", "amdsmi_get_gpu_total_ecc_count", code=NO_PERMISSION)
        assert [it.read().absent["errors.corrected"] for _ in range(3)] == [Support.NO_PERMISSION] * 3
        assert it.fake.calls("h0.0", "amdsmi_get_gpu_activity") == 1
        assert it.fake.calls("h0.0", "amdsmi_get_gpu_total_ecc_count") == 3
        it.fake.fail("h0.0", "amdsmi_get_gpu_total_ecc_count", code=0)
        assert it.read().errors["corrected"] == 3


def test_an_exception_of_the_binding_makes_the_value_absent() -> None:
    """The binding parses every serial number as hexadecimal."""
    with opened(Gpu(asic_serial="none")) as it:
        (device,) = it.devices
        assert (device.model, device.serial_number) == (None, None)
        assert device.id == amd.MI300X["uuid"]
        assert it.read().utilization == 0.87


def test_media_engines_do_not_set_encoder_or_decoder_utilization() -> None:
    with opened(Gpu(mm_activity=70)) as it:
        reading = it.read()
        assert (reading.encoder_utilization, reading.decoder_utilization) == (None, None)


# ---------------------------------------------------------------- several devices


def test_gpus_of_one_model_are_distinguished_by_uuid() -> None:
    with opened(Gpu(uuid="one"), Gpu(uuid="two")) as it:
        assert [device.id for device in it.devices] == ["one", "two"]
        assert len({device.model for device in it.devices}) == 1


def test_partitions_have_their_own_utilization() -> None:
    busy = {"gfx_busy_inst.0.0": 10, "gfx_busy_inst.1.0": 0, "gfx_busy_inst.2.0": 50, "gfx_busy_inst.2.1": 100}
    with opened(Gpu(partitions=3, compute_partition="CPX", **busy)) as it:
        assert [(device.instance_id, device.instance_profile) for device in it.devices] == [
            (None, None),
            ("0", "CPX"),
            ("1", "CPX"),
            ("2", "CPX"),
        ]
        assert len({device.id for device in it.devices}) == 1
        assert it.read(0).power_w == 600.0
        assert [it.read(index).utilization for index in (1, 2, 3)] == [0.1, 0.0, 0.75]
        assert it.read(1).absent["power_w"] is Support.NOT_SUPPORTED
        assert it.source.read_energy(it.devices[1]) is None


def test_one_metrics_table_serves_a_board_and_its_partitions() -> None:
    with opened(Gpu(partitions=3, **{"gfx_busy_inst.1.0": 5})) as it:
        for _ in range(2):
            for index in range(len(it.devices)):
                it.read(index)
        assert it.fake.calls("h0.0", "amdsmi_get_gpu_metrics_info") == 2


def test_throttled_time_follows_the_firmwares_step_counts() -> None:
    with opened() as it:
        assert it.read().throttle_s == {"power_cap": 0.0, "thermal": 0.0, "hw_thermal": 0.0}
        assert it.read(after_s=2.0).throttle_s["power_cap"] == pytest.approx(0.5)
        assert it.read(after_s=10.0).throttle_s == {"power_cap": pytest.approx(3.0), "thermal": 0.0, "hw_thermal": 0.0}


def test_processes_are_read_on_request() -> None:
    holders = {"processes": 1, "process0.pid": 4711, "process0.vram_mem": 3 * GIB}
    with opened(Gpu(**holders)) as it:
        assert it.read().process_memory_bytes == {}
        assert it.fake.calls("h0.0", "amdsmi_get_gpu_process_list") == 0
    with opened(Gpu(**holders), options=Options(processes=True)) as it:
        assert it.read().process_memory_bytes == {4711: 3 * GIB}


def test_a_gpu_without_any_value_is_lost_and_may_return() -> None:
    with opened() as it:
        amd.lose_first()
        with pytest.raises(DeviceLost):
            it.read()
    with opened() as it:
        assert it.read().utilization == 0.87


# ---------------------------------------------------------------- opening


def test_trap_18_a_binding_without_its_library_is_unavailable() -> None:
    """Runs in a process that has not loaded the simulated library."""
    printed = python("""
from ai_otel.gpu.amd.source import AmdSmiSource
from ai_otel.gpu.source import Options, Unavailable
try:
    AmdSmiSource(Options()).open()
except Unavailable as why:
    print(why.installed, why)
""")
    installed = str(amdsmi_library.TRACE.exists())
    assert printed.startswith(f"{installed} AMD SMI's binding is installed without its library libamd_smi.so: install")
    assert len(printed.splitlines()) == 1


def test_output_of_other_threads_during_the_import_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", output := io.StringIO())
    with amdsmi_library._silent():
        print("the binding's")
        other = threading.Thread(target=print, args=("the server's",))
        other.start()
        other.join()
    print("later")
    assert output.getvalue() == "the server's\nlater\n"
    assert sys.stdout is output


def test_no_gpu_and_no_driver_are_different_messages() -> None:
    source = AmdSmiSource(Options())
    with amd.simulated() as fake:
        with pytest.raises(Unavailable, match="finds no GPU: give this container /dev/kfd"):
            source.open()
        fake.fail("library", "amdsmi_init", code=34)
        with pytest.raises(Unavailable, match=r"does not start \(.*DRIVER_NOT_LOADED.*: load the amdgpu driver"):
            source.open()


@pytest.mark.fault(
    "gpu",
    "AMD's library does not report the UUID of a GPU",
    "its hw.id is its PCI address, and its values are exported",
)
def test_a_gpu_without_a_uuid_has_the_id_of_its_place() -> None:
    with amd.opened() as it:
        (known,) = it.devices
        it.source.close()
        it.fake.fail("h0.0", "amdsmi_get_gpu_device_uuid", code=NOT_SUPPORTED)
        (device,) = it.source.open()
    assert device.id == f"amd:{known.pci_bus_id}"
