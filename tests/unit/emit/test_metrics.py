from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ai_otel import semconv
from ai_otel.record import RequestRecord
from ai_otel.testing import Captured, captured
from records import beam, call, cancelled, choice, deliver, embedding, exchange, failed, inference, refused, unknown

DURATION = "gen_ai.server.request.duration"
FIRST_TOKEN = "gen_ai.server.time_to_first_token"
PER_TOKEN = "gen_ai.server.time_per_output_token"
PHASES = [f"ai_otel.request.{phase}.duration" for phase in ("queue", "prefill", "decode", "inference")]
SIZES = ["ai_otel.request.input_tokens", "ai_otel.request.output_tokens"]
FAKE = {"gen_ai.provider.name": "fake", "gen_ai.request.model": "tiny"}
CHAT = {**FAKE, "gen_ai.operation.name": "chat"}


@pytest.fixture
def telemetry() -> Iterator[Captured]:
    with captured(attach=False, engine="fake") as telemetry:
        yield telemetry


def named(telemetry: Captured) -> dict[str, list[Any]]:
    """All points, by metric."""
    data = telemetry.metrics()
    scopes = [scope for each in data.resource_metrics for scope in each.scope_metrics] if data else []
    return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}


def values(telemetry: Captured, name: str) -> dict[frozenset[tuple[str, Any]], Any]:
    """Attributes and value of each point of a counter."""
    return {frozenset((point.attributes or {}).items()): point.value for point in telemetry.points(name)}


def series(**attributes: Any) -> frozenset[tuple[str, Any]]:
    return frozenset({**FAKE, **{name.replace("__", "."): value for name, value in attributes.items()}}.items())


# ---------------------------------------------------------------- histograms


def test_a_finished_request_has_a_point_in_every_histogram(telemetry: Captured) -> None:
    deliver(telemetry, call(inference(), exchange=exchange()))
    found = named(telemetry)
    expected = {
        DURATION: 1.0,
        FIRST_TOKEN: 0.35,
        PER_TOKEN: 0.1,  # four gaps in 0.4 s
        "ai_otel.request.queue.duration": 0.1,
        "ai_otel.request.prefill.duration": 0.2,
        "ai_otel.request.decode.duration": 0.4,
        "ai_otel.request.inference.duration": 0.6,
        "ai_otel.request.input_tokens": 7,
        "ai_otel.request.output_tokens": 5,
    }
    assert {name: found[name][0].sum for name in expected} == pytest.approx(expected)
    for name in expected:
        (point,) = found[name]
        assert point.count == 1
        queue = {"ai_otel.queue": "engine"} if "queue" in name else {}
        assert dict(point.attributes) == {**CHAT, **queue}


@pytest.mark.parametrize("name", [DURATION, FIRST_TOKEN, PER_TOKEN, *PHASES, *SIZES])
def test_buckets_are_the_contracts(telemetry: Captured, name: str) -> None:
    deliver(telemetry, call(inference()))
    (point,) = telemetry.points(name)
    (metric,) = (metric for metric in semconv.METRICS if metric.name == name)
    assert tuple(point.explicit_bounds) == metric.buckets


@pytest.mark.parametrize("name", [DURATION, FIRST_TOKEN, PER_TOKEN, *PHASES, *SIZES])
def test_every_point_has_its_trace_as_an_exemplar(telemetry: Captured, name: str) -> None:
    deliver(telemetry, call(inference()))
    (request,) = (span for span in telemetry.spans if span.parent is None)
    (point,) = telemetry.points(name)
    assert [(each.trace_id, each.span_id) for each in point.exemplars] == [
        (request.context.trace_id, request.context.span_id)
    ]


def test_what_is_unknown_has_no_point(telemetry: Captured) -> None:
    deliver(telemetry, call(unknown(), operation=None))
    assert set(named(telemetry)) == {DURATION, "ai_otel.record.open"}
    (point,) = telemetry.points(DURATION)
    assert dict(point.attributes) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "fake",
    }


@pytest.mark.parametrize(
    ("record", "error"),
    [
        (call(exchange=exchange(400)), "400"),
        (call(failed(), exchange=exchange(500)), "EngineDeadError"),
        (call(cancelled(), exchange=exchange(hung_up=True)), "cancelled"),
    ],
)
def test_the_duration_of_what_went_wrong_says_how(telemetry: Captured, record: RequestRecord, error: str) -> None:
    deliver(telemetry, record)
    (point,) = telemetry.points(DURATION)
    assert point.attributes["error.type"] == error


def test_rates_are_those_of_requests_that_went_well(telemetry: Captured) -> None:
    """A client that leaves early would make the server seem fast."""
    deliver(telemetry, call(cancelled(), exchange=exchange(hung_up=True)), call(failed(), exchange=exchange(500)))
    assert set(named(telemetry)) & {FIRST_TOKEN, PER_TOKEN, *PHASES, *SIZES} == set()


def test_a_single_token_has_no_rate(telemetry: Captured) -> None:
    deliver(telemetry, call(inference(choice(output_tokens=1, decode_s=0.0), output_tokens=1)))
    assert telemetry.points(PER_TOKEN) == []
    assert len(telemetry.points(FIRST_TOKEN)) == 1


def test_choices_are_measured_one_by_one_and_the_request_once(telemetry: Captured) -> None:
    second = choice(first_token_s=0.3, output_tokens=9)
    deliver(telemetry, call(inference(choice(), second), exchange=exchange()))
    found = named(telemetry)
    assert [found[name][0].count for name in (DURATION, FIRST_TOKEN, *SIZES)] == [1, 1, 2, 2]
    assert found[FIRST_TOKEN][0].sum == 0.3  # the first of all choices
    assert found["ai_otel.request.output_tokens"][0].sum == 14


def test_a_choice_that_did_not_end_by_itself_is_not_measured(telemetry: Captured) -> None:
    deliver(telemetry, call(inference(choice(), choice(completed=False)), exchange=exchange()))
    assert telemetry.points("ai_otel.request.output_tokens")[0].count == 1


def test_beam_search_has_no_token_rates(telemetry: Captured) -> None:
    """Its engine requests are steps of one token; a first token of theirs is no first token of the client's."""
    deliver(telemetry, call(beam(), exchange=exchange()))
    assert set(named(telemetry)) & {FIRST_TOKEN, PER_TOKEN} == set()


def test_an_inference_of_another_model_has_its_own_series(telemetry: Captured) -> None:
    deliver(telemetry, call(inference(), inference(model="other")))
    assert {point.attributes["gen_ai.request.model"] for point in telemetry.points(FIRST_TOKEN)} == {"tiny", "other"}
    assert [point.attributes["gen_ai.request.model"] for point in telemetry.points(DURATION)] == ["tiny"]


# ---------------------------------------------------------------- counters


def test_tokens_and_ends_are_counted_from_the_record(telemetry: Captured) -> None:
    deliver(telemetry, call(inference()), call(inference(choice(finish_reason="length", preemptions=2))))
    assert values(telemetry, "ai_otel.usage.input_tokens") == {series(): 14}
    assert values(telemetry, "ai_otel.usage.output_tokens") == {series(): 10}
    assert values(telemetry, "ai_otel.usage.cache_read.input_tokens") == {series(ai_otel__cache__tier="device"): 8}
    assert values(telemetry, "ai_otel.request.preempted") == {series(): 2}
    assert values(telemetry, "ai_otel.request.finished") == {
        series(ai_otel__finish_reason="stop"): 1,
        series(ai_otel__finish_reason="length"): 1,
    }


def test_the_tokens_of_cancelled_requests_are_counted_too(telemetry: Captured) -> None:
    """A client that hangs up is still charged for what was generated."""
    deliver(telemetry, call(cancelled(), exchange=exchange(hung_up=True)))
    assert values(telemetry, "ai_otel.usage.output_tokens") == {series(): 2}
    assert values(telemetry, "ai_otel.request.finished") == {}


def test_what_the_engine_counts_itself_is_not_counted_twice(telemetry: Captured) -> None:
    deliver(telemetry, call(inference(counted_by_engine=True)))
    for name in ("ai_otel.usage.input_tokens", "ai_otel.usage.output_tokens", "ai_otel.request.finished"):
        assert values(telemetry, name) == {}
    assert telemetry.points(DURATION)[0].count == 1


@pytest.mark.parametrize(
    ("record", "labels"),
    [
        (call(exchange=exchange(400)), {"gen_ai.provider.name": "fake", "error.type": "400"}),
        (call(refused(), exchange=exchange(429)), {**FAKE, "error.type": "queue_full"}),
        (call(refused(error="")), {**FAKE, "error.type": "_OTHER"}),
    ],
)
def test_refusals_are_counted_by_their_reason(
    telemetry: Captured, record: RequestRecord, labels: dict[str, str]
) -> None:
    deliver(telemetry, record)
    assert values(telemetry, "ai_otel.request.rejected") == {frozenset(labels.items()): 1}
    assert values(telemetry, "ai_otel.request.finished") == {}


def test_a_reason_that_is_unknown_is_no_label(telemetry: Captured) -> None:
    deliver(telemetry, call(embedding(), operation="embeddings"))
    assert values(telemetry, "ai_otel.request.finished") == {series(): 1}


@pytest.mark.parametrize("name", ["input_tokens", "output_tokens", "cache_read.input_tokens"])
def test_an_unknown_count_is_absent_and_zero_is_not(telemetry: Captured, name: str) -> None:
    deliver(telemetry, call(inference(choice(counted_input_tokens=None, output_tokens=None, cached_tokens=None))))
    assert telemetry.points(f"ai_otel.usage.{name}") == []
    deliver(telemetry, call(inference(choice(counted_input_tokens=0, output_tokens=0, cached_tokens=0))))
    assert [point.value for point in telemetry.points(f"ai_otel.usage.{name}")] == [0]


def test_a_state_that_an_engine_reports_is_observed(telemetry: Captured) -> None:
    counter = telemetry.recorder.counter((("gen_ai.provider.name", "fake"), ("gen_ai.request.model", "tiny")))
    counter.set("ai_otel.request.running", 3)
    counter.set("ai_otel.kv_cache.utilization", 0.5, (("ai_otel.cache.tier", "device"),))
    assert values(telemetry, "ai_otel.request.running") == {series(): 3}
    assert values(telemetry, "ai_otel.kv_cache.utilization") == {series(ai_otel__cache__tier="device"): 0.5}


# ---------------------------------------------------------------- one or none


@pytest.mark.parametrize(("traces", "metrics"), [(False, True), (True, False)])
def test_either_signal_can_be_switched_off(traces: bool, metrics: bool) -> None:
    with captured(attach=False, traces=traces, metrics=metrics) as telemetry:
        deliver(telemetry, call(inference()))
        assert bool(telemetry.spans) is traces
        assert bool(telemetry.points(DURATION)) is metrics
