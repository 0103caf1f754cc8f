"""One request to an OpenAI-compatible server, and what its client saw of the response."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass(slots=True)
class Call:
    """A request, and its response as the client saw it. Times are nanoseconds on the wall clock."""

    name: str
    path: str
    body: dict[str, Any]
    hang_up_after: int | None = None
    """Close the connection after this many chunks with output."""
    request_id: str | None = None
    """Sent as `X-Request-Id`."""
    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))
    status: int | None = None
    usage: dict[str, Any] | None = None
    """The server's own count of tokens."""
    chunks: int = 0
    """Chunks of a stream that carried output."""
    answer: Any = None
    """The body of a response that is not a stream, if it is JSON."""
    sent_ns: int = 0
    first_token_ns: int | None = None
    left_ns: int | None = None
    """When the client hung up."""

    @property
    def traceparent(self) -> str:
        """The header that makes this client the parent of the server's span."""
        return f"00-{self.trace_id}-{self.span_id}-01"

    @property
    def headers(self) -> dict[str, str]:
        """The request's headers."""
        named = {} if self.request_id is None else {"X-Request-Id": self.request_id}
        return {"traceparent": self.traceparent, **named}

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt by the server's count; 0 without one."""
        return (self.usage or {}).get("prompt_tokens") or 0

    @property
    def output_tokens(self) -> int:
        """Generated tokens by the server's count; 0 without one."""
        return (self.usage or {}).get("completion_tokens") or 0

    def add(self, event: dict[str, Any]) -> None:
        """Note one event of a stream."""
        nested = event.get("response") or {}
        self.usage = event.get("usage") or nested.get("usage") or self.usage
        if carries_output(event):
            self.chunks += 1
            if self.first_token_ns is None:
                self.first_token_ns = time.time_ns()


def carries_output(event: dict[str, Any]) -> bool:
    """Whether an event of a stream carries output: a chat stream begins with one that only names the role."""
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


async def send(http: httpx.AsyncClient, call: Call, add: Callable[[dict[str, Any]], None] | None = None) -> None:
    """
    Send a call and note its response in it.

    `add` is called with each event of a stream, `Call.add` without it. Raises what httpx raises, and `ValueError` for a
    response that says it is JSON and is not.
    """
    call.sent_ns = time.time_ns()
    if not call.body.get("stream"):
        response = await http.post(call.path, json=call.body, headers=call.headers)
        call.status = response.status_code
        if response.headers.get("content-type", "").startswith("application/json"):
            call.answer = response.json()
        if isinstance(call.answer, dict):
            call.usage = call.answer.get("usage")
        return
    async with http.stream("POST", call.path, json=call.body, headers=call.headers) as response:
        call.status = response.status_code
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            (add or call.add)(json.loads(line.removeprefix("data: ")))
            if call.hang_up_after is not None and call.chunks >= call.hang_up_after:
                call.left_ns = time.time_ns()
                return  # leaving the block closes the connection
