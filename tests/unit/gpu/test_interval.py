from __future__ import annotations

import pytest

from ai_otel.gpu.interval import MAX_INTERVAL_S, SamplingInterval


def run(interval: SamplingInterval, took_s: float, count: int, now_s: float = 0.0) -> list[float]:
    """Take `count` samples, each as soon as it is due; returns their start times."""
    starts = []
    for _ in range(count):
        now_s = max(now_s, interval.due_s)
        starts.append(now_s)
        interval.record(now_s, now_s + took_s)
    return starts


def test_fast_samples_keep_the_configured_interval() -> None:
    interval = SamplingInterval(1.0)
    assert run(interval, 0.001, 4) == [0.0, 1.0, 2.0, 3.0]
    assert interval.skipped == 0


def test_slow_samples_extend_the_interval() -> None:
    interval = SamplingInterval(1.0)
    run(interval, 0.3, 10)
    assert interval.interval_s == 8.0
    assert interval.skipped > 0


def test_the_interval_is_at_most_a_minute() -> None:
    interval = SamplingInterval(1.0)
    run(interval, 20.0, 20)
    assert interval.interval_s == MAX_INTERVAL_S


def test_waiting_counts_only_if_the_sample_exceeds_its_interval() -> None:
    interval = SamplingInterval(1.0)
    for turn in range(10):
        interval.record(float(turn), turn + 0.4, waited_s=0.39)
    assert interval.interval_s == 1.0
    interval.record(10.0, 11.5, waited_s=1.5)
    assert interval.interval_s == 2.0


def test_the_interval_shrinks_again_when_samples_become_fast() -> None:
    interval = SamplingInterval(0.1)
    starts = run(interval, 0.05, 10)
    assert interval.interval_s > 0.5
    run(interval, 0.0001, 20, starts[-1])
    assert interval.interval_s == pytest.approx(0.1)


def test_skipped_samples_are_those_due_at_the_configured_interval() -> None:
    interval = SamplingInterval(1.0)
    starts = run(interval, 0.2, 6)
    configured = round(max(starts[-1], interval.due_s))
    assert interval.skipped == configured - 6


def test_late_sample_never_lowers_the_skipped_count() -> None:
    """The count is exported as a counter."""
    interval = SamplingInterval(1.0)
    interval.record(0.0, 0.01)
    interval.record(1.7, 1.71)
    interval.record(2.6, 2.61)
    assert interval.skipped == 0
