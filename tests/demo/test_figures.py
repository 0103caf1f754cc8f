"""The demo's check can fail: it does where the counts differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ai_otel.demo.figures import Percentiles, Tokens, compare, example
from ai_otel.demo.load import LoadCall, Mix
from ai_otel.demo.sink import ArrivedSpan, Sink


def call(trace: str, outcome: str | None = "finished", tokens: tuple[int, int] | None = (10, 5)) -> LoadCall:
    made = LoadCall("chat", "/v1/chat/completions", {}, trace_id=trace, outcome=outcome)
    if tokens is not None:
        made.usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return made


def span(trace: str, outcome: str = "finished", tokens: tuple[int, int] | None = (10, 5), **more: Any) -> ArrivedSpan:
    attributes: dict[str, Any] = {"ai_otel.outcome": outcome}
    if tokens is not None:
        attributes |= {"gen_ai.usage.input_tokens": tokens[0], "gen_ai.usage.output_tokens": tokens[1]}
    root = ArrivedSpan("chat", trace, f"s{trace}", "client", 0, 10_000_000, failed=False, attributes=attributes)
    return replace(root, **more)


def sink_of(*spans: ArrivedSpan) -> Sink:
    sink = Sink()
    sink.spans.extend(spans)
    return sink


def test_equal_counts_are_complete() -> None:
    sink = sink_of(span("a"), span("b", "rejected", None), span("c", "cancelled", (3, 9)))
    left = call("c", "cancelled", None)
    left.chunks = 4
    figures = compare([call("a"), call("b", "rejected", None), left, call("d", None)], sink, seconds=2)
    assert figures.complete
    assert (figures.requests, figures.traced) == (3, 3)
    assert figures.reported == figures.counted == Tokens(10, 5)
    assert (figures.read_before_hang_up, figures.produced_for_hang_up) == (4, 9)
    assert figures.tokens_per_s == 7
    assert figures.outcomes == [("finished", 1, 1), ("cancelled", 1, 1), ("rejected", 1, 1)]


@pytest.mark.parametrize(
    "sink",
    [sink_of(), sink_of(span("a", tokens=(10, 6))), sink_of(span("a", "failed")), sink_of(span("a", tokens=None))],
    ids=["no span", "other tokens", "other outcome", "no tokens"],
)
def test_where_something_differs_they_are_not(sink: Sink) -> None:
    assert not compare([call("a")], sink, seconds=1).complete


def test_a_client_that_leaves_after_the_last_byte_has_not_hung_up() -> None:
    """On a busy machine an answer can be complete before its client has read the first piece."""
    late = call("a", "cancelled", None)
    late.left_ns = 11_000_000
    figures = compare([late], sink_of(span("a")), seconds=1)
    assert figures.complete
    assert (figures.outcomes, figures.read_before_hang_up) == ([("finished", 1, 1)], 0)
    late.left_ns = 9_000_000
    assert not compare([late], sink_of(span("a")), seconds=1).complete


def test_a_client_that_leaves_after_the_last_token_has_not_hung_up() -> None:
    """Its leaving takes a moment to reach the server, which may be done by then; with one token less it was not."""
    late = call("a", "cancelled", None)
    late.left_ns, late.body = 9_000_000, {"max_tokens": 5}
    assert compare([late], sink_of(span("a", tokens=(10, 5))), seconds=1).complete
    assert compare([late], sink_of(span("a", "cancelled", tokens=(10, 5))), seconds=1).complete
    assert not compare([late], sink_of(span("a", tokens=(10, 4))), seconds=1).complete


def test_percentiles_are_values_that_occurred() -> None:
    assert Percentiles.of([]) is None
    assert Percentiles.of([4.0]) == Percentiles(1, 4.0, 4.0, 4.0)
    assert Percentiles.of([float(value) for value in range(100, 0, -1)]) == Percentiles(100, 50.0, 95.0, 99.0)


def test_the_example_is_a_stream_with_phases_of_middling_length() -> None:
    spans = [span(str(n), span_id=str(n), end_ns=n) for n in range(1, 6)]
    for each in spans:
        each.attributes["gen_ai.request.stream"] = True
    phases = [span(each.trace_id, span_id=f"p{each.span_id}", parent_id=each.span_id) for each in spans[:3]]
    found = example([call(str(n)) for n in range(1, 6)], sink_of(*spans, *phases))
    assert found is spans[1]
    assert example([call("a")], sink_of()) is None


def test_the_mix_is_the_same_every_time_and_holds_every_kind() -> None:
    first, second = (iter(Mix("m", embeddings=True)) for _ in range(2))
    calls = [next(first) for _ in range(44)]
    assert [each.body for each in calls] == [next(second).body for _ in calls]
    assert {each.name for each in calls} == {
        *("chat", "chat stream", "completion", "completion stream", "long stream", "embeddings"),
        *("hang-up", "too long", "no such model", "bad request"),
    }
    assert len({each.trace_id for each in calls}) == len(calls)
