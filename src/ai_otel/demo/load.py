"""
A mixed load on an OpenAI-compatible server. The client records each request, its response and its outcome.

Each request carries a W3C `traceparent` of its own, so that its trace can be found again.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

CHAT, TEXT, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
STREAM: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
SENTENCES = (
    "what would people think about the new water house",
    "tell me how to build a small boat and where to put it",
    "write a sentence about the animal that came with the light",
    "why do men name the earth and the air",
)


@dataclass(slots=True)
class Call:
    """One request as the client saw it."""

    kind: str
    path: str
    body: dict[str, Any]
    hang_up_after: int | None = None
    """Leave after so many tokens."""
    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))
    status: int | None = None
    outcome: str | None = None
    """In the words of the spans; `None` while it runs."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    pieces: int = 0
    """Pieces of the answer that came with text."""
    left_ns: int | None = None
    """When it left, on the wall clock."""

    @property
    def headers(self) -> dict[str, str]:
        """What makes this client the parent of the server's span."""
        return {"traceparent": f"00-{self.trace_id}-{self.span_id}-01"}

    @property
    def streams(self) -> bool:
        """Whether the answer comes in pieces."""
        return bool(self.body.get("stream"))


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

    def _call(self, kind: str) -> Call:
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
        return Call(kind, path, body, hang_up_after=self._random.randint(4, 12) if kind == "hang-up" else None)


class Load:
    """Sends the mix and remembers every call."""

    def __init__(self, url: str, mix: Mix) -> None:
        self.url = url
        self.calls: list[Call] = []
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

    async def _send(self, http: httpx.AsyncClient, call: Call) -> None:
        try:
            outcome = await (self._stream if call.streams else self._whole)(http, call)
        except (httpx.HTTPError, ValueError):
            outcome = "failed"
        call.outcome = outcome

    async def _whole(self, http: httpx.AsyncClient, call: Call) -> str:
        response = await http.post(call.path, json=call.body, headers=call.headers)
        call.status = response.status_code
        if response.is_success:
            _note_usage(call, response.json())
        return _outcome(response.status_code)

    async def _stream(self, http: httpx.AsyncClient, call: Call) -> str:
        async with http.stream("POST", call.path, json=call.body, headers=call.headers) as response:
            call.status = response.status_code
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    _note_piece(call, json.loads(line.removeprefix("data: ")))
                if call.hang_up_after is not None and call.pieces >= call.hang_up_after:
                    call.left_ns = time.time_ns()
                    return "cancelled"  # leaving the block closes the connection
        return _outcome(call.status)


def _outcome(status: int) -> str:
    return "finished" if status < 400 else "rejected" if status < 500 else "failed"


def _note_piece(call: Call, piece: dict[str, Any]) -> None:
    _note_usage(call, piece)
    for choice in piece.get("choices") or ():
        if choice.get("text") or (choice.get("delta") or {}).get("content"):
            call.pieces += 1


def _note_usage(call: Call, answer: dict[str, Any]) -> None:
    usage = answer.get("usage")
    if usage:
        call.input_tokens = usage.get("prompt_tokens")
        call.output_tokens = usage.get("completion_tokens")
