"""Requests that cost most for their size, from several senders at once, in the memory of a container."""

from __future__ import annotations

import gzip
import http.client
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from harness.collector.hostile import field, nested, with_attribute
from harness.collector.memory import Container, container
from harness.collector.process import Collector, composed, running
from harness.polling import eventually
from harness.telemetry.traffic import PROTOBUF, Senders, batches, span, spans_request

pytestmark = pytest.mark.requires(part="collector")

ROUNDS = 2
GROWN = 1_040_000
"""Bytes of a request, uncompressed: just within the limit."""

Attack = tuple[str, bytes]
"""The signal, and the body."""


def of_points(kind: int, points: bytes) -> bytes:
    """A request with one metric; `kind` is the number of its field in `Metric`."""
    return field(1, field(2, field(2, field(1, b"m") + field(kind, points))))


def repeated(element: bytes, size: int = GROWN) -> bytes:
    return element * (size // len(element))


SPAN = field(1, b"t" * 16) + field(2, b"s" * 8)
ATTACKS: Mapping[str, Attack] = {
    "spans": ("trace", field(1, field(2, repeated(b"\x12\x00")))),
    "events": ("trace", field(1, field(2, field(2, SPAN + repeated(b"\x5a\x00"))))),
    "nested": ("trace", with_attribute(nested(110_000))),
    "logs": ("logs", field(1, field(2, repeated(b"\x12\x00")))),
    "histograms": ("metrics", of_points(10, repeated(b"\x0a\x00"))),
    "exemplars": ("metrics", of_points(5, field(1, repeated(b"\x2a\x00")))),
}


class Attackers:
    """So many senders at once, each of which calls `send` `ROUNDS` times with its own number."""

    def __init__(self, send: Callable[[int], object], count: int) -> None:
        self.answers: Counter[object] = Counter()
        self._send = send
        self._threads = [threading.Thread(target=self._run, args=(each,), daemon=True) for each in range(count)]

    def __enter__(self) -> Attackers:  # noqa: PYI034 - Self is younger than Python 3.10
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(120)

    def _run(self, number: int) -> None:
        for _ in range(ROUNDS):
            self.answers[self._send(number)] += 1


def by_http(collector: Collector, attack: Attack) -> object:
    signal, body = attack
    connection = http.client.HTTPConnection("127.0.0.1", collector.ports["http"], timeout=60)
    path = f"/v1/{'traces' if signal == 'trace' else signal}"
    try:
        connection.request("POST", path, gzip.compress(body, 1), {**PROTOBUF, "Content-Encoding": "gzip"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def by_grpc(collector: Collector, attack: Attack) -> object:
    signal, body = attack
    service = f"opentelemetry.proto.collector.{signal}.v1.{signal.capitalize()}Service"
    with grpc.insecure_channel(
        f"127.0.0.1:{collector.ports['grpc']}", [("grpc.use_local_subchannel_pool", 1)], grpc.Compression.Gzip
    ) as channel:
        export = channel.unary_unary(f"/{service}/Export", request_serializer=bytes, response_deserializer=bytes)
        try:
            export(body, timeout=60)
        except grpc.RpcError as refusal:
            return refusal.code()
        return grpc.StatusCode.OK


@contextmanager
def contained(directory: Path, mebibytes: int) -> Iterator[tuple[Collector, Container]]:
    """A sidecar whose gateway is down, so that consumers of the queue hold requests; a file has what came through."""
    tree = composed(role="sidecar", engines=("vllm",), features=("local",), backends=("file", "gateway"))
    with container(mebibytes) as room:
        environment = {**room.environment, "AI_OTEL_GATEWAY_ENDPOINT": "127.0.0.1:1"}
        with running(tree, directory, environment, inside=room.inside) as collector:
            yield collector, room


def survived(collector: Collector, room: Container, answers: Counter[object]) -> None:
    peak = room.peak_mib(collector.process.pid) if collector.process.poll() is None else 0
    print(f"{room}: a peak of {peak:.0f} MiB; {dict(answers)}")
    assert collector.process.poll() is None, (room, answers, collector.output()[-2000:])
    assert peak <= room.mebibytes


def arrived(directory: Path) -> set[str]:
    """Ids of spans, read as text: some of what else is in the file is nested deeper than a parser goes."""
    # Rotated files too: nested requests are large as JSON.
    texts = (file.read_text() for file in directory.glob("out*.jsonl"))
    return {each for text in texts for each in re.findall('"spanId":"([0-9a-f]{16})"', text)}


TAKEN_OR_RETRYABLE = {200, 503, grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}

Attempt = tuple[Callable[[Collector, Attack], object], str]
EVERY: tuple[Attempt, ...] = tuple((send, name) for name in ATTACKS for send in (by_http, by_grpc))


@pytest.mark.fault(
    "collector",
    "64 clients at once send half a million empty items each, 2 kB compressed, over HTTP and gRPC, in 512 MiB to 2 GiB",
    "the container stays within its memory: requests wait or are refused, and others' data arrives when they retry",
)
@pytest.mark.parametrize(
    ("mebibytes", "count", "attempts"),
    [
        *((512, 32, EVERY[2 * at : 2 * at + 2]) for at in range(len(ATTACKS))),
        (512, 8, [(by_http, "spans")]),
        (512, 64, [(by_grpc, "spans")]),
        *((mebibytes, 64, EVERY) for mebibytes in (512, 1024, 2048)),
    ],
    ids=[*ATTACKS, "eight", "grpc", "all-512", "all-1024", "all-2048"],
)
def test_requests_that_grow_most_fit_into_the_container(
    tmp_path: Path, mebibytes: int, count: int, attempts: Sequence[Attempt]
) -> None:
    with contained(tmp_path, mebibytes) as (collector, room):

        def attack(number: int) -> object:
            send, name = attempts[number % len(attempts)]
            return send(collector, ATTACKS[name])

        work = batches(50, 20)
        with Senders(collector.ports["http"], work, threads=2, pause_s=0.1) as good:
            with Attackers(attack, count) as attackers:
                pass
            survived(collector, room, attackers.answers)
            assert good.join(60)
        assert set(attackers.answers) <= TAKEN_OR_RETRYABLE
        ids = {each.hex() for batch in work for each in batch.ids}
        assert {each.hex() for each in good.acknowledged} == ids
        eventually(lambda: ids <= arrived(tmp_path), 60)


def window_of_512_mib(content: bytes) -> bytes:
    """One frame of zstd; its reader must be able to look back 512 MiB."""
    return b"\x28\xb5\x2f\xfd\x00" + bytes([19 << 3]) + (len(content) << 3 | 1).to_bytes(3, "little") + content


@pytest.mark.fault(
    "collector",
    "clients send 60 bytes each that are packed with zstd and claim a window of 512 MiB",
    "over HTTP zstd is refused; over gRPC the request is unpacked without the window, and arrives",
)
def test_a_window_of_zstd_takes_no_memory(tmp_path: Path) -> None:
    ids = [f"window{each:02}".encode() for each in range(40)]
    packed = [window_of_512_mib(spans_request([span("one", b"t" * 16, each)]).SerializeToString()) for each in ids]
    with contained(tmp_path, 512) as (collector, room), ExitStack() as connections:
        connection = http.client.HTTPConnection("127.0.0.1", collector.ports["http"], timeout=60)
        connection.request("POST", "/v1/traces", packed[0], {**PROTOBUF, "Content-Encoding": "zstd"})
        assert connection.getresponse().status == 400
        connection.close()
        for message in packed:
            raw = socket.create_connection(("127.0.0.1", collector.ports["grpc"]), 10)
            connections.enter_context(raw).sendall(grpc_request(message, "zstd"))
        eventually(lambda: {each.hex() for each in ids} <= arrived(tmp_path), 20, collector.output)
        survived(collector, room, Counter())


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def length(number: int) -> bytes:
    """Of a text in HPACK."""
    if number < 127:
        return bytes([number])
    number -= 127
    digits = [127]
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def grpc_headers(stream: int, more: Mapping[str, str]) -> bytes:
    """Those of a request to export traces, in frames."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
        **more,
    }
    fields = b"".join(
        b"\x00" + length(len(key)) + key.encode() + length(len(value)) + value.encode()
        for key, value in headers.items()
    )
    parts = [fields[at : at + 16384] for at in range(0, len(fields), 16384)]
    frames = [frame(9 if at else 1, 4 if at == len(parts) - 1 else 0, stream, part) for at, part in enumerate(parts)]
    return b"".join(frames)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")


def grpc_request(message: bytes, encoding: str) -> bytes:
    """What a client sends to export traces, in HTTP/2: gRPC for Python cannot pack with zstd."""
    data = b"\x01" + len(message).to_bytes(4, "big") + message
    return PREFACE + grpc_headers(1, {"grpc-encoding": encoding}) + frame(0, 1, 1, data)


@pytest.mark.fault(
    "collector",
    "12 gRPC clients, which need no token for it, send eight requests each with 15 MB of headers, and no message",
    "the connections are closed at 16 kB, and the container stays within its memory",
)
def test_headers_over_grpc_take_no_memory(tmp_path: Path) -> None:
    large = {f"x{each}": "v" * 1_000_000 for each in range(15)}
    with contained(tmp_path, 512) as (collector, room), ExitStack() as connections:

        def attack(_: int) -> str:
            raw = connections.enter_context(socket.create_connection(("127.0.0.1", collector.ports["grpc"]), 10))
            try:
                raw.sendall(PREFACE)
                for stream in range(1, 17, 2):
                    raw.sendall(grpc_headers(stream, large))
            except OSError:
                return "closed"
            return "taken"

        with Attackers(attack, 12) as attackers:
            pass
        survived(collector, room, attackers.answers)
        assert room.peak_mib(collector.process.pid) < 200
        assert set(attackers.answers) == {"closed"}


@pytest.mark.fault(
    "collector",
    "gRPC requests that begin and stall, without a token, hold all the room that requests have until they are read",
    "after a second they give way to others, and these arrive",
)
def test_requests_that_stall_give_way(tmp_path: Path) -> None:
    with contained(tmp_path, 512) as (collector, _), ExitStack() as connections:
        for _ in range(5):
            raw = connections.enter_context(socket.create_connection(("127.0.0.1", collector.ports["grpc"]), 10))
            raw.sendall(PREFACE + b"".join(grpc_headers(stream, {}) for stream in range(1, 13, 2)))
        good = spans_request([span("one", b"t" * 16, b"waited01")]).SerializeToString()
        began = time.monotonic()
        eventually(lambda: by_grpc(collector, ("trace", good)) == grpc.StatusCode.OK, 8)
        assert time.monotonic() - began < 5, "they were not ended before their ten seconds"


@pytest.mark.fault(
    "collector",
    "the queue on disk holds requests of half a million empty events when the Collector starts again",
    "it starts within its memory and takes new data",
)
def test_a_queue_of_such_requests_does_not_end_the_next_start(tmp_path: Path) -> None:
    attack = ("trace", field(1, field(2, field(2, SPAN + repeated(b"\x5a\x00", 900_000)))))
    with contained(tmp_path, 512) as (collector, _):
        eventually(lambda: [by_http(collector, attack) for _ in range(8)].count(200) >= 4, 60)
        collector.process.kill()
    with contained(tmp_path, 512) as (collector, room):
        eventually(lambda: room.peak_mib(collector.process.pid) > 140, 20, "the queue was not read again")
        work = batches(20, 10)
        with Senders(collector.ports["http"], work) as good:
            assert good.join(60)
        survived(collector, room, Counter(good.refused))
        assert len(good.acknowledged) == 200
