"""CPU time that a Collector spends on a span: the same traces through several Collectors, in turn."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.collector.process import Collector, composed, running
from harness.telemetry.traffic import post, span, spans_request

SPANS = 100
"""In one request."""

SPANS_OF_A_TRACE = 4

# Short, so that what is sent is decided soon; every measurement waits until it is.
WAIT = {"AI_OTEL_DECISION_WAIT": "1s", "AI_OTEL_DECISION_WAIT_AFTER_ROOT": "1s", "AI_OTEL_TRACES_IN_MEMORY": "200000"}
UNTIL_DECIDED_S = 3.0

SMALL: Mapping[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "vllm",
    "gen_ai.request.model": "meta-llama/Llama-3.1-8B-Instruct",
    "gen_ai.response.model": "meta-llama/Llama-3.1-8B-Instruct",
    "gen_ai.response.id": "chatcmpl-3f0e6c1b2a9d4f7c8e5b6a1d2c3f4e5b",
    "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.request.max_tokens": 512,
    "gen_ai.request.temperature": 0.7,
    "gen_ai.request.stream": True,
    "gen_ai.usage.input_tokens": 1234,
    "gen_ai.usage.output_tokens": 256,
    "gen_ai.response.time_to_first_chunk": 0.4111111111111111,
    "http.request.method": "POST",
    "http.route": "/v1/chat/completions",
    "http.response.status_code": 200,
    "url.path": "/v1/chat/completions",
    "url.scheme": "http",
    "network.protocol.version": "1.1",
    "server.address": "inference-gateway.ai.svc.cluster.local",
    "server.port": 8000,
    "client.address": "10.42.3.17",
    "user_agent.original": "OpenAI/Python 3.54.0",
}

REQUEST: Mapping[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "vllm",
    "ai_otel.outcome": "finished",
    "http.request.method": "POST",
    "http.route": "/v1/chat/completions",
    "http.response.status_code": 200,
    "server.address": "10.42.3.17",
    "server.port": 8000,
    "gen_ai.response.time_to_first_chunk": 0.4111111111111111,
    "gen_ai.request.model": "meta-llama/Llama-3.1-8B-Instruct",
    "gen_ai.response.model": "meta-llama/Llama-3.1-8B-Instruct",
    "gen_ai.response.id": "chatcmpl-3f0e6c1b2a9d4f7c8e5b6a1d2c3f4e5b",
    "gen_ai.request.stream": True,
    "ai_otel.engine.index": 0,
    "gen_ai.request.max_tokens": 512,
    "gen_ai.request.temperature": 0.7,
    "gen_ai.request.top_p": 0.95,
    "gen_ai.usage.input_tokens": 1234,
    "gen_ai.usage.output_tokens": 256,
    "gen_ai.usage.cache_read.input_tokens": 1024,
    "gen_ai.response.finish_reasons": ["stop"],
    "ai_otel.time_to_first_token": 0.38,
    "ai_otel.request.preemptions": 0,
    "ai_otel.gpu.ids": ["GPU-6f1c9c2e-0d1b-4f7e-9a53-2b8d1c7e4f60"],
    "ai_otel.gpu.selection": "environment",
    "ai_otel.energy.gpu": 412.5,
    "ai_otel.energy.idle_share": 0.12,
    "ai_otel.energy.method": "counter",
    "ai_otel.energy.uncertainty": 0.08,
    "ai_otel.gpu.time": 1.25,
}

SENTENCE = "The quick brown fox jumps over 13 lazy dogs near the river, at 10:30, for $4.50 each (or so they say). "
TEXT = (SENTENCE * 90)[:8192]
CHAT = "chat meta-llama/Llama-3.1-8B-Instruct"


def four(attributes: Mapping[str, Any]) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """The names and attributes of a trace's four spans, which are equal."""
    return [(CHAT, attributes)] * SPANS_OF_A_TRACE


LIBRARY = [(CHAT, REQUEST), ("queue", {}), ("prefill", {}), ("decode", {})]
"""A request as the library shows it."""

TRACES: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]] = {
    "small spans": four(SMALL),
    "the library's own spans": LIBRARY,
    "prompts of 8 kB, where prompts belong": four({**SMALL, "gen_ai.input.messages": TEXT}),
    "texts of 8 kB, under an unknown key": four({**SMALL, "app.text": TEXT}),
}


class Traffic:
    """Requests with traces that were never sent before."""

    def __init__(self, trace: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        mark = secrets.token_bytes(16)
        spans = [
            span(name, mark, bytes([place + 1] * 8), parent=bytes([1] * 8 if place else []), attributes=attributes)
            for _ in range(SPANS // len(trace))
            for place, (name, attributes) in enumerate(trace)
        ]
        resource = {"service.name": "llama", "k8s.pod.name": "vllm-llama-7d9f8b6c5d-x2k4p"}
        message = spans_request(spans, scope="ai_otel.gen_ai", resource=resource)
        self._pieces = message.SerializeToString().split(mark)
        self._of_a_trace = len(trace)

    def request(self) -> bytes:
        """One request."""
        first, *rest = self._pieces
        ids = [secrets.token_bytes(16) for _ in range(len(rest) // self._of_a_trace)]
        return first + b"".join(ids[place // self._of_a_trace] + piece for place, piece in enumerate(rest))


@contextmanager
def gateways(choices: Mapping[str, Sequence[str]], directory: Path) -> Iterator[Mapping[str, Collector]]:
    """A Collector for each choice of features, whose spans go nowhere."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(running(_gateway(features), directory / str(place), WAIT))
            for place, (name, features) in enumerate(choices.items())
        }


def _gateway(features: Sequence[str]) -> dict[str, Any]:
    tree = composed(
        role="gateway_stateful", features=("local", *features), without=("persistence",), backends=("file",)
    )
    tree["exporters"] = {"nop": {}}
    for pipeline in tree["service"]["pipelines"].values():
        pipeline["exporters"] = ["nop" if name == "file/backend" else name for name in pipeline["exporters"]]
    return tree


@dataclass(frozen=True)
class Cost:
    """Seconds of CPU time for a span."""

    seconds: float

    @property
    def rate(self) -> float:
        """Spans for a second of one core."""
        return 1 / self.seconds


def turn(collectors: Mapping[str, Collector], traffic: Traffic, count: int) -> dict[str, Cost]:
    """Send so many requests to each; the time is all that it spends until every trace is decided and has left."""
    before = {}
    for name, collector in collectors.items():
        before[name] = collector.cpu_seconds()
        for _ in range(count):
            status, answer = post(collector.ports["http"], traffic.request(), timeout_s=60)
            assert status == 200, answer
    time.sleep(UNTIL_DECIDED_S)
    return {
        name: Cost(max(collector.cpu_seconds() - before[name], 1e-3) / (count * SPANS))
        for name, collector in collectors.items()
    }
