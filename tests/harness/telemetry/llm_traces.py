"""Traces of LLM traffic by kind: what each should meet in a sampler is known from how it was made."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from harness.telemetry.traffic import ERROR, OK, grouped, span, spans_request

FINISHED = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "ai_otel.outcome": "finished"}
PROBES = ("/health", "/metrics", "/v1/models", "/v2/health/ready", "/healthz", "/ping", "/health_generate")


@dataclass(frozen=True)
class Trace:
    """One trace: its kind, and its spans."""

    kind: str
    id: bytes
    spans: tuple[Span, ...]


Make = Callable[[random.Random], Mapping[str, Any]]
"""What the span of the model server is: arguments of `span`."""


def _answered(**more: Any) -> dict[str, Any]:
    usage = {"gen_ai.usage.input_tokens": 300, "gen_ai.usage.output_tokens": 40, "ai_otel.time_to_first_token": 0.2}
    return {
        "duration_s": 1.5,
        "status": OK,
        "attributes": {**FINISHED, **usage, "url.path": "/v1/chat/completions", **more},
    }


def _probe(source: random.Random) -> dict[str, Any]:
    key = source.choice(("url.path", "http.route", "http.target"))
    path = source.choice(PROBES) + ("?format=text" if key == "http.target" else "")
    return {"duration_s": 0.001, "status": Status.STATUS_CODE_UNSET, "attributes": {key: path}}


KINDS: dict[str, Make] = {
    "plain": lambda _: _answered(),
    # An answer that came in good time, from a path that only resembles a probe's.
    "lookalike": lambda _: {"attributes": {"url.path": "/v1/models/metrics-7b/chat"}},
    "status": lambda _: {**_answered(), "status": ERROR},
    "failed": lambda _: _answered(**{"ai_otel.outcome": "failed"}),
    "rejected": lambda _: _answered(**{"ai_otel.outcome": "rejected"}),
    "cancelled": lambda _: _answered(**{"error.type": "cancelled"}),
    "slow_token": lambda source: _answered(**{"ai_otel.time_to_first_token": source.uniform(2.0, 9.0)}),
    "slow_chunk": lambda source: _answered(**{"gen_ai.response.time_to_first_chunk": source.uniform(2.0, 9.0)}),
    "long": lambda _: {**_answered(), "duration_s": 31.0},
    "truncated": lambda source: _answered(
        **{"gen_ai.response.finish_reasons": source.choice((["length"], ["stop", "length"]))}
    ),
    "huge_input": lambda _: _answered(**{"gen_ai.usage.input_tokens": 40_000}),
    "huge_output": lambda _: _answered(**{"gen_ai.usage.output_tokens": 4_000}),
    "probe": _probe,
    "probe_failed": lambda source: {**_probe(source), "status": ERROR},
    # A probe inside a trace of something else.
    "with_probe": lambda _: _answered(),
}
NEVER_LEFT_OUT = {
    *("status", "failed", "rejected", "cancelled", "slow_token", "slow_chunk", "long", "truncated", "probe_failed"),
    *("huge_input", "huge_output"),
}
SHARED = {"plain", "lookalike", "with_probe"}
"""Those of which the baseline keeps its share."""


def traces(counts: Mapping[str, int], seed: int = 1) -> list[Trace]:
    """So many traces of each kind, in any order; two to four spans each."""
    source = random.Random(seed)
    made = [_trace(kind, source) for kind, count in counts.items() for _ in range(count)]
    source.shuffle(made)
    return made


def _trace(kind: str, source: random.Random) -> Trace:
    trace_id, root = source.randbytes(16), source.randbytes(8)
    of: dict[str, Any] = {"duration_s": 0.1, **KINDS[kind](source)}
    spans = [span(kind, trace_id, root, **of)]
    for number in range(source.randint(1, 3)):
        inner: dict[str, Any] = {"duration_s": of["duration_s"] / 2, "kind": Span.SPAN_KIND_INTERNAL}
        if kind == "with_probe" and number == 0:
            inner = {**_probe(source), "kind": Span.SPAN_KIND_CLIENT}
        spans.append(span("phase", trace_id, source.randbytes(8), parent=root, **inner))
    return Trace(kind, trace_id, tuple(spans))


def requests(of: list[Trace], size: int, seed: int = 2) -> Iterator[bytes]:
    """
    OTLP requests of `size` traces.

    The spans of each are in two requests, as those of a client and a server are; the root may be in either.
    """
    source = random.Random(seed)
    for chunk in grouped(of, size):
        first, second = [], []
        for trace in chunk:
            spans = list(trace.spans)
            source.shuffle(spans)
            first += spans[:1]
            second += spans[1:]
        source.shuffle(second)
        yield spans_request(first, scope="client").SerializeToString()
        yield spans_request(second, scope="server").SerializeToString()
