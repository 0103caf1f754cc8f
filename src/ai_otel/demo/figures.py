"""Compares the client's counts with the spans that arrived."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ai_otel.demo.load import LoadCall
from ai_otel.demo.sink import ArrivedSpan, Sink
from ai_otel.semconv import (
    AI_OTEL_OUTCOME,
    AI_OTEL_TIME_TO_FIRST_TOKEN,
    GEN_AI_REQUEST_STREAM,
    GEN_AI_USAGE_INPUT_TOKENS,
    GEN_AI_USAGE_OUTPUT_TOKENS,
    OUTCOMES,
)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of one latency, in seconds."""

    count: int
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles | None:
        """By nearest rank; `None` of nothing."""
        if not values:
            return None
        ordered = sorted(values)
        ranks = [max(0, math.ceil(share * len(ordered)) - 1) for share in (0.5, 0.95, 0.99)]
        return cls(len(ordered), *(ordered[rank] for rank in ranks))


@dataclass(frozen=True, slots=True)
class Tokens:
    """Input and output, summed."""

    input: int
    output: int


@dataclass(frozen=True, slots=True)
class Figures:
    """The comparison."""

    requests: int
    traced: int
    """How many of them have their span."""
    outcomes: list[tuple[str, int, int]]
    """Outcome, how often the client saw it, how often the spans say it."""
    disagreeing: int
    """Requests whose span says another outcome than the client saw."""
    duration: Percentiles | None
    first_token: Percentiles | None
    tokens_per_s: float
    reported: Tokens
    """Reported to clients in `usage`."""
    counted: Tokens
    """What the spans of the same requests say."""
    read_before_hang_up: int
    """Pieces of answers that clients had read when they left."""
    produced_for_hang_up: int
    """Tokens that the engine had produced by then."""

    @property
    def complete(self) -> bool:
        """Whether every request has its span, with the same outcome and the same tokens."""
        return self.traced == self.requests and self.disagreeing == 0 and self.reported == self.counted


def compare(calls: Sequence[LoadCall], sink: Sink, seconds: float) -> Figures:
    """Compare the client's counts with the spans."""
    ended = [call for call in calls if call.outcome is not None]
    spans = sink.roots(call.trace_id for call in ended)
    pairs = [(call, spans[call.trace_id]) for call in ended if call.trace_id in spans]
    finished = [(call, span) for call, span in pairs if call.outcome == "finished"]
    left = [(call, span) for call, span in pairs if _seen(call, span) == "cancelled"]
    first_tokens = [span.attributes.get(AI_OTEL_TIME_TO_FIRST_TOKEN) for _, span in finished]
    return Figures(
        requests=len(ended),
        traced=len(pairs),
        outcomes=_outcomes(ended, spans),
        disagreeing=sum(_seen(call, span) != span.attributes.get(AI_OTEL_OUTCOME) for call, span in pairs),
        duration=Percentiles.of([span.duration_s for _, span in finished]),
        first_token=Percentiles.of([value for value in first_tokens if value is not None]),
        tokens_per_s=sum(_output(span) for span in spans.values()) / seconds if seconds else 0.0,
        reported=Tokens(sum(c.input_tokens for c, _ in finished), sum(c.output_tokens for c, _ in finished)),
        counted=Tokens(sum(_input(s) for _, s in finished), sum(_output(s) for _, s in finished)),
        read_before_hang_up=sum(call.chunks for call, _ in left),
        produced_for_hang_up=sum(_output(span) for _, span in left),
    )


def _seen(call: LoadCall, span: ArrivedSpan | None) -> str | None:
    """
    How the client saw it end. One that leaves when the whole answer is already on its way has not hung up: its leaving
    takes a moment to reach the server, which has then produced all that was asked for.
    """
    if call.left_ns is None or span is None:
        return call.outcome
    all_produced = _output(span) == call.body.get("max_tokens")
    if span.end_ns < call.left_ns or (all_produced and span.attributes.get(AI_OTEL_OUTCOME) == "finished"):
        return "finished"
    return call.outcome


def _outcomes(calls: Sequence[LoadCall], spans: Mapping[str, ArrivedSpan]) -> list[tuple[str, int, int]]:
    seen = Counter(_seen(call, spans.get(call.trace_id)) for call in calls)
    said = Counter(span.attributes.get(AI_OTEL_OUTCOME) for span in spans.values())
    return [(outcome, seen[outcome], said[outcome]) for outcome in OUTCOMES if seen[outcome] or said[outcome]]


def _input(span: ArrivedSpan) -> int:
    return int(span.attributes.get(GEN_AI_USAGE_INPUT_TOKENS, 0))


def _output(span: ArrivedSpan) -> int:
    return int(span.attributes.get(GEN_AI_USAGE_OUTPUT_TOKENS, 0))


def example(calls: Sequence[LoadCall], sink: Sink) -> ArrivedSpan | None:
    """An example request: streamed, finished, with phases, of median duration."""
    spans = sink.roots(call.trace_id for call in calls if call.outcome == "finished")
    parents = {span.parent_id for span in list(sink.spans)}
    phased = [span for span in spans.values() if span.span_id in parents]
    streamed = [span for span in phased if span.attributes.get(GEN_AI_REQUEST_STREAM)]
    ordered = sorted(streamed or phased, key=lambda span: span.duration_s)
    return ordered[len(ordered) // 2] if ordered else None
