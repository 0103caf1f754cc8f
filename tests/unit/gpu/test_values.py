"""From an answer to a reading: what all sources do alike."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from ai_otel.gpu.source import GpuReading, Support
from ai_otel.gpu.values import Growth, OneLook, counted, ratio, settled, tell, within


def test_a_reason_takes_no_value_away_and_a_value_takes_its_reason_away() -> None:
    reading = GpuReading()
    tell(reading, "power_w", Support.NOT_SUPPORTED)
    tell(reading, "power_w", 300.0)
    tell(reading, "io_bytes", 7, ("pcie", "receive"))
    tell(reading, "io_bytes", Support.NO_PERMISSION, ("pcie", "transmit"))
    assert (reading.power_w, reading.io_bytes) == (300.0, {("pcie", "receive"): 7})
    assert reading.absent == {"io_bytes.pcie.transmit": Support.NO_PERMISSION}


def test_what_a_source_never_told_is_not_supported_and_what_it_said_why_stays() -> None:
    reading = GpuReading(utilization=0.0, absent={"temperature_c.gpu": Support.NO_PERMISSION})
    settled(reading)
    assert reading.absent["energy_j"] is Support.NOT_SUPPORTED
    assert reading.absent["pipe_activity"] is Support.NOT_SUPPORTED
    assert {"utilization", "temperature_c", "power_window", "process_memory_bytes"} & set(reading.absent) == set()
    assert reading.absent["temperature_c.gpu"] is Support.NO_PERMISSION


@given(st.floats())
def test_a_ratio_is_between_0_and_1_or_no_ratio(share: float) -> None:
    told = ratio(share)
    assert told is Support.INVALID or (isinstance(told, float) and 0 <= told <= 1)
    assert (told is Support.INVALID) == (not math.isfinite(share) or not 0 <= share <= 1.05)


@pytest.mark.parametrize("sentinel", [2**32 - 1, 2**64 - 1, -1, math.nan])
def test_a_count_is_no_sentinel(sentinel: float) -> None:
    assert counted(sentinel) is Support.INVALID
    assert counted(0) == 0
    assert counted(Support.LOST) is Support.LOST


def test_what_is_physically_impossible_is_no_measurement() -> None:
    assert within(0.0, 10_001.0, 10_000.0) is Support.INVALID
    assert within(0.0, math.nan, 10_000.0) is Support.INVALID
    assert within(0.0, 0.0, 10_000.0) == 0.0


def test_growth_needs_two_looks_and_then_knows_every_count() -> None:
    growth = Growth()
    assert growth.per_s({"read": 100.0, "write": 0.0}, 1_000_000) == {}
    assert growth.per_s({"read": 300.0, "write": 5.0}, 3_000_000) == {"read": 100.0, "write": 2.5}


def test_growth_holds_while_the_devices_time_stands_still() -> None:
    growth = Growth()
    growth.per_s({"energy": 0.0}, 0)
    growth.per_s({"energy": 10.0}, 1_000_000)
    assert growth.per_s({"energy": 10.0}, 1_000_000) == {"energy": 10.0}


def test_growth_begins_anew_with_a_count_that_fell_or_a_time_that_went_back() -> None:
    growth = Growth()
    growth.per_s({"energy": 100.0}, 1_000_000)
    assert growth.per_s({"energy": 5.0}, 2_000_000) == {}
    assert growth.per_s({"energy": 15.0}, 3_000_000) == {"energy": 10.0}
    assert growth.per_s({"energy": 20.0}, 1_000_000) == {}


def test_one_look_serves_each_device_once() -> None:
    asked = iter(range(10))
    look = OneLook(lambda: next(asked))
    assert [look.answer(device) for device in ("one", "two", "one", "two", "two")] == [0, 0, 1, 1, 2]
