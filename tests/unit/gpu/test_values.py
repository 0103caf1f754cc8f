"""Helpers that turn a library's answers into a reading."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from ai_otel.gpu.source import GpuReading, Support
from ai_otel.gpu.values import Growth, SharedQuery, fill_reasons, ratio, set_value, valid_count, within


def test_a_value_removes_its_reason_and_a_reason_keeps_other_values() -> None:
    reading = GpuReading()
    set_value(reading, "power_w", Support.NOT_SUPPORTED)
    set_value(reading, "power_w", 300.0)
    set_value(reading, "io_bytes", 7, ("pcie", "receive"))
    set_value(reading, "io_bytes", Support.NO_PERMISSION, ("pcie", "transmit"))
    assert (reading.power_w, reading.io_bytes) == (300.0, {("pcie", "receive"): 7})
    assert reading.absent == {"io_bytes.pcie.transmit": Support.NO_PERMISSION}


def test_missing_fields_become_not_supported_and_reasons_are_kept() -> None:
    reading = GpuReading(utilization=0.0, absent={"temperature_c.gpu": Support.NO_PERMISSION})
    fill_reasons(reading)
    assert reading.absent["energy_j"] is Support.NOT_SUPPORTED
    assert reading.absent["pipe_activity"] is Support.NOT_SUPPORTED
    assert {"utilization", "temperature_c", "power_window", "process_memory_bytes"} & set(reading.absent) == set()
    assert reading.absent["temperature_c.gpu"] is Support.NO_PERMISSION


@given(st.floats())
def test_a_ratio_is_between_0_and_1_or_invalid(share: float) -> None:
    checked = ratio(share)
    assert checked is Support.INVALID or (isinstance(checked, float) and 0 <= checked <= 1)
    assert (checked is Support.INVALID) == (not math.isfinite(share) or not 0 <= share <= 1.05)


@pytest.mark.parametrize("sentinel", [2**32 - 1, 2**64 - 1, -1, math.nan])
def test_sentinels_are_invalid_counts(sentinel: float) -> None:
    assert valid_count(sentinel) is Support.INVALID
    assert valid_count(0) == 0
    assert valid_count(Support.LOST) is Support.LOST


def test_physically_impossible_values_are_invalid() -> None:
    assert within(0.0, 10_001.0, 10_000.0) is Support.INVALID
    assert within(0.0, math.nan, 10_000.0) is Support.INVALID
    assert within(0.0, 0.0, 10_000.0) == 0.0


def test_growth_has_every_rate_after_two_samples() -> None:
    growth = Growth()
    assert growth.per_s({"read": 100.0, "write": 0.0}, 1_000_000) == {}
    assert growth.per_s({"read": 300.0, "write": 5.0}, 3_000_000) == {"read": 100.0, "write": 2.5}


def test_growth_is_kept_while_the_devices_time_is_unchanged() -> None:
    growth = Growth()
    growth.per_s({"energy": 0.0}, 0)
    growth.per_s({"energy": 10.0}, 1_000_000)
    assert growth.per_s({"energy": 10.0}, 1_000_000) == {"energy": 10.0}


def test_growth_restarts_when_a_count_or_the_time_decreases() -> None:
    growth = Growth()
    growth.per_s({"energy": 100.0}, 1_000_000)
    assert growth.per_s({"energy": 5.0}, 2_000_000) == {}
    assert growth.per_s({"energy": 15.0}, 3_000_000) == {"energy": 10.0}
    assert growth.per_s({"energy": 20.0}, 1_000_000) == {}


def test_a_shared_answer_serves_each_device_once() -> None:
    asked = iter(range(10))
    query = SharedQuery(lambda: next(asked))
    assert [query.answer(device) for device in ("one", "two", "one", "two", "two")] == [0, 0, 1, 1, 2]
