from __future__ import annotations

import asyncio
from typing import Any

import pytest

import ai_otel
import fake_engine
from ai_otel.hooks import guard
from ai_otel.hooks.guard import Guard
from ai_otel.record import Inference, Outcome
from ai_otel.testing import Clock, captured
from records import call, deliver, inference


def fail(*_: Any) -> None:
    raise ValueError("a hook broke")


def test_without_an_engine_a_test_makes_its_own_records() -> None:
    clock = Clock()
    with captured(attach=False, engine="fake", clock=clock) as telemetry:
        record = telemetry.recorder.open("chat")
        clock.advance(0.5)
        telemetry.recorder.close(record)
        assert telemetry.tree() == "chat SERVER finished"
        (span,) = telemetry.spans
        (point,) = telemetry.points("gen_ai.server.request.duration")
    assert (span.end_time or 0) - (span.start_time or 0) == 500_000_000
    assert point.sum == 0.5
    assert (span.context.trace_id, span.context.span_id) == (1, 1)
    assert ai_otel.start.current() is None  # type: ignore[attr-defined]


def test_with_an_engine_the_process_is_instrumented() -> None:
    with fake_engine.install() as engine, captured() as telemetry:
        assert ai_otel.instrument() is telemetry.handle
        telemetry.handle.watch({"fake": fake_engine.ENGINE})
        asyncio.run(fake_engine.collect(engine.Server().generate("a b")))
        assert [span.name for span in telemetry.spans] == ["chat tiny"]


def test_an_instrumented_process_raises_with_the_next_step() -> None:
    ai_otel.instrument()
    try:
        with pytest.raises(RuntimeError, match="call ai_otel.uninstrument"), captured():
            pass
    finally:
        ai_otel.uninstrument()


def test_what_was_captured_can_be_read_after_the_block() -> None:
    with captured(attach=False) as telemetry:
        telemetry.recorder.end(telemetry.recorder.begin(Inference("fake", "chat")), Outcome.FINISHED)
    assert telemetry.tree() == "chat SERVER finished"
    assert telemetry.points("gen_ai.server.request.duration")[0].count == 1
    assert telemetry.points("no.such.metric") == []
    assert telemetry.metrics() is not None


def test_a_hook_that_fails_fails_the_test_where_it_stands() -> None:
    with pytest.raises(ValueError, match="a hook broke"), captured(attach=False):
        Guard("g")(fail)


def test_a_hook_that_fails_and_is_swallowed_fails_the_test_at_its_end() -> None:
    swallowed = pytest.raises(AssertionError, match="a hook of ai-otel failed: ValueError")
    with swallowed as failure, captured(attach=False):
        Guard("g", alone=True)(fail)
    assert isinstance(failure.value.__cause__, ValueError)


def test_a_failure_on_our_own_thread_fails_the_test_too() -> None:
    with pytest.raises(AssertionError, match="a hook broke"), captured(attach=False) as telemetry:
        deliver(telemetry, call(inference(read_engine=fail)))


def test_a_test_that_fails_by_itself_says_its_own() -> None:
    def test() -> None:
        with captured(attach=False):
            Guard("g", alone=True)(fail)
            raise KeyError("the test's own")

    with pytest.raises(KeyError, match="the test's own"):
        test()


def test_the_counts_of_failures_are_those_of_the_block() -> None:
    guard.errors["before"] += 1
    guard.disabled.add("before")
    with captured(attach=False) as telemetry:
        assert guard.errors == {}
        assert telemetry.points("ai_otel.hook.errors") == []
        guard.errors["inside"] += 1
    assert guard.errors == {"before": 1}
    assert guard.disabled == {"before"}


def test_the_tree_shows_every_trace_and_orphans_as_roots() -> None:
    with captured(attach=False, phases=False) as telemetry:
        deliver(telemetry, call(inference()), call(inference(model="other")))
        assert [line.split()[:3] for line in telemetry.tree().splitlines()] == [
            ["chat", "tiny", "SERVER"],
            ["chat", "other", "SERVER"],
        ]


def test_settings_are_passed_on() -> None:
    with captured(attach=False, queue_limit=5) as telemetry:
        assert telemetry.handle.settings.queue_limit == 5
    with pytest.raises(ai_otel.SettingsError), captured(queue_limit=0):
        pass
