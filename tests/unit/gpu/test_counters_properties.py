"""Counters that step back, restart, dip and are read late: nothing is invented, and jitter is no reset."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from ai_otel.gpu.counters import LARGE_FALL, ZEROS, Counters
from ai_otel.gpu.nvidia.wraparound import WraparoundCounter
from ai_otel.gpu.source import Device, GpuReading

GPU = Device("GPU-1", "nvidia")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(0, 10_000)),
        st.tuples(st.just("jitter"), st.floats(LARGE_FALL, 1.0, exclude_min=True)),
        st.tuples(st.just("dip"), st.floats(0.0, 1.0)),
        st.tuples(st.just("late"), st.just(0)),
        st.tuples(st.just("reset"), st.integers(0, 50)),
    ),
    max_size=60,
)


@given(start=st.integers(0, 10**9), happening=steps)
def test_a_counter_never_decreases_and_never_gains_more_than_was_counted(
    start: int, happening: list[tuple[str, float]]
) -> None:
    """A dip is one value that is too low, as 0 with success; a late read repeats the value before the last one."""
    counters, counter, counted, lost = Counters(), start, 0, 0
    read, totals = [start], [counters.monotonic("k", start)]

    def sample(value: int) -> None:
        read.append(value)
        totals.append(counters.monotonic("k", value))

    for what, amount in happening:
        if what == "grow":
            counter += int(amount)
            counted += int(amount)
            sample(counter)
        elif what in ("jitter", "dip"):
            sample(int(counter * amount))
            sample(counter)
        elif what == "late":
            sample(read[-2] if len(read) > 1 and read[-2] <= counter else counter)
            sample(counter)
        else:
            # What an unconfirmed fall to a larger part of the counter held is not known, so it may be lost.
            lost += counter + int(amount)
            counter = int(amount)
            counted += counter
            sample(counter)
            sample(counter)
    assert all(before <= after for before, after in pairwise(totals))
    assert totals[-1] - totals[0] <= counted
    assert totals[-1] - totals[0] >= counted - lost


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20), st.integers(0, 99))
def test_a_reset_of_a_large_counter_loses_nothing_that_was_sampled(growth: list[int], since: int) -> None:
    counters, counter = Counters(), 1_000_000
    first = counters.monotonic("k", counter)
    for step in growth:
        counter += step
        before = counters.monotonic("k", counter)
    assert before == counter
    counters.monotonic("k", since)
    assert counters.monotonic("k", since + 5) == first + sum(growth) + since + 5


@pytest.mark.fault(
    "gpu",
    "an energy, link, throttle or error counter steps back by one",
    "its last value is held, and nothing is added to the total",
)
def test_a_step_back_by_one_is_no_reset() -> None:
    counters = Counters()
    assert [counters.monotonic("k", value) for value in (1_000_000.0, 999_999.999, 1_000_001.0)] == [
        1_000_000.0,
        1_000_000.0,
        1_000_001.0,
    ]
    for throttle_s, received, errors in ((50.0, 10**12, 7), (49.999, 10**12 - 1024, 6), (51.0, 10**12, 7)):
        reading = GpuReading(
            throttle_s={"power_cap": throttle_s},
            io_bytes={("nvlink", "receive"): received},
            errors={"corrected": errors},
        )
        counters.correct(GPU, reading)
    assert (reading.throttle_s, reading.errors) == ({"power_cap": 51.0}, {"corrected": 7})
    assert reading.io_bytes == {("nvlink", "receive"): 10**12}


@pytest.mark.fault(
    "gpu",
    "the driver answers one read of a counter with zero",
    "the total is held, because the next sample does not confirm a reset",
)
def test_one_zero_is_no_reset() -> None:
    counters = Counters()
    values = (500_000.0, 0.0, 500_070.0, 500_140.0)
    assert [counters.monotonic("k", value) for value in values] == [500_000.0, 500_000.0, 500_070.0, 500_140.0]


@pytest.mark.fault(
    "gpu",
    "the driver answers several reads of a counter with zero, as while a GPU wakes up",
    "the total is held; nothing is added to it, because the counter did not grow from zero",
)
@pytest.mark.parametrize("zeros", [1, 2, 5, 20])
def test_some_zeros_are_no_reset(zeros: int) -> None:
    counters = Counters()
    counters.energy_j(GPU, 500_000.0)
    assert [counters.energy_j(GPU, 0.0) for _ in range(zeros)] == [None] * zeros
    assert counters.energy_j(GPU, 500_070.0) == 500_070.0


def test_a_counter_that_stays_at_zero_was_reset() -> None:
    counters = Counters()
    assert [counters.monotonic("errors", value) for value in (7, *[0] * (ZEROS + 2), 9)][-2:] == [7, 16]


@pytest.mark.fault(
    "gpu",
    "two calls read the energy counter, and one of them answers 100 ms late",
    "each call has its own correction, and no joule is counted twice",
)
def test_two_reads_of_one_counter_do_not_add_up() -> None:
    counters, counter_j = Counters(), 500_000.0
    for _ in range(100):
        late_j, counter_j = counter_j, counter_j + 30.0
        fast_j = counters.energy_j(GPU, counter_j)
        reading = GpuReading(energy_j=late_j)
        counters.correct(GPU, reading)
    assert fast_j == counter_j
    assert reading.energy_j == late_j


def test_a_fall_that_does_not_end_near_zero_adds_later_counts_only() -> None:
    counters = Counters()
    values = (1_000_000.0, 300_000.0, 300_050.0, 300_100.0)
    assert [counters.monotonic("k", value) for value in values] == [1_000_000.0, 1_000_000.0, 1_000_050.0, 1_000_100.0]


def test_the_energy_is_unknown_while_a_reset_is_not_confirmed() -> None:
    counters = Counters()
    values = (500_000.0, 3.0, 33.0, 63.0)
    assert [counters.energy_j(GPU, value) for value in values] == [500_000.0, None, 500_033.0, 500_063.0]
    assert counters.energy_j(GPU, None) is None


@pytest.mark.fault(
    "gpu",
    "a 32-bit counter of PCI Express bytes steps back by one",
    "it is held, and 4 GiB are not added",
)
@pytest.mark.parametrize(("rate", "most"), [(None, 1e9), (0.0, None), (0.0, 64e9)])
def test_a_step_back_of_a_short_counter_is_no_wraparound(rate: float | None, most: float | None) -> None:
    counter = WraparoundCounter(1)
    totals = [
        counter.total(raw, 32, float(second), rate, most) for second, raw in enumerate((1000, 2000, 1999, 2100, 2200))
    ]
    assert totals == [None, 2000, 2000, 2100, 2200]


def test_a_reset_of_a_short_counter_is_no_wraparound() -> None:
    counter = WraparoundCounter(1)
    values = (10**9, 10**9 + 5, 7, 17)
    totals = [counter.total(raw, 32, float(second), None, 1e9) for second, raw in enumerate(values)]
    assert totals == [None, 10**9 + 5, 10**9 + 5, 10**9 + 15]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**63])
def test_an_impossible_value_does_not_spoil_a_counter(value: float) -> None:
    counters = Counters()
    assert counters.energy_j(GPU, value) is None
    assert counters.energy_j(GPU, 5.0) == 5.0
    assert counters.energy_j(GPU, value) is None
    counters.monotonic("k", value)
    assert [counters.monotonic("k", raw) for raw in (7, 8)] == [7, 8]


@given(st.integers(0, 2**20), st.lists(st.integers(0, 2**18), max_size=60))
def test_a_counter_that_wraps_gains_no_more_than_was_counted(start: int, growth: list[int]) -> None:
    counters, counted = Counters(), start
    totals = [counters.monotonic("k", start % 2**20)]
    for step in growth:
        counted += step
        totals.append(counters.monotonic("k", counted % 2**20))
    assert all(before <= after for before, after in pairwise(totals))
    assert totals[-1] - totals[0] <= counted - start
