"""An ASGI application with the name that the HTTP middleware hooks. One chat request is one engine request."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

HEADERS = [
    (b"host", b"models.example:8000"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
    (b"user-agent", b"OpenAI/Python 2.30.0"),
    (b"content-length", b"1873"),
    (b"content-type", b"application/json"),
    (b"authorization", b"Bearer none"),
]


PASSED = {"lora_request": None, "trace_headers": None, "priority": 0, "data_parallel_rank": None}
"""What vLLM's API layer passes by name with each request."""


class Starlette:
    """Answers every request from one engine."""

    def __init__(self, engine: Any, params: Any) -> None:
        self._engine = engine
        self._params = params
        self._count = itertools.count()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        """Serve one request."""
        await receive()
        started = False
        request_id = f"chatcmpl-{next(self._count):032x}"
        async for output in self._engine.generate("a prompt", self._params, request_id, **PASSED):
            if not started:
                started = True
                await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": not output.finished})


async def receive() -> dict[str, Any]:
    """The request's body."""
    return {"type": "http.request", "body": b"{}", "more_body": False}


async def send(_: Any) -> None:
    """Discard it."""


def scope() -> dict[str, Any]:
    """One chat request."""
    return {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": HEADERS,
        "server": ("10.0.0.7", 8000),
    }
