from __future__ import annotations

import threading

import pytest

from ai_otel.export import pauses
from ai_otel.export.pauses import HOLD_S, PAUSE_S, Paused, PausedLookup, pause, pausing


class Clock:
    """A clock that is advanced, and what was slept."""

    def __init__(self) -> None:
        self.now_s, self.slept = 0.0, list[float]()
        self.taken_s = 0.0
        """For so long another thread keeps the lock."""

    def perf_counter(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds + self.taken_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pauses, "time", clock)
    return clock


def test_a_pause_comes_after_the_time_for_which_the_lock_may_be_held(clock: Clock) -> None:
    with pausing():
        pause()
        clock.now_s += HOLD_S / 2
        pause()
        assert clock.slept == []
        clock.now_s += HOLD_S
        pause()
        pause()
        assert clock.slept == [PAUSE_S]
        clock.now_s += 2 * HOLD_S
        pause()
        assert clock.slept == [PAUSE_S, PAUSE_S]


def test_pauses_of_one_collection_are_limited(clock: Clock) -> None:
    for _ in range(2):
        clock.slept.clear()
        with pausing():
            for _ in range(3):
                clock.now_s += 1
                clock.taken_s = 0.4
                pause()
            assert clock.slept == [PAUSE_S, PAUSE_S, PAUSE_S]
            clock.now_s += 1
            pause()
            assert clock.slept[3:] == [0]


def test_no_other_thread_and_nothing_before_or_after_pauses(clock: Clock) -> None:
    """A collection that the application asks for takes no longer than it has to."""
    pause()
    with pausing():
        clock.now_s += 1
        other = threading.Thread(target=pause)
        other.start()
        other.join()
    pause()
    assert clock.slept == []


def test_a_paused_dictionary_is_the_same_dictionary(clock: Clock) -> None:
    with pausing():
        clock.now_s += 1
        assert PausedLookup({"a": 1})["a"] == 1
        assert clock.slept == [PAUSE_S]
        assert PausedLookup({"a": 1}) == {"a": 1}


def test_a_paused_list_is_the_same_list(clock: Clock) -> None:
    with pausing():
        seen = []
        for item in Paused([1, 2, 3]):
            seen.append(item)
            clock.now_s += 2 * HOLD_S
    assert seen == [1, 2, 3]
    assert len(clock.slept) == 3
    assert Paused([1, 2]) == [1, 2]
    assert len(Paused([1, 2])) == 2
