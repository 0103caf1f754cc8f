from __future__ import annotations

import pytest

from ai_otel.gpu.counters import Counters
from ai_otel.gpu.source import Device, GpuReading

GPU = Device("GPU-1", "nvidia")


@pytest.mark.fault("gpu", "the driver is reloaded", "counters continue from their last value")
def test_a_counter_continues_after_a_driver_reload() -> None:
    counters = Counters()
    assert [counters.monotonic("energy", value) for value in (5.0, 90.0, 1.0, 2.0, 4.0)] == [
        5.0,
        90.0,
        90.0,
        92.0,
        94.0,
    ]


def test_only_the_counters_of_a_reading_are_corrected() -> None:
    counters = Counters()
    for factor in (20, 1, 2):
        reading = GpuReading(
            power_w=100.0 * factor,
            energy_j=10.0 * factor,
            throttle_s={"power_cap": 1.0 * factor},
            io_bytes={("pcie", "receive"): 100 * factor},
            errors={"corrected": factor},
        )
        counters.correct(GPU, reading)
    assert reading.power_w == 200.0
    assert (reading.energy_j, reading.throttle_s) == (220.0, {"power_cap": 22.0})
    assert (reading.io_bytes, reading.errors) == ({("pcie", "receive"): 2200}, {"corrected": 22})


def test_absent_counters_stay_absent() -> None:
    counters, reading = Counters(), GpuReading()
    counters.correct(GPU, reading)
    assert reading == GpuReading()


def test_devices_and_instances_have_separate_counters() -> None:
    counters = Counters()
    others = Device("GPU-2", "nvidia"), Device("GPU-1", "nvidia", instance_id="1")
    assert counters.energy_j(GPU, 9.0) == 9.0
    assert [counters.energy_j(each, 1.0) for each in others] == [1.0, 1.0]
