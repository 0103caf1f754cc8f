"""One device's energy over time, and the power that it draws at rest."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st

from ai_otel.energy.counter_series import EnergyCounterSeries, IdleFloor


def ring_of(*readings: tuple[float, float]) -> EnergyCounterSeries:
    ring = EnergyCounterSeries()
    for time_s, counter_j in readings:
        ring.add(time_s, counter_j)
    return ring


def test_between_two_changes_the_energy_is_laid_out_evenly() -> None:
    ring = ring_of((0.0, 1000.0), (0.1, 1020.0), (0.2, 1050.0), (0.3, 1060.0))
    assert ring.between(0.05, 0.15) == pytest.approx(30.0)
    assert ring.between(0.05, 0.10) == pytest.approx(15.0)
    assert ring.between(0.10, 0.20) == pytest.approx(15.0 + 5.0)


def test_a_change_is_placed_in_the_middle_of_its_samples() -> None:
    ring = ring_of((0.0, 0.0), (0.1, 10.0))
    assert ring.last_s == pytest.approx(0.05)


def test_a_change_after_a_long_silence_is_placed_within_one_quantum() -> None:
    """No sample for a second: the write that we see came at most one quantum before."""
    ring = ring_of(*((number / 10, float(number)) for number in range(20)), (2.9, 40.0))
    assert ring.quantum_s == pytest.approx(0.1)
    assert ring.last_s == pytest.approx(2.85)


def test_a_sample_that_sees_nothing_new_is_no_change() -> None:
    ring = EnergyCounterSeries()
    assert [ring.add(time_s, counter_j) for time_s, counter_j in ((0.0, 5.0), (0.1, 5.0), (0.2, 9.0))] == [
        True,
        False,
        True,
    ]
    assert ring.last_s == pytest.approx(0.15)


def test_what_is_outside_is_unknown() -> None:
    ring = ring_of((1.0, 0.0), (1.1, 10.0))
    assert ring.between(0.9, 1.02) is None
    assert ring.between(1.0, 1.2) is None
    assert EnergyCounterSeries().between(0.0, 1.0) is None


def test_a_lower_value_is_no_change() -> None:
    """`Counters` corrects resets; what is left is jitter."""
    ring = ring_of((0.0, 1000.0), (0.1, 1020.0), (0.2, 1019.9), (0.3, 1050.0))
    assert ring.until(ring.last_s or 0.0) == pytest.approx(50)
    assert ring.between(0.06, 0.24) is not None


def test_a_device_that_was_lost_leaves_a_gap() -> None:
    ring = ring_of((0.0, 0.0), (0.1, 10.0))
    ring.lose(0.2)
    ring.add(0.3, 30.0)
    ring.add(0.4, 40.0)
    assert ring.between(0.06, 0.1) is None
    assert ring.between(0.26, 0.34) is not None
    assert ring.until(0.35) == pytest.approx(40.0)


def test_a_counter_that_stands_still_for_long_leaves_a_gap() -> None:
    """It may have been stale: when its energy was used is unknown."""
    ring = ring_of(*((number / 10, float(number)) for number in range(10)))
    for number in range(10, 100):
        ring.add(number / 10, 9.0)
    ring.add(10.0, 500.0)
    assert ring.between(1.0, 9.0) is None


def test_the_quantum_is_learned_from_how_long_changes_take() -> None:
    ring = EnergyCounterSeries()
    assert ring.quantum_s is None
    for number in range(100):
        ring.add(number * 0.05, float(number // 4))
    assert ring.quantum_s == pytest.approx(0.2)


def test_what_is_older_than_ten_minutes_is_forgotten() -> None:
    ring = EnergyCounterSeries()
    for number in range(30_000):
        ring.add(number / 10, number * 20.0)
    assert ring.between(0.0, 1.0) is None
    assert ring.between(2400.0, 2410.0) == pytest.approx(2000.0)
    assert ring.first_s is not None
    assert 2999.9 - 1250 < ring.first_s <= 2399.9


def test_time_only_grows() -> None:
    ring = ring_of((0.0, 0.0), (0.1, 10.0))
    assert not ring.add(0.1, 20.0)
    assert not ring.add(0.05, 20.0)
    assert ring.until(0.05) == pytest.approx(10.0)


@given(
    steps=st.lists(st.tuples(st.floats(0.001, 2.0), st.floats(0.1, 1e4)), min_size=2, max_size=40),
    cuts=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5),
)
def test_pieces_of_time_add_up(steps: list[tuple[float, float]], cuts: list[float]) -> None:
    ring = EnergyCounterSeries()
    time_s = counter_j = 0.0
    for step_s, more_j in steps:
        ring.add(time_s, counter_j)
        time_s, counter_j = time_s + step_s, counter_j + more_j
    first_s, last_s = ring.first_s, ring.last_s
    assert first_s is not None
    assert last_s is not None
    edges = [first_s, *sorted(first_s + cut * (last_s - first_s) for cut in cuts), last_s]
    whole_j = ring.between(first_s, last_s)
    pieces = [ring.between(start_s, end_s) for start_s, end_s in itertools.pairwise(edges)]
    assert whole_j is not None
    assert all(piece is not None and piece >= -1e-9 for piece in pieces)
    assert sum(piece for piece in pieces if piece is not None) == pytest.approx(whole_j, rel=1e-9, abs=1e-9)


# ---------------------------------------------------------------- the idle floor


def test_the_floor_is_low_but_not_the_lowest() -> None:
    floor = IdleFloor()
    assert floor.power_w is None
    for power_w in [*range(100, 200), 3]:
        floor.add(float(power_w))
    assert floor.power_w is not None
    assert 105 <= floor.power_w <= 112


def test_the_floor_follows_and_remembers_only_the_last_minutes() -> None:
    floor = IdleFloor()
    for _ in range(IdleFloor.KEPT):
        floor.add(70.0)
    for _ in range(IdleFloor.KEPT - 100):
        floor.add(120.0)
    assert floor.power_w in {70.0, 120.0}
    for _ in range(100):
        floor.add(120.0)
    assert floor.power_w == 120.0
    assert len(floor._sorted) == len(floor._recent) == IdleFloor.KEPT


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=200))
def test_the_floor_is_one_of_the_powers_that_were_seen(powers: list[float]) -> None:
    floor = IdleFloor()
    for power_w in powers:
        floor.add(power_w)
    assert floor.power_w == sorted(powers)[int(0.1 * (len(powers) - 1))]
