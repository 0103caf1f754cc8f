"""No value of a client's makes a span that a receiver refuses; what is usual is not touched."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from hypothesis import given, strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from ai_otel.export.limits import (
    MAX_CHARACTERS,
    MAX_ITEMS,
    MAX_LIST_CHARACTERS,
    MAX_SPAN_CHARACTERS,
    OTHER,
    Vocabulary,
    cut,
    cut_all,
    limited,
)
from ai_otel.record import Parameters
from ai_otel.testing import captured
from records import ASKED, call, deliver, exchange, inference

BIG = 2**63


def test_usual_attributes_are_passed_as_they_are() -> None:
    usual = {"id": "chatcmpl-1", "tokens": 7, "share": 0.5, "stream": True, "reasons": ["stop"], "stop": ("END",)}
    before = dict(usual)
    assert limited(usual) is usual
    assert usual == before


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("x" * 60_000, "x" * MAX_CHARACTERS),
        ("é" * 60_000, "é" * MAX_CHARACTERS),
        ("\ud800", "?"),
        ("caf\xe9\udfff", "caf\xe9?"),
        (BIG - 1, BIG - 1),
        (BIG, None),
        (-BIG, -BIG),
        (-BIG - 1, None),
        (10**400, None),
        (float("inf"), float("inf")),
        (True, True),
        (["x"] * 1000, ("x",) * MAX_ITEMS),
        (("x" * 4_200_000,), ("x" * MAX_CHARACTERS,)),
        (["x" * 1000] * 100, ("x" * 1000,) * 4 + ("x" * 96,)),
        (["\ud800", "b"], ("?", "b")),
        ([1, BIG, 2], (1, 2)),
        (["a", None, {"b": 1}], ("a",)),
        ({"a": 1}, None),
        (object(), None),
        (b"bytes", None),
        (None, None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_value_is_cut_or_left_out(given: Any, expected: Any) -> None:
    assert limited({"before": 1, "value": given, "after": "x"}) == {
        "before": 1,
        **({} if expected is None else {"value": expected}),
        "after": "x",
    }


def test_all_strings_of_a_span_have_a_limit_in_sum() -> None:
    kept = limited({f"name{number}": "x" * 5000 for number in range(50)} | {"tokens": 7})
    assert sum(len(value) for value in kept.values() if isinstance(value, str)) == MAX_SPAN_CHARACTERS
    assert kept["tokens"] == 7


VALUES = st.one_of(
    st.text(st.characters(), max_size=20), st.integers(), st.floats(), st.booleans(), st.binary(max_size=3), st.none()
)


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.one_of(VALUES, st.lists(VALUES, max_size=5))))
def test_what_comes_out_can_be_encoded(attributes: dict[str, Any]) -> None:
    for value in limited(attributes).values():
        items = value if isinstance(value, (tuple, list)) else (value,)
        for item in items:
            assert isinstance(item, (str, int, float))
            if isinstance(item, str):
                item.encode()
            elif not isinstance(item, float):
                assert -BIG <= item < BIG


def test_texts_are_cut_each_and_in_sum() -> None:
    assert cut("short") == "short"
    assert cut_all([]) == ()
    assert cut_all("ab") == ("a", "b")
    assert sum(map(len, cut_all(["x" * 900] * 200))) == MAX_LIST_CHARACTERS


# ---------------------------------------------------------------- from a request to what is sent

HOSTILE = {
    "a request id of 60 kB": {"request_id": "r" * 60_000},
    "a stop sequence of 4 MB": {"parameters": Parameters(stop_sequences=("s" * 4_200_000,))},
    "a million stop sequences": {"parameters": Parameters(stop_sequences=("s",) * 1_000_000)},
    "a seed beyond int64": {"parameters": Parameters(seed=BIG)},
    "a temperature beyond int64": {"parameters": Parameters(temperature=10**400)},
    "half a surrogate pair": {"request_id": "\ud800", "parameters": Parameters(stop_sequences=("\udc00",))},
    "a model of 1 MB": {"model": "m" * 1_000_000, "response_model": "m" * 1_000_000},
    "an adapter of 1 MB": {"lora": "l" * 1_000_000},
}


@pytest.mark.fault("requests", "a client sends a 60 kB request id", "the attribute is cut to 1,024 characters")
@pytest.mark.fault(
    "requests",
    "a client sends stop sequences of 4 MB, or a million of them",
    "each is cut to 1,024 characters, all to 128 items and 4,096 characters",
)
@pytest.mark.fault("requests", "a client sends a seed beyond 64 bits", "the attribute is absent, nothing is logged")
@pytest.mark.fault(
    "requests", "a client sends text that UTF-8 cannot encode", "the characters are `?`, and the batch is encoded"
)
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_a_client_chooses_makes_no_large_span_and_no_log_line(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with captured(attach=False, engine="fake") as telemetry, caplog.at_level(logging.INFO):
        deliver(telemetry, call(inference(**HOSTILE[kind]), exchange=exchange()))
        deliver(telemetry, call(inference(), inference(**HOSTILE[kind])))
        spans = telemetry.spans
        encoded = [encode_spans([span]).SerializeToString() for span in spans]
    assert len(spans) >= 5
    assert max(map(len, encoded)) < 40_000
    assert caplog.messages == []
    assert all("gen_ai.usage.input_tokens" in (span.attributes or {}) for span in spans if " " in span.name)


def test_an_event_is_limited_too() -> None:
    from ai_otel.record import DeviceEvent

    event = DeviceEvent("ai_otel.gpu.throttle", time.time_ns(), {"hw.id": "x" * 60_000, "count": BIG})
    with captured(attach=False, engine="fake") as telemetry:
        deliver(telemetry, call(inference(parameters=ASKED), device_events=(event,)))
        (found,) = telemetry.spans[-1].events
    assert found.attributes == {"hw.id": "x" * MAX_CHARACTERS}


# ---------------------------------------------------------------- metrics


def test_a_vocabulary_keeps_its_first_values() -> None:
    models = Vocabulary(2)
    assert [models.of(name) for name in ("a", "b", "c", "a", "d", "b")] == ["a", "b", OTHER, "a", OTHER, "b"]
    assert Vocabulary().of("x" * 60_000) == "x" * MAX_CHARACTERS


@pytest.mark.fault(
    "requests",
    "an engine reports the model name that the client sent, a new one each time",
    "256 names are kept, later requests are counted as `_OTHER`",
)
def test_model_names_make_a_limited_number_of_series() -> None:
    with captured(attach=False, engine="fake") as telemetry:
        for number in range(400):
            deliver(telemetry, call(inference(model=f"m{number}", response_model=f"m{number}")))
        points = telemetry.points("gen_ai.server.request.duration")
        tokens = telemetry.points("ai_otel.usage.input_tokens")
    for found in (points, tokens):
        names = [point.attributes["gen_ai.request.model"] for point in found]
        assert len(names) == len(set(names)) == 257
        assert OTHER in names
