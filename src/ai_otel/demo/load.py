"""
A mixed load on an OpenAI-compatible server. Each request carries a W3C `traceparent` of its own, so that its trace
can be found again.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import httpx

from ai_otel.demo.client import Call, send

CHAT, TEXT, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
STREAM: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
SENTENCES = (
    "what would people think about the new water house",
    "tell me how to build a small boat and where to put it",
    "write a sentence about the animal that came with the light",
    "why do men name the earth and the air",
)


@dataclass(slots=True)
class LoadCall(Call):
    """A call of the load, with its outcome in the words of the spans; `None` while it runs."""

    outcome: str | None = None


class Mix:
    """Which requests, in which proportion. The same sequence every time."""

    def __init__(self, model: str, *, embeddings: bool) -> None:
        self._model = model
        self._random = random.Random(7)  # noqa: S311 - a mix, not a secret
        self._turns = ["chat", "chat stream", "completion", "completion stream", "long stream"] * 3
        self._turns += ["hang-up", "hang-up", "too long", "no such model", "bad request"]
        self._turns += ["embeddings"] * 2 if embeddings else []

    def __iter__(self) -> Any:
        while True:
            self._random.shuffle(self._turns)
            yield from map(self._call, list(self._turns))

    def _call(self, kind: str) -> LoadCall:
        asked = {"model": self._model, "max_tokens": self._random.randint(8, 48)}
        words = " ".join(self._random.choices(SENTENCES, k=self._random.randint(1, 4)))
        chat = {**asked, "messages": [{"role": "user", "content": words}]}
        text = {**asked, "prompt": words}
        calls: dict[str, tuple[str, dict[str, Any]]] = {
            "chat": (CHAT, chat),
            "chat stream": (CHAT, {**chat, **STREAM}),
            "completion": (TEXT, {**text, "temperature": 0.5, "seed": 7}),
            "completion stream": (TEXT, {**text, **STREAM}),
            "long stream": (CHAT, {**chat, **STREAM, "max_tokens": 160}),
            "hang-up": (CHAT, {**chat, **STREAM, "max_tokens": 1500, "ignore_eos": True}),
            "too long": (TEXT, {**text, "prompt": f"{words} " * 400}),
            "no such model": (CHAT, {**chat, "model": "no-such-model"}),
            "bad request": (CHAT, asked),
            "embeddings": (EMBEDDINGS, {"model": self._model, "input": words}),
        }
        path, body = calls[kind]
        return LoadCall(kind, path, body, hang_up_after=self._random.randint(4, 12) if kind == "hang-up" else None)


class Load:
    """Sends the mix and remembers every call."""

    def __init__(self, url: str, mix: Mix) -> None:
        self.url = url
        self.calls: list[LoadCall] = []
        self.seconds = 0.0
        self._mix = iter(mix)

    async def run(self, seconds: float, concurrency: int, pause_s: float = 0.0) -> None:
        """Send for so long; what is under way then is still waited for."""
        started = time.monotonic()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=concurrency)
        async with httpx.AsyncClient(base_url=self.url, timeout=60, limits=limits, trust_env=False) as http:

            async def client() -> None:
                while time.monotonic() - started < seconds:
                    call = next(self._mix)
                    self.calls.append(call)
                    await self._send(http, call)
                    await asyncio.sleep(pause_s)

            await asyncio.gather(*(client() for _ in range(concurrency)))
        self.seconds = time.monotonic() - started

    async def _send(self, http: httpx.AsyncClient, call: LoadCall) -> None:
        try:
            await send(http, call)
        except (httpx.HTTPError, ValueError):
            call.outcome = "failed"
        else:
            call.outcome = "cancelled" if call.left_ns is not None else _outcome(call.status or 0)


def _outcome(status: int) -> str:
    return "finished" if status < 400 else "rejected" if status < 500 else "failed"
