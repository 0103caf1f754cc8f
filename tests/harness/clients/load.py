"""
A load for each server of `servers.py`, and the load generator's own records: what a monitoring system should measure.

First requests of many sizes, some of which cannot be served; then a crowd, larger than what the server computes at a
time, that is there for seconds: what it makes of the gauges is known.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from harness.clients.completions import Client, Sent
from harness.clients.vllm import PROMPT, completion

AT_ONCE = {"vllm": 12, "llama_cpp": 4, "triton": 4, "bentoml": 5}
"""At vLLM many, so that most of the time to the first token is its queue's, and little of it the client's own."""
CROWD = {"vllm": 6, "llama_cpp": 4, "triton": 4, "bentoml": 5}
HELD_S = 2.0
"""Seconds for which all of the crowd is there: longer than a scrape interval on any machine."""


class Timed(Client):
    """Notes when each answer ended, and when how many of its tokens were there."""

    def __init__(self, base_url: str) -> None:
        super().__init__(base_url)
        self.ended_s: dict[str, float] = {}
        self.tokens: dict[str, list[tuple[float, int]]] = {}

    async def _send(self, http: httpx.AsyncClient, request: Sent) -> None:
        await super()._send(http, request)
        self.ended_s[request.trace_id] = time.time()

    def _note(self, request: Sent, event: dict[str, Any]) -> None:
        super()._note(request, event)
        if request.usage and request.first_token_ns:
            said = (time.time(), request.usage["prompt_tokens"] + request.usage["completion_tokens"])
            self.tokens.setdefault(request.trace_id, []).append(said)


@dataclass
class Load:
    """One server's load, and what the load generator measured of it."""

    engine: str
    client: Timed
    began_s: float = 0.0
    """When the warm-up was over."""
    ended_s: float = 0.0
    crowd: list[Sent] = field(default_factory=list)
    counted: list[Sent] = field(default_factory=list)
    """All but the warm-up."""

    def run(self) -> Load:
        """Warm it up, load it, and come with the crowd."""
        make = LOADS[self.engine]
        self.client.run(make(3), 1)
        time.sleep(2.5)  # what the warm-up has left is scraped, and the window begins with a sample of before the load
        self.began_s = time.time()
        self.counted += self.client.run([*make(60), *cannot(self.engine)], AT_ONCE[self.engine])
        self.crowd = self.client.run(CROWDS[self.engine](CROWD[self.engine]), CROWD[self.engine])
        self.counted += self.crowd
        self.ended_s = time.time()
        assert not [sent.error for sent in self.client.sent if sent.error]
        there_s = self.moment_s + 0.5 - max(sent.sent_ns for sent in self.crowd) / 1e9
        assert there_s >= HELD_S, f"{self.engine}: the crowd was there for {there_s:.1f} s only: give it more to do"
        return self

    # ------------------------------------------------------------ its records

    def statuses(self) -> Counter[int | None]:
        """How often which status came, warm-up included."""
        return Counter(sent.status for sent in self.client.sent)

    def total(self, kind: str) -> int:
        """Tokens of every answer: `prompt_tokens` or `completion_tokens`, warm-up included."""
        return sum(sent.usage[kind] for sent in self.client.sent if sent.usage)

    def first_tokens_s(self) -> list[float]:
        """From sending to the first token, for each stream."""
        return [(sent.first_token_ns - sent.sent_ns) / 1e9 for sent in self.counted if sent.first_token_ns]

    def duration_s(self, sent: Sent) -> float:
        """From sending to the end of the answer."""
        return self.client.ended_s[sent.trace_id] - sent.sent_ns / 1e9

    def durations_s(self) -> list[float]:
        """Of each request that was served."""
        return [self.duration_s(sent) for sent in self.counted if sent.status == 200]

    @property
    def moment_s(self) -> float:
        """A moment at which all of the crowd had long been there and none of it had gone."""
        return min(self.client.ended_s[sent.trace_id] for sent in self.crowd) - 0.5

    def held_tokens(self, at_s: float, seen_s: float) -> int:
        """What had come by `seen_s` of the streams that had not ended at `at_s`, with their prompts."""
        there = [sent.trace_id for sent in self.crowd if self.client.ended_s[sent.trace_id] > at_s]
        seen = [[count for when, count in self.client.tokens.get(one, ()) if when <= seen_s] for one in there]
        return sum(max(counts) for counts in seen if counts)


# ---------------------------------------------------------------- what is asked

STREAM = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}


def _texts(count: int) -> list[Sent]:
    """
    Completions, because these send something for each token. All begin differently: nothing is shared in a cache.

    All are streams, because a client does not see when the first token of others came.
    """
    return [_text(f"{i} {PROMPT * (1 + i % 4)}", 8 + 6 * (i % 9)) for i in range(count)]


def _text(prompt: str, tokens: int) -> Sent:
    return Sent("text", "/v1/completions", completion(prompt, max_tokens=tokens, **STREAM))


def _whole_texts(count: int) -> list[Sent]:
    """The same in one piece each."""
    return [_whole(sent) for sent in _texts(count)]


def _whole(sent: Sent) -> Sent:
    return Sent("text", sent.path, {key: value for key, value in sent.body.items() if not key.startswith("stream")})


def _tensors(count: int, seconds: float | None = None) -> list[Sent]:
    return [_tensor(0.02 + 0.01 * (i % 7) if seconds is None else seconds) for i in range(count)]


def _tensor(seconds: float) -> Sent:
    tensor = {"name": "seconds", "datatype": "FP32", "shape": [1], "data": [seconds]}
    return Sent("tensor", "/v2/models/wait/infer", {"inputs": [tensor]})


def _calls(count: int, seconds: float | None = None) -> list[Sent]:
    return [_call(0.02 + 0.01 * (i % 7) if seconds is None else seconds) for i in range(count)]


def _call(seconds: float) -> Sent:
    return Sent("call", "/wait", {"seconds": seconds})


def cannot(engine: str) -> list[Sent]:
    """What the server refuses or fails at."""
    if engine == "triton":
        return [_tensor(-1) for _ in range(5)]
    if engine == "bentoml":
        return [*(_call(-1) for _ in range(5)), *(Sent("nothing", "/wait", {}) for _ in range(4))]
    return [Sent("too long", "/v1/completions", completion("word " * 9000, max_tokens=5)) for _ in range(3)]


LOADS: Mapping[str, Callable[[int], list[Sent]]] = {
    "vllm": _texts,
    "llama_cpp": _whole_texts,
    "triton": _tensors,
    "bentoml": _calls,
}
CROWDS: Mapping[str, Callable[[int], list[Sent]]] = {
    "vllm": lambda count: [_text(f"{i} of a crowd {PROMPT}", 1800) for i in range(count)],
    "llama_cpp": lambda count: [_whole(_text(f"{i} of a crowd {PROMPT}", 1200)) for i in range(count)],
    "triton": lambda count: _tensors(count, HELD_S + 1),
    "bentoml": lambda count: _calls(count, HELD_S + 1),
}
