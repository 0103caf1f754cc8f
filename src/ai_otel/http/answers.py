"""
What an OpenAI-shaped answer says of itself: model, id, finish reasons, and the server's own token counts.

The bytes pass through as they are. The first and the last of them are kept, within a limit, and read after the answer
has ended: `usage` is the last thing that servers write, be it in a JSON object or in a stream of server-sent events.
What cannot be read without doubt from these bytes is absent.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

HEAD_BYTES = 1024
"""Of the beginning: `id` and `model` come before the answer."""
TAIL_BYTES = 8192
"""Of the end; a smaller answer is kept whole."""

_USAGE = re.compile(rb'(?<=[,{])\s*"usage"\s*:\s*\{')
_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_SCAN = json.JSONDecoder()


class AnswerValues(NamedTuple):
    """What the server says; `None` where it says nothing."""

    request_id: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    finish_reasons: tuple[str, ...] | None = None
    streamed: bool = False
    """A stream of server-sent events."""


class Answer:
    """The body of one response while it passes. `streamed` says that it is a stream of server-sent events."""

    __slots__ = ("_head", "_pending", "_size", "_tail", "_tail_size", "streamed")

    def __init__(self, *, streamed: bool) -> None:
        self.streamed = streamed
        self._head = b""
        self._pending: list[bytes] = []
        self._tail: deque[bytes] = deque()
        self._tail_size = self._size = 0

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> Answer | None:
        """The answer that begins with these headers; `None` where nothing in it can be read."""
        streamed = None
        for name, value in headers:
            key = name.lower()
            if key == b"content-type":
                kind = value.partition(b";")[0].strip().lower()
                streamed = {b"application/json": False, b"text/event-stream": True}.get(kind)
            elif key == b"content-encoding" and value.strip().lower() != b"identity":
                return None
        return None if streamed is None else cls(streamed=streamed)

    def takes(self, body: object) -> bool:
        """Note a small piece, of which streams have many, without checking it; `False` where `saw` must."""
        pending = self._pending
        if type(body) is bytes and len(body) <= _SMALL_BYTES and len(pending) < _MAX_PENDING:
            pending.append(body)
            return True
        return False

    def saw(self, body: bytes) -> None:
        """Note a piece of the body. Memory and time are bounded, however large and many the pieces are."""
        self.gather()
        self._note(body)

    def gather(self) -> None:
        """Keep of the small pieces what is needed."""
        if self._pending:
            joined = b"".join(self._pending)
            self._pending.clear()
            self._note(joined)

    def _note(self, body: bytes) -> None:
        size = len(body)
        if size > TAIL_BYTES:
            if self._size < HEAD_BYTES:
                self._head += bytes(body[: HEAD_BYTES - self._size])
            body = body[-TAIL_BYTES:]
        elif self._size < HEAD_BYTES:
            self._head += bytes(body[: HEAD_BYTES - self._size])
        self._size += size
        tail = self._tail
        tail.append(bytes(body))
        self._tail_size += len(body)
        while self._tail_size - len(tail[0]) >= TAIL_BYTES:
            self._tail_size -= len(tail.popleft())
        if len(tail) > _MAX_PIECES:
            joined = b"".join(tail)[-TAIL_BYTES:]
            tail.clear()
            tail.append(joined)
            self._tail_size = len(joined)

    @property
    def kept_bytes(self) -> int:
        """About how many bytes it keeps in memory."""
        pending = sum(len(body) for body in self._pending)
        return len(self._head) + self._tail_size + pending + 64 * (len(self._tail) + len(self._pending))

    def read(self) -> AnswerValues:
        """What a complete answer says."""
        self.gather()
        tail = b"".join(self._tail)[-TAIL_BYTES:]
        whole = tail if self._size <= TAIL_BYTES else None
        if self.streamed:
            return _of_events(list(_events(self._head, tail, whole)))
        if whole is not None:
            return _of_object(_loads(whole))
        return _of_object({**_first_members(self._head), **_last_members(tail)})


_SMALL_BYTES, _MAX_PENDING = 1024, 64
_MAX_PIECES = 256
"""A server may send single bytes."""
_MAX_TRIES = 4
"""At finding the answer's own `usage` among others."""


def _loads(text: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _first_members(head: bytes) -> dict[str, Any]:
    """The members of an object that are whole within its beginning."""
    text = head.decode("utf-8", "replace")
    members: dict[str, Any] = {}
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        return members
    while text[at : at + 1] in ("{", ","):
        try:
            key, at = _SCAN.raw_decode(text, _skip(text, at + 1))
            at = _skip(text, at)
            if text[at : at + 1] != ":":
                break
            value, at = _SCAN.raw_decode(text, _skip(text, at + 1))
        except (ValueError, RecursionError):
            break
        at = _skip(text, at)
        if text[at : at + 1] not in (",", "}"):
            break  # a number that goes on
        members[key] = value
    return members


def _skip(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def _last_members(tail: bytes) -> Mapping[str, Any]:
    """
    The members of an object from `usage` to its end.

    Inside a string the quotes around `usage` would be escaped; inside another object the rest would have one
    closing brace too many.
    """
    for match in reversed(list(_USAGE.finditer(tail))[-_MAX_TRIES:]):
        members = _loads(b"{" + tail[match.start() :])
        if members:
            return members
    return {}


def _events(head: bytes, tail: bytes, whole: bytes | None) -> Iterator[Mapping[str, Any]]:
    """The events that are whole: the first ones, for what all of them say, and the last ones."""
    if whole is None:
        yield from map(_event, _EVENT_END.split(head)[:-1])
    parts = _EVENT_END.split(tail)
    yield from map(_event, parts if whole is not None else parts[1:])


def _event(text: bytes) -> Mapping[str, Any]:
    lines = [line[5:].lstrip(b" ") for line in text.splitlines() if line.startswith(b"data:")]
    return _loads(b"\n".join(lines)) if lines and lines != [b"[DONE]"] else {}


def _of_events(events: list[Mapping[str, Any]]) -> AnswerValues:
    merged: dict[str, Any] = {}
    reasons: dict[Any, Any] = {}
    for event in events:
        for name in ("id", "model", "usage"):
            if event.get(name):
                merged[name] = event[name]
        for choice in _choices(event):
            if choice.get("finish_reason"):
                reasons[choice.get("index", 0)] = choice["finish_reason"]
    merged["choices"] = [{"finish_reason": reason} for _, reason in sorted(reasons.items(), key=str)]
    return _of_object(merged)._replace(streamed=True)


def _of_object(answer: Mapping[str, Any]) -> AnswerValues:
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = _first(usage, ("prompt_tokens_details", "input_tokens_details"))
    choices = _choices(answer)
    reasons = [reason for choice in choices if isinstance(reason := choice.get("finish_reason"), str)]
    return AnswerValues(
        _text(answer.get("id")),
        _text(answer.get("model")),
        _count(_first(usage, ("prompt_tokens", "input_tokens"))),
        _count(_first(usage, ("completion_tokens", "output_tokens"))),
        _count(details.get("cached_tokens")) if isinstance(details, dict) else None,
        tuple(reasons) if choices and len(reasons) == len(choices) else None,
    )


def _choices(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    choices = answer.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _first(values: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None
