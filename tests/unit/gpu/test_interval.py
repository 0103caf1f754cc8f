from __future__ import annotations

import pytest

from ai_otel.gpu.interval import LONGEST_S, Pace


def looks(pace: Pace, took_s: float, count: int, now_s: float = 0.0) -> list[float]:
    """When `count` looks began, each as soon as it was due."""
    begun = []
    for _ in range(count):
        now_s = max(now_s, pace.due_s)
        begun.append(now_s)
        pace.took(now_s, now_s + took_s)
    return begun


def test_a_quick_look_is_taken_as_often_as_wanted() -> None:
    pace = Pace(1.0)
    assert looks(pace, 0.001, 4) == [0.0, 1.0, 2.0, 3.0]
    assert pace.skipped == 0


def test_a_look_never_takes_more_than_its_share_for_long() -> None:
    pace = Pace(1.0)
    looks(pace, 0.3, 10)
    assert pace.interval_s == 8.0
    assert pace.skipped > 0


def test_a_look_that_hangs_is_taken_once_a_minute() -> None:
    pace = Pace(1.0)
    looks(pace, 20.0, 20)
    assert pace.interval_s == LONGEST_S


def test_what_the_server_kept_a_look_waiting_does_not_count_unless_the_look_did_not_fit() -> None:
    pace = Pace(1.0)
    for turn in range(10):
        pace.took(float(turn), turn + 0.4, waited_s=0.39)
    assert pace.interval_s == 1.0
    pace.took(10.0, 11.5, waited_s=1.5)
    assert pace.interval_s == 2.0


def test_what_has_become_quick_again_is_taken_as_often_as_before() -> None:
    pace = Pace(0.1)
    begun = looks(pace, 0.05, 10)
    assert pace.interval_s > 0.5
    looks(pace, 0.0001, 20, begun[-1])
    assert pace.interval_s == pytest.approx(0.1)


def test_skipped_looks_are_those_that_were_wanted_meanwhile() -> None:
    pace = Pace(1.0)
    begun = looks(pace, 0.2, 6)
    wanted = round(max(begun[-1], pace.due_s)) - 0
    assert pace.skipped == wanted - 6
