"""A client that records its requests, their responses, and the time of the first token."""

from __future__ import annotations

import asyncio
import http.client
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx


@dataclass
class Sent:
    """One request as the client saw it."""

    name: str
    path: str
    body: dict[str, Any]
    hang_up_after: int | None = None
    """Leave after this many chunks."""
    request_id: str | None = None
    """Sent as `X-Request-Id`."""
    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))
    status: int | None = None
    usage: dict[str, Any] | None = None
    chunks: int = 0
    answer: Any = None
    sent_ns: int = 0
    first_token_ns: int | None = None
    ended_ns: int | None = None
    """When the last byte of a stream that was sent alone arrived."""
    error: str | None = None

    @property
    def traceparent(self) -> str:
        """The header that makes this client the parent."""
        return f"00-{self.trace_id}-{self.span_id}-01"


class Client:
    """Sends requests to one server and remembers all of them."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.sent: list[Sent] = []

    def run(self, requests: list[Sent], concurrency: int) -> list[Sent]:
        """Send all of them, at most `concurrency` at a time."""
        self.sent += requests
        asyncio.run(self._run(requests, concurrency))
        return requests

    async def _run(self, requests: list[Sent], concurrency: int) -> None:
        turn = asyncio.Semaphore(concurrency)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=concurrency)
        async with httpx.AsyncClient(base_url=self.base_url, timeout=120, limits=limits) as http:

            async def one(request: Sent) -> None:
                async with turn:
                    await self._send(http, request)

            await asyncio.gather(*(one(request) for request in requests))

    async def _send(self, http: httpx.AsyncClient, request: Sent) -> None:
        request.sent_ns = time.time_ns()
        headers = {"traceparent": request.traceparent}
        if request.request_id is not None:
            headers["X-Request-Id"] = request.request_id
        try:
            if request.body.get("stream"):
                await self._stream(http, request, headers)
                return
            response = await http.post(request.path, json=request.body, headers=headers)
            request.status = response.status_code
            request.answer = response.json()
            if isinstance(request.answer, dict):
                request.usage = request.answer.get("usage")
        except httpx.HTTPError as error:
            request.error = type(error).__name__

    async def _stream(self, http: httpx.AsyncClient, request: Sent, headers: dict[str, str]) -> None:
        async with http.stream("POST", request.path, json=request.body, headers=headers) as response:
            request.status = response.status_code
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = json.loads(line.removeprefix("data: "))
                self._note(request, event)
                if request.hang_up_after is not None and request.chunks >= request.hang_up_after:
                    return  # leaving the block closes the connection

    @staticmethod
    def _note(request: Sent, event: dict[str, Any]) -> None:
        nested = event.get("response") or {}
        request.usage = event.get("usage") or nested.get("usage") or request.usage
        if _has_token(event):
            request.chunks += 1
            if request.first_token_ns is None:
                request.first_token_ns = time.time_ns()


def stream_one_by_one(base_url: str, requests: Sequence[Sent]) -> None:
    """
    Send streams one after the other over one connection, with as little as possible between the wire and the clock: a
    client for concurrency has an event loop and a pool of its own, whose time is not the server's.
    """
    address = urlsplit(base_url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
    for request in requests:
        body = json.dumps(request.body)
        headers = {"traceparent": request.traceparent, "Content-Type": "application/json"}
        request.sent_ns = time.time_ns()
        connection.request("POST", request.path, body.encode(), headers)
        response = connection.getresponse()
        request.status = response.status
        arrived = [(time.time_ns(), line) for line in response]
        request.ended_ns = time.time_ns()
        for at, line in arrived:
            if line.startswith(b"data: {"):
                event = json.loads(line.removeprefix(b"data: "))
                request.usage = event.get("usage") or request.usage
                if request.first_token_ns is None and _has_token(event):
                    request.first_token_ns = at
    connection.close()


def _has_token(event: dict[str, Any]) -> bool:
    """Whether this event carries output: a chat stream begins with one that only names the role."""
    if event.get("type") == "response.output_text.delta":
        return True
    for choice in event.get("choices") or ():
        delta = choice.get("delta")
        # A token may be half a character, whose text is still empty.
        if choice.get("text") is not None or (delta and delta.get("content") is not None and not delta.get("role")):
            return True
        if choice.get("finish_reason") is not None:
            return True
    return False
