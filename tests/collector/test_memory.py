"""Requests that cost most for their size, from several senders at once, in the memory of a container."""

from __future__ import annotations

import gzip
import http.client
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from harness.collector.hostile import field, nested, with_attribute
from harness.collector.memory import Container, container
from harness.collector.process import Collector, composed, running
from harness.polling import eventually
from harness.telemetry.traffic import PROTOBUF, Senders, batches

pytestmark = pytest.mark.requires(part="collector")

ROUNDS = 3
GROWN = 1_040_000
"""Bytes of a request, uncompressed: just within the limit."""
# Container memory in MiB, and how many such requests at once it survives: the table of docs/collector.md.
SIZES = {512: 4, 1024: 16, 2048: 32}

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
    """So many senders of one request, each `ROUNDS` times."""

    def __init__(self, send: Callable[[], object], count: int) -> None:
        self.answers: Counter[object] = Counter()
        self._send = send
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    def __enter__(self) -> Attackers:  # noqa: PYI034 - Self is younger than Python 3.10
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(120)

    def _run(self) -> None:
        for _ in range(ROUNDS):
            self.answers[self._send()] += 1


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
    return set(re.findall('"spanId":"([0-9a-f]{16})"', (directory / "out.jsonl").read_text()))


@pytest.mark.fault(
    "collector",
    "four clients (512 MiB of memory) to 32 (2 GiB) at once send half a million empty items each, 2 kB compressed",
    "the container stays within its memory, and other senders' data arrives when they retry",
)
@pytest.mark.parametrize(
    ("mebibytes", "name", "send"),
    [
        *((512, name, by_http) for name in ATTACKS),
        (512, "spans", by_grpc),
        (1024, "spans", by_http),
        (2048, "spans", by_http),
    ],
)
def test_requests_that_grow_most_fit_into_the_container(
    tmp_path: Path, mebibytes: int, name: str, send: Callable[[Collector, Attack], object]
) -> None:
    with contained(tmp_path, mebibytes) as (collector, room):
        attack = ATTACKS[name]
        work = batches(50, 20)
        with Senders(collector.ports["http"], work, threads=2, pause_s=0.1) as good:
            with Attackers(lambda: send(collector, attack), SIZES[mebibytes]) as attackers:
                pass
            survived(collector, room, attackers.answers)
            assert good.join(60)
        ids = {each.hex() for batch in work for each in batch.ids}
        assert {each.hex() for each in good.acknowledged} == ids
        eventually(lambda: ids <= arrived(tmp_path), 20)


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
