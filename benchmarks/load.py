"""A client that costs little: HTTP over raw connections, each of which sends a request when its last one ended."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from measure import percentile

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
EVENT = b"data: {"
LAST = b"0\r\n\r\n"


class LoadError(RuntimeError):
    """A request failed, or did not end."""


@dataclass
class Times:
    """What a client saw, in seconds."""

    ended: int = 0
    failed: int = 0
    took_s: list[float] = field(default_factory=list)
    """Of each request that is no stream."""
    first_s: list[float] = field(default_factory=list)
    """To the first event of each stream."""
    between_s: list[float] = field(default_factory=list)
    """Between two events of a stream."""

    def summary(self, wall_s: float) -> dict[str, float]:
        """What is compared, in milliseconds and per second."""
        found = {"throughput": self.ended / wall_s}
        for name, values in (("call", self.took_s), ("first", self.first_s), ("between", self.between_s)):
            for share in (0.5, 0.99) if values else ():
                found[f"{name}_p{share * 100:.0f}"] = percentile(values, share) * 1e3
        return found


class Connection(asyncio.Protocol):
    """One client: takes requests from an iterator that others take from too."""

    def __init__(self, requests: Iterator[bytes], times: Times) -> None:
        self._requests = requests
        self._times = times
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
            return
        self._head: bytes | None = None
        self._buffer = b""
        self._events = 0
        self._began = self._last = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Count events, and end the request with its last byte."""
        now = time.perf_counter()
        self._buffer += data
        if self._head is None:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            self._head, self._buffer = head, rest
        if (length := LENGTH.search(self._head)) is not None:
            if len(self._buffer) >= int(length[1]):
                self._times.took_s.append(now - self._began)
                self._end()
            return
        self._count(now)
        if self._buffer.endswith(LAST):
            self._end()
        else:
            self._buffer = self._buffer[-len(EVENT) + 1 :]  # an event, or the end, may be divided

    def _count(self, now: float) -> None:
        events = self._buffer.count(EVENT)
        if not events:
            return
        if self._events:
            # Those that arrive together share the time since the one before.
            self._times.between_s += [(now - self._last) / events] * events
        else:
            self._times.first_s.append(now - self._began)
        self._events, self._last = self._events + events, now

    def _end(self) -> None:
        assert self._head is not None
        self._times.ended += 1
        self._times.failed += not self._head.startswith(b"HTTP/1.1 200")
        self._next()

    def connection_lost(self, _: Exception | None) -> None:
        """Have the load end."""
        if not self.done.done():
            self.done.set_result(None)


def request(path: str, body: Mapping[str, Any]) -> bytes:
    """The bytes of one."""
    text = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(text)}"
    return head.encode() + b"\r\n\r\n" + text


async def drive(port: int, clients: Sequence[tuple[int, Sequence[bytes]]]) -> dict[str, float]:
    """Send requests by so many connections each, all at once; what was seen. Raises `LoadError` where one failed."""
    times = Times()
    loop, started = asyncio.get_running_loop(), time.perf_counter()
    waiting = []
    for connections, requests in clients:
        shared = iter(requests)
        for _ in range(connections):
            _, client = await loop.create_connection(lambda left=shared: Connection(left, times), "127.0.0.1", port)
            waiting.append(client.done)
    await asyncio.gather(*waiting)
    wall_s = time.perf_counter() - started
    sent = sum(len(requests) for _, requests in clients)
    if times.failed or times.ended != sent:
        raise LoadError(f"of {sent} requests {times.ended} ended and {times.failed} failed")
    return times.summary(wall_s)
