from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ai_otel.engines.vllm.reading import finished_by_engine


def output(reason: str | None) -> Any:
    answer = SimpleNamespace(index=0, finish_reason=reason)
    return SimpleNamespace(finished=reason is not None, outputs=[answer])


@pytest.mark.parametrize(
    ("taken", "waiting", "finished"),
    [
        ("length", None, True),
        (None, "stop", True),
        (None, None, False),
        (None, "abort", False),
        ("abort", None, False),
    ],
    ids=["taken", "the client left before it was taken", "cut off", "aborted, not taken", "aborted"],
)
def test_the_engine_finished_what_it_ended_by_itself(taken: str, waiting: str | None, finished: bool) -> None:
    """vLLM has traced the requests that it finished: another span would be the second."""
    state: Any = SimpleNamespace(queue=SimpleNamespace(output=output(waiting) if waiting else None))
    assert finished_by_engine(output(taken), [state]) is finished


def test_a_state_without_a_queue_has_nothing_waiting() -> None:
    state: Any = SimpleNamespace(queue=None)
    assert not finished_by_engine(None, [state])
