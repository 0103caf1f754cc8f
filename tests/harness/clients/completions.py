"""A client that records its requests, their responses, and the time of the first token."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from ai_otel.demo.client import Call, carries_output, send


@dataclass(slots=True)
class Sent(Call):
    """A call of a test."""

    ended_ns: int | None = None
    """When the last byte of a stream that was sent alone arrived."""
    error: str | None = None


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
        try:
            await send(http, request, lambda event: self._note(request, event))
        except httpx.HTTPError as error:
            request.error = type(error).__name__

    def _note(self, request: Sent, event: dict[str, Any]) -> None:
        request.add(event)


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
                if request.first_token_ns is None and carries_output(event):
                    request.first_token_ns = at
    connection.close()
