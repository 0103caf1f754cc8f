from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from starlette.applications import Starlette

import ai_otel
import fake_engine
from ai_otel import start
from ai_otel.hooks import guard
from ai_otel.providers import Providers
from ai_otel.record import Inference, Outcome
from ai_otel.settings import Environment, Settings
from ai_otel.start import Handle
from ai_otel.testing import captured
from records import call, deliver, inference, unknown

FAKE = {"fake": fake_engine.ENGINE}


@pytest.fixture(autouse=True)
def off_again() -> Iterator[None]:
    yield
    start.uninstrument()


@pytest.fixture
def engine() -> Iterator[Any]:
    with fake_engine.install() as module:
        yield module


def ask(engine: Any, prompt: str = "a b c", **arguments: Any) -> list[str]:
    return asyncio.run(fake_engine.collect(engine.Server().generate(prompt, **arguments)))


# ---------------------------------------------------------------- from a call to a span


def test_a_request_of_an_observed_engine_becomes_telemetry(engine: Any) -> None:
    headers = {"traceparent": f"00-{7:032x}-{9:016x}-01"}
    with captured() as telemetry:
        telemetry.handle.watch(FAKE)
        assert ask(engine, request_id="req-1", trace_headers=headers) == ["a", "b", "c"]
        tokens = "gen_ai.usage.input_tokens=3 gen_ai.usage.output_tokens=3"
        assert telemetry.tree() == f"chat tiny SERVER finished gen_ai.response.finish_reasons=('stop',) {tokens}"
        (span,) = telemetry.spans
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == (7, 9)
        (point,) = telemetry.points("ai_otel.usage.output_tokens")
        assert point.value == 3
    original = vars(engine.Server)["generate"]
    assert not hasattr(original, "__wrapped__")


def test_after_uninstrument_the_engine_is_itself_again(engine: Any) -> None:
    original = vars(engine.Server)["generate"]
    with captured() as telemetry:
        telemetry.handle.watch(FAKE)
        assert vars(engine.Server)["generate"] is not original
    assert vars(engine.Server)["generate"] is original


def test_watching_twice_hears_once(engine: Any) -> None:
    with captured() as telemetry:
        telemetry.handle.watch(FAKE)
        telemetry.handle.watch(FAKE)
        ask(engine)
        assert len(telemetry.spans) == 1


def test_watching_twice_puts_one_edge_around_applications() -> None:
    original = vars(Starlette)["__call__"]
    with captured() as telemetry:
        telemetry.handle.watch({})
        assert vars(Starlette)["__call__"].__wrapped__ is original
    assert vars(Starlette)["__call__"] is original


def test_only_the_engines_that_were_asked_for_are_observed(engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    with captured(engines=("other", "vllm")) as telemetry:
        caplog.clear()
        telemetry.handle.watch(FAKE)
        ask(engine)
        assert telemetry.spans == ()
    assert caplog.messages == [
        "ai-otel: AI_OTEL_ENGINES names other; known are fake, and the provider custom",
        "ai-otel: AI_OTEL_ENGINES names vllm; known are fake, and the provider custom",
    ]


def test_an_engine_out_of_range_is_left_alone_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with fake_engine.install("2.0") as engine, captured() as telemetry:
        telemetry.handle.watch(FAKE)
        telemetry.handle.watch(FAKE)
        ask(engine)
        assert telemetry.spans == ()
    assert caplog.messages == [
        "ai-otel: fake 2.0 is not observed: the hooks cover >=1,<2. Use such a version, or upgrade ai-otel."
    ]


def test_an_adapter_that_cannot_be_loaded_does_not_break_the_engines_import(engine: Any) -> None:
    before = guard.errors["attach broken"]
    handle = start.instrument()
    handle.watch({"broken": fake_engine.EngineEntry("no_such_module:Adapter", (fake_engine.MODULE,))})
    assert guard.errors["attach broken"] == before + 1
    assert ask(engine) == ["a", "b", "c"]


# ---------------------------------------------------------------- one for the process


def test_a_second_call_returns_the_first_calls_handle() -> None:
    first = ai_otel.instrument()
    assert ai_otel.instrument(queue_limit=3) is first
    assert start.current() is first
    ai_otel.uninstrument()
    ai_otel.uninstrument()
    assert start.current() is None
    assert ai_otel.instrument() is not first


def test_a_setting_that_makes_no_sense_raises_and_leaves_nothing_behind() -> None:
    with pytest.raises(ai_otel.SettingsError):
        ai_otel.instrument(queue_limit=0)
    assert start.current() is None


def test_the_package_offers_what_it_says_and_no_more() -> None:
    assert {name: getattr(ai_otel, name) for name in ai_otel.__all__}.keys() == set(ai_otel.__all__)
    assert sorted(ai_otel.__all__) == ai_otel.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ai_otel.nothing


# ---------------------------------------------------------------- what goes wrong inside


def test_a_response_that_cannot_be_read_is_emitted() -> None:
    """What only the engine's objects know stays unknown; the request still has its span and its duration."""
    renamed = AttributeError("the engine renamed a field")

    def unreadable(_: Inference) -> None:
        raise renamed

    with captured(attach=False) as telemetry:
        deliver(telemetry, call(unknown(model="tiny", read_engine=unreadable)))
        telemetry.recorder.flush()
        assert telemetry._failures == [renamed]
        telemetry._failures.clear()
        assert telemetry.tree() == "chat tiny SERVER finished"
        assert telemetry.points("gen_ai.server.request.duration")[0].count == 1


def test_a_record_of_no_engine_makes_nothing() -> None:
    with captured(attach=False) as telemetry:
        deliver(telemetry, call(operation="chat"))
        assert telemetry.spans == ()
        assert telemetry.points("gen_ai.server.request.duration") == []


def test_a_provider_that_fails_does_not_affect_others(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def get_tracer(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("no tracer today")

    tracers: Any = Broken()
    meters = MeterProvider(shutdown_on_exit=False)
    handle = Handle(Settings(flush_interval=0.001), Environment.read({}), tracers, meters)
    handle.recorder.end(handle.recorder.begin(inference(outcome=None)), Outcome.FINISHED)
    assert handle.recorder.flush()
    handle.stop()
    assert "hook start failed" in caplog.messages[0]


def test_stopping_hands_over_what_is_left() -> None:
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    handle = Handle(Settings(flush_interval=60), Environment.read({}), TracerProvider(shutdown_on_exit=False), meters)
    handle.recorder.end(handle.recorder.begin(Inference("fake", "chat")), Outcome.FINISHED)
    handle.stop()
    data = reader.get_metrics_data()
    assert data is not None
    names = {metric.name for scope in data.resource_metrics[0].scope_metrics for metric in scope.metrics}
    assert "gen_ai.server.request.duration" in names
    handle.stop()


@pytest.mark.fault(
    "export",
    "a span processor of the application raises for every request, ten times in a row or more",
    "the requests' metrics are recorded; once the processor works again, spans are, too",
)
def test_a_span_processor_that_raises_for_a_while_switches_nothing_off() -> None:
    class Failing(SpanProcessor):
        working = False
        ended = 0

        def on_end(self, span: ReadableSpan) -> None:
            if not self.working:
                raise OSError("no space left on device")
            self.ended += 1

    failing, reader = Failing(), InMemoryMetricReader()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(failing)
    handle = Handle(Settings(flush_interval=0.001), Environment.read({}), tracers, MeterProvider([reader]))
    for number in range(24):
        failing.working = number >= 20
        handle.recorder.end(handle.recorder.begin(Inference("fake", "chat")), Outcome.FINISHED)
        assert handle.recorder.flush()
    data = reader.get_metrics_data()
    handle.stop()
    assert failing.ended == 4
    assert data is not None
    (duration,) = (
        metric
        for scope in data.resource_metrics[0].scope_metrics
        for metric in scope.metrics
        if metric.name == "gen_ai.server.request.duration"
    )
    points: Any = duration.data.data_points
    assert [point.count for point in points] == [24]


@pytest.mark.fault(
    "export",
    "one provider raises when it is flushed or shut down",
    "the other one is flushed and shut down all the same",
)
def test_a_provider_that_raises_does_not_cost_the_other_ones_values() -> None:
    class Raising:
        def shutdown(self) -> None:
            raise RuntimeError("no")

        def force_flush(self, timeout_millis: int = 0) -> bool:
            raise RuntimeError("no")

    class Counting(Raising):
        calls = 0

        def force_flush(self, timeout_millis: int = 0) -> bool:
            self.calls += 1
            return True

    tracers: Any = Raising()
    meters: Any = Counting()
    Providers(tracers, meters, "passed", own_traces=True).shutdown()
    assert meters.calls == 1
    handle = Handle(Settings(), Environment.read({}))
    handle.pipeline._providers = Providers(tracers, meters, "passed")
    assert handle.flush() is False
    assert meters.calls == 2
    handle.stop()


def test_flush_reaches_the_exporters() -> None:
    with captured(attach=False) as telemetry:
        deliver(telemetry, call(inference()))
        assert telemetry.handle.flush() is True
        assert len(telemetry.spans) == 4


def test_a_warning_is_one_line_and_names_ai_otel(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "ai_otel"):
        Settings.from_environment({"AI_OTEL_X": "1"})
    assert all(message.startswith("ai-otel: ") and "\n" not in message for message in caplog.messages)
