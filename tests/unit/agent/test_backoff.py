from __future__ import annotations

import pytest

from ai_otel.agent.backoff import JITTER, Backoff


def test_the_wait_doubles_up_to_its_limit_and_never_ends() -> None:
    backoff = Backoff(15.0, lambda: 0.0)
    assert backoff.due(0.0)
    waits = []
    for _ in range(30):
        backoff.failed(0.0, 300.0)
        waits.append(backoff.wait_s)
    assert waits == [30.0, 60.0, 120.0, 240.0, *[300.0] * 26]
    assert not backoff.due(299.0)
    assert backoff.due(300.0)
    assert backoff.failures == 30


def test_an_answer_ends_the_backoff() -> None:
    backoff = Backoff(15.0, lambda: 0.0)
    backoff.failed(0.0, 300.0)
    backoff.answered()
    assert backoff.due(0.0)
    assert (backoff.wait_s, backoff.failures) == (15.0, 1)


@pytest.mark.parametrize(("random", "wait_s"), [(0.0, 30.0), (1.0, 30.0 * (1 - JITTER))])
def test_a_part_of_the_wait_is_random(random: float, wait_s: float) -> None:
    backoff = Backoff(15.0, lambda: random)
    backoff.failed(0.0, 300.0)
    assert backoff.wait_s == wait_s
