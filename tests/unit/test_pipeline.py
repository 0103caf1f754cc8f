from __future__ import annotations

from ai_otel.pipeline import StopTime


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_stop_actions_share_one_timeout() -> None:
    clock = Clock()
    stop_time = StopTime(5.0, clock)
    with stop_time.spend():
        clock.now_s += 2
        assert stop_time.left_s == 3
    clock.now_s += 3600  # the process lives on
    assert stop_time.left_s == 3
    with stop_time.spend():
        clock.now_s += 10
    assert stop_time.left_s == 0


def test_time_in_which_two_stop_actions_run_counts_once() -> None:
    clock = Clock()
    stop_time = StopTime(5.0, clock)
    with stop_time.spend():
        clock.now_s += 1
        with stop_time.spend():
            clock.now_s += 1
        clock.now_s += 1
    assert stop_time.left_s == 2
