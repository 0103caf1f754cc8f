"""Telemetry as senders make it: spans with exact values, and clients that know what was acknowledged."""

from __future__ import annotations

import http.client
import itertools
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

PROTOBUF = {"Content-Type": "application/x-protobuf"}
OK, ERROR = Status.STATUS_CODE_OK, Status.STATUS_CODE_ERROR


def value(of: Any) -> AnyValue:
    """An attribute's value; a list becomes an array."""
    if isinstance(of, bool):
        return AnyValue(bool_value=of)
    if isinstance(of, int):
        return AnyValue(int_value=of)
    if isinstance(of, float):
        return AnyValue(double_value=of)
    if isinstance(of, (list, tuple)):
        return AnyValue(array_value=ArrayValue(values=[value(item) for item in of]))
    return AnyValue(string_value=str(of))


def attributes(of: Mapping[str, Any]) -> list[KeyValue]:
    """Attributes of anything."""
    return [KeyValue(key=key, value=value(item)) for key, item in of.items()]


def span(
    name: str,
    trace_id: bytes,
    span_id: bytes,
    *,
    parent: bytes = b"",
    kind: int = Span.SPAN_KIND_SERVER,
    duration_s: float = 0.1,
    status: int = OK,
    **more: Any,
) -> Span:
    """One span that ends now; `attributes` is a mapping."""
    end = time.time_ns()
    return Span(
        name=name,
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent,
        kind=kind,
        start_time_unix_nano=end - round(duration_s * 1e9),
        end_time_unix_nano=end,
        status=Status(code=status),
        attributes=attributes(more.get("attributes", {})),
    )


def spans_request(
    spans: Iterable[Span], *, scope: str = "another", resource: Mapping[str, Any] | None = None
) -> ExportTraceServiceRequest:
    """Spans of one scope and one resource."""
    scoped = ScopeSpans(scope=InstrumentationScope(name=scope), spans=spans)
    of = Resource(attributes=attributes(resource or {"service.name": "another"}))
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=of, scope_spans=[scoped])])


def post(port: int, body: bytes, path: str = "/v1/traces", *, timeout_s: float = 10) -> tuple[int, bytes]:
    """Send one OTLP/HTTP request to this machine; status and answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("POST", path, body, PROTOBUF)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@dataclass
class Batch:
    """One request of a sender, and the spans in it."""

    ids: tuple[bytes, ...]
    body: bytes


def batches(count: int, size: int, padding: int = 200) -> list[Batch]:
    """`count` requests of `size` spans, every id once."""
    source = random.Random(count * size)
    made = []
    for number in range(count):
        ids = tuple(source.randbytes(8) for _ in range(size))
        filler = source.randbytes(padding // 2).hex()
        spans = [span("work", source.randbytes(16), one, attributes={"n": number, "text": filler}) for one in ids]
        made.append(Batch(ids, spans_request(spans).SerializeToString()))
    return made


@dataclass
class Senders:
    """
    Clients that send batches as OTLP/HTTP asks it: what was refused for now, or not answered, is sent again.

    `acknowledged` holds the ids of every batch that was answered with 200 and without a rejection.
    """

    port: int
    work: Sequence[Batch]
    threads: int = 3
    give_up: bool = False
    """Leave a batch after its first refusal."""
    pause_s: float = 0.0
    acknowledged: set[bytes] = field(default_factory=set)
    refused: dict[int, int] = field(default_factory=dict)
    """How often each status other than 200 was the answer; 0 for no answer."""

    def __enter__(self) -> Senders:  # noqa: PYI034 - Self is younger than Python 3.10
        self._stop = threading.Event()
        self._next = iter(self.work)
        self._lock = threading.Lock()
        self._running = [threading.Thread(target=self._run, daemon=True) for _ in range(self.threads)]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.join()

    def join(self, timeout_s: float = 120) -> bool:
        """Wait until all was sent; whether it was."""
        deadline = time.monotonic() + timeout_s
        for thread in self._running:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._running)

    def _take(self) -> Batch | None:
        with self._lock:
            return next(self._next, None)

    def _run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while (batch := self._take()) and not self._stop.is_set():
            while not self._stop.is_set():
                connection, status = self._send(connection, batch)
                if status == 200:
                    break
                with self._lock:
                    self.refused[status] = self.refused.get(status, 0) + 1
                if self.give_up:
                    break
                self._stop.wait(0.05)
            self._stop.wait(self.pause_s)
        if connection is not None:
            connection.close()

    def _send(self, connection: http.client.HTTPConnection | None, batch: Batch) -> tuple[Any, int]:
        try:
            connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            connection.request("POST", "/v1/traces", batch.body, PROTOBUF)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            if connection is not None:
                connection.close()
            return None, 0
        if answer.status == 200:
            rejected = ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans
            if rejected:
                return connection, -1
            with self._lock:
                self.acknowledged.update(batch.ids)
        return connection, answer.status


def grouped(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The items, `size` at a time."""
    source = iter(items)
    while chunk := list(itertools.islice(source, size)):
        yield chunk
