from __future__ import annotations

import itertools

import pytest

from ai_otel.engine_counters import EngineCounter, EngineCounters
from ai_otel.record import Choice, Exchange, Inference, Outcome, RequestRecord, clock
from ai_otel.testing import Clock

FINISHED, FAILED, CANCELLED, REJECTED, ABANDONED = Outcome

# The outcome of the exchange, in words.
EXCHANGES = {
    "no edge": None,
    "ok": Exchange("POST", status=200, last_byte_ns=1),
    "ok, then raised": Exchange("POST", status=200, last_byte_ns=1, error_type="KeyError"),
    "cut off": Exchange("POST", status=200, error_type="KeyError"),
    "no answer": Exchange("POST"),
    "raised": Exchange("POST", error_type="KeyError"),
    "no last byte": Exchange("POST", status=200, first_byte_ns=1),
    "hung up": Exchange("POST", status=200, hung_up=True),
    "hung up, raised": Exchange("POST", hung_up=True, error_type="KeyError"),
    "400": Exchange("POST", status=400, last_byte_ns=1),
    "404, raised": Exchange("POST", status=404, last_byte_ns=1, error_type="HTTPException"),
    "500": Exchange("POST", status=500, last_byte_ns=1),
    "500, raised": Exchange("POST", status=500, last_byte_ns=1, error_type="KeyError"),
    "503": Exchange("POST", status=503, last_byte_ns=1),
}

# What the engine did: the outcomes of the inferences.
INNER = {"nothing": (), "running": (None,), **{outcome.value: (outcome,) for outcome in Outcome}}

# exchange → for each of INNER: outcome and error type. "engine's" is what the inference says.
AS_THE_ENGINE_SAYS = {outcome.value: (outcome, "engine's") for outcome in Outcome}
LEFT = (CANCELLED, "cancelled")
TABLE = {
    "no edge": {"nothing": (FINISHED, None), "running": (FINISHED, None), **AS_THE_ENGINE_SAYS},
    "ok": {"nothing": (FINISHED, None), "running": (FINISHED, None), **AS_THE_ENGINE_SAYS},
    # A background task that fails after the last byte is none of the client's business.
    "ok, then raised": {"nothing": (FINISHED, None), "running": (FINISHED, None), **AS_THE_ENGINE_SAYS},
    "cut off": {
        **dict.fromkeys(INNER, (FAILED, "KeyError")),
        "failed": (FAILED, "engine's"),
        "rejected": (REJECTED, "engine's"),
    },
    "no answer": {**AS_THE_ENGINE_SAYS, **dict.fromkeys(("nothing", "running", "finished"), (FAILED, "no_response"))},
    "no last byte": {
        **AS_THE_ENGINE_SAYS,
        **dict.fromkeys(("nothing", "running", "finished"), (FAILED, "no_response")),
    },
    "raised": {
        **dict.fromkeys(INNER, (FAILED, "KeyError")),
        "failed": (FAILED, "engine's"),
        "rejected": (REJECTED, "engine's"),
    },
    "hung up": dict.fromkeys(INNER, LEFT),
    "hung up, raised": dict.fromkeys(INNER, LEFT),
    "400": {**dict.fromkeys(INNER, (REJECTED, "400")), "failed": (FAILED, "engine's")},
    "404, raised": {**dict.fromkeys(INNER, (REJECTED, "HTTPException")), "failed": (FAILED, "engine's")},
    "500": {**dict.fromkeys(INNER, (FAILED, "500")), "rejected": (REJECTED, "engine's")},
    "500, raised": {**dict.fromkeys(INNER, (FAILED, "KeyError")), "rejected": (REJECTED, "engine's")},
    # Overloaded or not ready yet: the API layer refused, nothing broke.
    "503": {**dict.fromkeys(INNER, (FAILED, "503")), "nothing": (REJECTED, "503"), "rejected": (REJECTED, "engine's")},
}
ENGINES_OWN = ("failed", "rejected", "cancelled", "abandoned")


def settled(exchange: Exchange | None, *outcomes: Outcome | None) -> tuple[Outcome | None, str | None]:
    record = RequestRecord(exchange=exchange)
    for outcome in outcomes:
        error = "engine's" if outcome is not None and outcome is not FINISHED else None
        record.inferences.append(Inference("fake", outcome=outcome, error_type=error))
    record.settle()
    return record.outcome, record.error_type


@pytest.mark.parametrize(("exchange", "inner"), list(itertools.product(EXCHANGES, INNER)))
def test_every_combination_has_one_outcome(exchange: str, inner: str) -> None:
    outcome, error = TABLE[exchange][inner]
    refused = exchange[:3].isdigit()
    if error == "engine's" and outcome is FINISHED:
        error = None  # nothing went wrong
    elif refused and inner in ENGINES_OWN:
        error = "engine's"  # where both know a reason, the engine's is the first cause
    assert settled(EXCHANGES[exchange], *INNER[inner]) == (outcome, error)


def test_a_call_is_as_bad_as_its_worst_inference() -> None:
    worst_first = [FAILED, REJECTED, CANCELLED, ABANDONED, FINISHED]
    for worse, better in itertools.combinations(worst_first, 2):
        assert settled(None, better, worse)[0] is worse
        assert settled(None, worse, better, None)[0] is worse


def test_what_an_adapter_decided_stands_where_no_view_says_more() -> None:
    record = RequestRecord(outcome=REJECTED, error_type="queue_full")
    record.settle()
    assert (record.outcome, record.error_type) == (REJECTED, "queue_full")


def test_a_clock_step_cannot_make_a_duration_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Clock(now_ns=5_000_000_000)
    monkeypatch.setattr("ai_otel.record.time", times)
    record = RequestRecord.opened(None, None, None, 0)
    times.advance(0.25)
    monkeypatch.setattr(times, "time_ns", lambda: 1)  # the wall clock was set back
    record.end_ns = clock(record)
    assert record.start_ns == 5_000_000_000
    assert record.duration_s == 0.25


def test_the_time_in_the_engine_is_known_only_when_both_parts_are() -> None:
    assert Choice(prefill_s=0.5, decode_s=0.25).inference_s == 0.75
    assert Choice(prefill_s=0.5).inference_s is None
    assert Choice(decode_s=0.5).inference_s is None


# ---------------------------------------------------------------- counters


def test_a_counter_adds_sums_and_replaces_states() -> None:
    counter = EngineCounter(())
    counter.add("tokens", 3)
    counter.add("tokens", 4)
    counter.set("running", 3)
    counter.set("running", 1)
    counter.add("tokens", -5)
    counter.add("less", -1)
    values = {key: cell.value for key, cell in counter.cells.items()}
    assert values == {("tokens", ()): 7, ("running", ()): 1, ("less", ()): None}
    assert counter.cell("tokens") is counter.cell("tokens")


def test_zero_is_a_measurement_and_the_unknown_is_absent() -> None:
    counters = EngineCounters()
    counters.of((("model", "a"),)).add("tokens", 0)
    assert list(counters.values("tokens")) == [({"model": "a"}, 0)]
    assert list(counters.values("running")) == []


def test_each_set_of_labels_has_one_counter() -> None:
    counters = EngineCounters()
    assert counters.of((("model", "a"),)) is counters.of((("model", "a"),))
    counters.of((("model", "a"),)).add("tokens", 1, (("tier", "device"),))
    counters.of((("model", "b"),)).add("tokens", 2)
    expected = [({"model": "a", "tier": "device"}, 1), ({"model": "b"}, 2)]
    assert list(counters.values("tokens")) == expected
    counters.clear()
    assert list(counters.values("tokens")) == []
