"""
A local OTLP/HTTP receiver: `python benchmarks/sink.py [PORT]`. It acknowledges and counts, and decodes nothing.

Counts are by the first segment of the path, so that several servers export to one sink: an endpoint is
`http://127.0.0.1:PORT/<name>`. `GET /counts` returns them; `GET /keep` begins to keep bodies, `GET /bodies` returns
and drops those that were kept.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import sys
from collections import defaultdict

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
ENCODING = re.compile(rb"\r\ncontent-encoding: *(\S+)", re.IGNORECASE)
ACKNOWLEDGED = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"


class State:
    """What arrived."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, int]] = defaultdict(lambda: {"requests": 0, "bytes": 0})
        self.bodies: list[dict[str, str]] | None = None

    def accept(self, path: str, encoding: str, body: bytes) -> bytes:
        """Return the response."""
        if path == "/counts":
            return page(self.counts)
        if path in {"/keep", "/bodies"}:
            kept, self.bodies = self.bodies, [] if path == "/keep" else None
            return page(kept or [])
        name, _, signal = path.lstrip("/").partition("/v1/")
        count = self.counts[f"{name}/{signal}"]
        count["requests"] += 1
        count["bytes"] += len(body)
        if self.bodies is not None:
            text = base64.b64encode(body).decode()
            self.bodies.append({"name": name, "signal": signal, "encoding": encoding, "body": text})
        return ACKNOWLEDGED


def page(value: object) -> bytes:
    """A response with a value as JSON."""
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


class Connection(asyncio.Protocol):
    """One client, whose connection stays open."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where responses go."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each complete request."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end])
            length = int(found[1]) if (found := LENGTH.search(head)) else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            encoding = found[1].decode() if (found := ENCODING.search(head)) else ""
            self._transport.write(self._state.accept(head.split(b" ", 2)[1].decode(), encoding, body))


async def main(port: int) -> None:
    """Listen until the process is ended; the first line of the output is the port."""
    state = State()
    listener = socket.create_server(("127.0.0.1", port))
    server = await asyncio.get_running_loop().create_server(lambda: Connection(state), sock=listener)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
