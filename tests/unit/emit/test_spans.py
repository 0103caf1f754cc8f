from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from ai_otel.emit import spans as emit
from ai_otel.emit.spans import MAX_INFERENCE_SPANS, SpanEmitter, phases_of
from ai_otel.record import Inference, Outcome, Parameters, RequestRecord
from ai_otel.testing import Captured, captured
from records import (
    ASKED,
    EVERY_KIND,
    HEADERS,
    START_NS,
    TRACE,
    at,
    beam,
    call,
    cancelled,
    choice,
    deliver,
    embedding,
    exchange,
    failed,
    inference,
    powered,
    refused,
    several,
    unknown,
)


@pytest.fixture
def telemetry() -> Iterator[Captured]:
    with captured(attach=False, engine="fake") as telemetry:
        yield telemetry


def emitted(telemetry: Captured, record: RequestRecord) -> ReadableSpan:
    """The span of one call."""
    deliver(telemetry, record)
    return telemetry.spans[-1]


def attributes_of(telemetry: Captured, record: RequestRecord) -> dict[str, Any]:
    return dict(emitted(telemetry, record).attributes or {})


def phases(spans: tuple[ReadableSpan, ...]) -> dict[str, tuple[float, float]]:
    """Each phase in seconds after the start."""
    return {
        span.name: ((span.start_time or 0) / 1e9 - START_NS / 1e9, (span.end_time or 0) / 1e9 - START_NS / 1e9)
        for span in spans[:-1]
    }


# ---------------------------------------------------------------- the request span


def test_a_request_is_one_span_with_its_phases(telemetry: Captured) -> None:
    deliver(telemetry, call(inference(), exchange=exchange(), headers=HEADERS))
    shown = "http.response.status_code=200 gen_ai.response.finish_reasons=('stop',)"
    assert telemetry.tree().splitlines() == [
        f"chat tiny SERVER finished {shown} gen_ai.usage.input_tokens=7 gen_ai.usage.output_tokens=5",
        "  queue INTERNAL",
        "  prefill INTERNAL",
        "  decode INTERNAL",
    ]
    span = telemetry.spans[-1]
    assert (span.start_time, span.end_time) == (at(0), at(1))
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.parent is not None
    assert span.parent.is_remote


def test_everything_known_of_a_request_is_on_its_span(telemetry: Captured) -> None:
    inner = inference(stream=True, parameters=ASKED, priority=2, engine_index=1)
    assert attributes_of(telemetry, call(inner, exchange=exchange())) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "fake",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "tiny",
        "gen_ai.response.id": "req-1",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 16,
        "gen_ai.request.temperature": 0.7,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 40,
        "gen_ai.request.seed": 1,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.request.frequency_penalty": 0.5,
        "gen_ai.request.presence_penalty": 0.25,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 0.4,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "ai_otel.outcome": "finished",
        "ai_otel.time_to_first_token": 0.35,
        "ai_otel.request.priority": 2,
        "ai_otel.request.preemptions": 0,
        "ai_otel.engine.index": 1,
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": 8000,
    }


def test_every_parameter_has_its_attribute(telemetry: Captured) -> None:
    """One that is added to the record and forgotten here would be lost in silence."""
    values: dict[str, Any] = {item.name: 2 for item in fields(Parameters)}
    values |= {"stop_sequences": ("a",), "encoding_formats": ("float",)}
    known = attributes_of(telemetry, call(inference(parameters=Parameters(**values))))
    plain = attributes_of(telemetry, call(inference()))
    assert len(known) - len(plain) == len(values)


def test_what_is_known_of_its_gpus_is_on_its_span(telemetry: Captured) -> None:
    deliver(telemetry, call(inference(), **powered()))
    span = telemetry.spans[-1]
    assert span.attributes is not None
    found = {
        name: value for name, value in span.attributes.items() if ".gpu" in name or ".energy" in name or "cost" in name
    }
    assert found == {
        "ai_otel.gpu.ids": ("GPU-1", "GPU-2"),
        "ai_otel.gpu.selection": "process_list",
        "ai_otel.gpu.time": 0.5,
        "ai_otel.gpu.power.mean": 820.0,
        "ai_otel.gpu.batch.mean": 3.5,
        "ai_otel.energy.gpu": 183.5,
        "ai_otel.energy.idle_share": 0.25,
        "ai_otel.energy.method": "affine",
        "ai_otel.energy.uncertainty": 0.08,
        "ai_otel.cost.amount": 0.00035,
        "ai_otel.cost.currency": "USD",
    }
    (event,) = span.events
    assert (event.name, event.timestamp) == ("ai_otel.gpu.throttle", at(0.5))
    assert event.attributes == {"hw.id": "GPU-1", "ai_otel.gpu.throttle.reason": "power_cap"}


def test_of_a_gpu_without_a_counter_there_is_no_energy(telemetry: Captured) -> None:
    deliver(telemetry, call(inference(), gpu_ids=("GPU-1",)))
    attributes = telemetry.spans[-1].attributes or {}
    assert attributes["ai_otel.gpu.ids"] == ("GPU-1",)
    assert not [name for name in attributes if "energy" in name or "cost" in name]


def test_what_is_unknown_is_absent(telemetry: Captured) -> None:
    record = call(unknown(), operation=None)
    assert attributes_of(telemetry, record) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "fake",
        "ai_otel.outcome": "finished",
    }
    assert telemetry.spans[-1].name == "text_completion"
    assert len(telemetry.spans) == 1


def test_a_zero_that_was_measured_is_exported(telemetry: Captured) -> None:
    nothing = choice(output_tokens=0, cached_tokens=0, preemptions=0)
    attributes = attributes_of(telemetry, call(inference(nothing, output_tokens=0, cached_tokens=0)))
    assert attributes["gen_ai.usage.output_tokens"] == 0
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 0
    assert attributes["ai_otel.request.preemptions"] == 0


def test_preemptions_that_are_partly_unknown_are_unknown(telemetry: Captured) -> None:
    attributes = attributes_of(telemetry, call(inference(choice(preemptions=2), choice(preemptions=None))))
    assert "ai_otel.request.preemptions" not in attributes
    attributes = attributes_of(telemetry, call(inference(choice(preemptions=2), choice(preemptions=1))))
    assert attributes["ai_otel.request.preemptions"] == 3


def test_finish_reasons_are_in_the_conventions_words(telemetry: Captured) -> None:
    reasons = ("stop", "length", "tool_calls", "abort")
    attributes = attributes_of(telemetry, call(inference(finish_reasons=reasons)))
    assert attributes["gen_ai.response.finish_reasons"] == ("stop", "length", "tool_call", "error")


def test_an_embedding_has_its_dimensions_and_no_output(telemetry: Captured) -> None:
    attributes = attributes_of(telemetry, call(embedding(), operation="embeddings"))
    assert attributes["gen_ai.embeddings.dimension.count"] == 384
    assert attributes["gen_ai.request.encoding_formats"] == ("float",)
    assert "gen_ai.usage.output_tokens" not in attributes


def test_a_beam_search_has_the_clients_tokens_and_the_engines(telemetry: Captured) -> None:
    attributes = attributes_of(telemetry, call(beam()))
    assert attributes["ai_otel.beam.width"] == 2
    assert attributes["gen_ai.usage.input_tokens"] == 7
    assert attributes["ai_otel.beam.engine.input_tokens"] == 28
    assert attributes["ai_otel.beam.engine.output_tokens"] == 4


@pytest.mark.parametrize(
    ("record", "error", "status"),
    [
        (call(inference(), exchange=exchange()), None, StatusCode.UNSET),
        (call(exchange=exchange(400)), "400", StatusCode.UNSET),
        (call(refused(), exchange=exchange(429)), "queue_full", StatusCode.UNSET),
        (call(refused()), "queue_full", StatusCode.ERROR),
        (call(exchange=exchange(503)), "503", StatusCode.ERROR),
        (call(failed(), exchange=exchange(500)), "EngineDeadError", StatusCode.ERROR),
        (call(exchange=exchange(None)), "no_response", StatusCode.ERROR),
        (call(cancelled(), exchange=exchange(hung_up=True)), "cancelled", StatusCode.UNSET),
    ],
)
def test_what_the_client_did_is_no_error_of_the_server(
    telemetry: Captured, record: RequestRecord, error: str | None, status: StatusCode
) -> None:
    span = emitted(telemetry, record)
    assert (span.attributes or {}).get("error.type") == error
    assert span.status.status_code is status
    assert span.status.description == (error if status is StatusCode.ERROR else None)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_span_lies_inside_its_call(telemetry: Captured, kind: str) -> None:
    request = emitted(telemetry, EVERY_KIND[kind]())
    for span in telemetry.spans:
        assert request.start_time <= span.start_time <= span.end_time <= request.end_time  # type: ignore[operator]
        assert span is request or span.kind is SpanKind.INTERNAL


# ---------------------------------------------------------------- phases


def test_phases_are_laid_around_the_first_token(telemetry: Captured) -> None:
    """The engine's clock and this process's have no common zero; this is the one moment that both know."""
    deliver(telemetry, call(inference()))
    found = phases(telemetry.spans)
    assert found["queue"] == pytest.approx((0.05, 0.15), abs=1e-6)
    assert found["prefill"] == pytest.approx((0.15, 0.35), abs=1e-6)
    assert found["decode"] == pytest.approx((0.35, 0.75), abs=1e-6)


def test_of_several_choices_the_first_token_that_came_first_counts(telemetry: Captured) -> None:
    slow = choice(first_token_s=0.5, queue_s=0.3, decode_s=0.6)
    deliver(telemetry, call(inference(slow, choice())))
    found = phases(telemetry.spans)
    assert found["queue"] == pytest.approx((0.05, 0.15), abs=1e-6)
    assert found["decode"] == pytest.approx((0.35, 0.95), abs=1e-6)  # until the last of them has its last token
    assert (telemetry.spans[-1].attributes or {})["ai_otel.time_to_first_token"] == 0.35


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"queue_s": None}, ["prefill", "decode"]),
        ({"prefill_s": None}, ["decode"]),
        ({"decode_s": None}, ["queue", "prefill"]),
        ({"first_token_s": None}, []),
        ({"queue_s": 0.0}, ["queue", "prefill", "decode"]),
    ],
)
def test_a_phase_that_is_unknown_is_absent(changes: dict[str, Any], expected: list[str]) -> None:
    assert [name for name, _, _ in phases_of(inference(choice(**changes)))] == expected


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (inference(output_tokens=1), ["queue", "prefill"]),
        (inference(output_tokens=None), ["queue", "prefill"]),
        (inference(first_token_ns=None), []),
        (unknown(), []),
    ],
)
def test_there_is_no_decode_without_a_second_token(subject: Inference, expected: list[str]) -> None:
    assert [name for name, _, _ in phases_of(subject)] == expected


def test_phases_that_stick_out_are_cut_to_the_call(telemetry: Captured) -> None:
    long = choice(queue_s=5.0, decode_s=9.0)
    deliver(telemetry, call(inference(long)))
    found = phases(telemetry.spans)
    assert found["queue"] == pytest.approx((0, 0.15), abs=1e-6)
    assert found["decode"] == pytest.approx((0.35, 1), abs=1e-6)


def test_phases_can_be_switched_off() -> None:
    with captured(attach=False, phases=False) as telemetry:
        deliver(telemetry, call(inference()))
        assert len(telemetry.spans) == 1


# ---------------------------------------------------------------- several inferences


def test_several_inferences_are_children_with_their_own_phases(telemetry: Captured) -> None:
    deliver(telemetry, call(*several(2), exchange=exchange()))
    tokens = "gen_ai.usage.input_tokens=7 gen_ai.usage.output_tokens=5"
    child = f"  chat tiny INTERNAL finished gen_ai.response.finish_reasons=('stop',) {tokens}"
    inner = ["    queue INTERNAL", "    prefill INTERNAL", "    decode INTERNAL"]
    total = "gen_ai.usage.input_tokens=14 gen_ai.usage.output_tokens=10"
    assert telemetry.tree().splitlines() == [
        f"chat tiny SERVER finished http.response.status_code=200 {total}",
        *[child, *inner] * 2,
    ]
    attributes = telemetry.spans[-1].attributes or {}
    assert attributes["ai_otel.request.inference.count"] == 2
    assert attributes["gen_ai.request.model"] == "tiny"
    assert "gen_ai.response.id" not in attributes


def test_a_sum_with_an_unknown_part_is_unknown(telemetry: Captured) -> None:
    attributes = attributes_of(telemetry, call(inference(), inference(output_tokens=None)))
    assert attributes["gen_ai.usage.input_tokens"] == 14
    assert "gen_ai.usage.output_tokens" not in attributes


def test_a_call_streams_when_one_of_its_inferences_does(telemetry: Captured) -> None:
    attributes = attributes_of(telemetry, call(inference(), inference(stream=True)))
    assert attributes["gen_ai.request.stream"] is True


def test_an_inference_that_the_call_did_not_wait_for_ends_as_the_call_does(telemetry: Captured) -> None:
    running = unknown(outcome=None, end_ns=0)
    deliver(telemetry, call(inference(), running, exchange=exchange(hung_up=True)))
    child = next(span for span in telemetry.spans if span.name == "chat")
    assert (child.attributes or {})["ai_otel.outcome"] == "cancelled"
    assert (child.attributes or {})["error.type"] == "cancelled"
    assert child.end_time == at(1)


def test_beyond_the_cap_inferences_have_no_span_of_their_own(telemetry: Captured) -> None:
    count = MAX_INFERENCE_SPANS + 5
    deliver(telemetry, call(*(unknown() for _ in range(count))))
    assert len(telemetry.spans) == 1 + MAX_INFERENCE_SPANS
    assert (telemetry.spans[-1].attributes or {})["ai_otel.request.inference.count"] == count


# ---------------------------------------------------------------- stepping back


def http_span(provider: TracerProvider) -> Context:
    return trace.set_span_in_context(provider.get_tracer("http").start_span("POST"), Context())


def emitter(telemetry: Captured, **options: Any) -> SpanEmitter:
    assert telemetry.spans == ()
    telemetry.handle.pipeline._prepare()
    assert telemetry.handle.providers is not None
    options = {"same_provider": True, **options}
    return SpanEmitter(telemetry.handle.providers.tracer_provider.get_tracer("ai_otel"), **options)


@pytest.mark.parametrize("same", [True, False])
def test_a_refusal_in_an_http_span_has_no_second_span(telemetry: Captured, same: bool) -> None:
    inner = http_span(TracerProvider(shutdown_on_exit=False))
    record = call(exchange=exchange(400, inner_context=inner), context=Context())
    record.settle()
    context = emitter(telemetry, same_provider=same).emit(record, "fake")
    assert (context is None) is same
    assert len(telemetry.spans) == (0 if same else 1)


def test_an_inference_below_an_http_span_is_its_child(telemetry: Captured) -> None:
    inner = http_span(TracerProvider(shutdown_on_exit=False))
    record = call(inference(), exchange=exchange(inner_context=inner), context=Context())
    emitter(telemetry).emit(record, "fake")
    span = telemetry.spans[-1]
    assert span.kind is SpanKind.INTERNAL
    assert span.parent is not None
    assert span.parent.span_id == trace.get_current_span(inner).get_span_context().span_id


@pytest.mark.parametrize(
    ("record", "options", "count"),
    [
        (call(inference(traced=True)), {}, 0),
        (call(inference(traced=True), inference(traced=True)), {}, 0),
        # The client left when the engine was done and had not yet been heard.
        (call(inference(traced=True, outcome=Outcome.CANCELLED)), {}, 0),
        (call(inference(traced=True)), {"keep_engine_spans": False}, 4),
        (call(inference(traced=True), inference()), {}, 9),
        (call(inference()), {}, 4),
    ],
)
def test_a_span_of_the_engines_own_tracing_is_not_doubled(
    telemetry: Captured, record: RequestRecord, options: dict[str, Any], count: int
) -> None:
    record.settle()
    emitter(telemetry, **options).emit(record, "fake")
    assert len(telemetry.spans) == count


def test_what_the_engine_does_not_trace_is_ai_otels(telemetry: Captured) -> None:
    """vLLM makes no span for a request that it did not finish or that it refused."""
    record = call(inference(outcome=Outcome.CANCELLED))
    record.settle()
    emitter(telemetry).emit(record, "fake")
    assert len(telemetry.spans) == 4


def test_an_unsampled_request_has_no_children() -> None:
    tracer = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False).get_tracer("ai_otel")
    context = SpanEmitter(tracer, same_provider=False).emit(call(inference()), "fake")
    assert context is not None
    assert not trace.get_current_span(context).is_recording()


def test_sampling_sees_the_attributes_that_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []

    class Tracer:
        def start_span(self, name: str, *, attributes: Any = None, **_: Any) -> NonRecordingSpan:
            started.append({"name": name, **(attributes or {})})
            return NonRecordingSpan(SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(0)))

    tracer: Any = Tracer()
    SpanEmitter(tracer, same_provider=False).emit(call(inference(), exchange=exchange()), "fake")
    (span,) = started
    expected = {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "server.address",
        "server.port",
    }
    assert expected <= span.keys()


def test_operation_and_model_come_from_the_route_first() -> None:
    assert emit.operation_of(call(inference(operation="embeddings"))) == "chat"
    assert emit.operation_of(call(inference(operation="embeddings"), operation=None)) == "embeddings"
    assert emit.operation_of(call(operation=None)) == "text_completion"
    assert emit.model_of(call()) is None
