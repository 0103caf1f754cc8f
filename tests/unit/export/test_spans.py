"""Batches are split below a receiver's limit, and bisected where it refuses one; all of it is counted."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Tracer

from ai_otel.direct.sending import encode
from ai_otel.direct.tracer import DirectTracerProvider
from ai_otel.export import spans as export
from ai_otel.export.counts import ExportCounts
from ai_otel.export.redirects import Redirects
from ai_otel.export.spans import (
    MAX_EXTRA_REQUESTS,
    MAX_FUTILE_REQUESTS,
    BoundedSpanExporter,
    size_of,
    split,
)
from ai_otel.testing import captured
from records import EVERY_KIND, HEADERS, deliver

TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("test")
DIRECT = DirectTracerProvider(shutdown_on_exit=False).get_tracer("test")


def made(number: int, tracer: Tracer = TRACER) -> list[ReadableSpan]:
    spans: list[Any] = [tracer.start_span(f"span {index}", attributes={"index": index}) for index in range(number)]
    for span in spans:
        span.end()
    return spans


def index_of(span: ReadableSpan) -> int:
    return int(span.name.removeprefix("span "))


class Receiver(SpanExporter):
    """Accepts or refuses requests as a whole."""

    def __init__(self, accepts: Callable[[Sequence[ReadableSpan]], bool]) -> None:
        self.accepts = accepts
        self.requests: list[int] = []
        self.arrived: list[int] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.requests.append(len(spans))
        if not self.accepts(spans):
            return SpanExportResult.FAILURE
        self.arrived += map(index_of, spans)
        return SpanExportResult.SUCCESS


def without(*culprits: int) -> Callable[[Sequence[ReadableSpan]], bool]:
    return lambda spans: set(culprits).isdisjoint(map(index_of, spans))


def counted(counts: ExportCounts) -> tuple[int, int, int]:
    """Sent, failed, dropped."""
    return counts.sent["traces"], counts.failed["traces"], counts.dropped["traces"]


# ---------------------------------------------------------------- size


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_the_size_of_a_span_is_no_less_than_its_encoding(kind: str) -> None:
    state = ",".join(f"v{number}={'x' * 200}" for number in range(30))
    with captured(attach=False, engine="fake") as telemetry:
        record = EVERY_KIND[kind]()
        record.headers = {**HEADERS, "tracestate": state}
        deliver(telemetry, record)
        spans = telemetry.spans
    for span in spans:
        encoded = encode_spans([span]).resource_spans[0].scope_spans[0].spans[0].ByteSize()
        assert encoded <= size_of(span) <= 2 * encoded + 200


def size_by_sdk(spans: Sequence[ReadableSpan]) -> int:
    return int(encode_spans(spans).ByteSize())


def size_of_encoded(spans: Sequence[Any]) -> int:
    return len(encode(spans))


@pytest.mark.parametrize(("tracer", "size"), [(TRACER, size_by_sdk), (DIRECT, size_of_encoded)], ids=["sdk", "direct"])
def test_a_batch_is_split_below_the_limit(tracer: Tracer, size: Callable[[Any], int]) -> None:
    spans = made(100, tracer)
    for limit in (1, 3000, 5000, 10**9):
        parts = list(split(spans, limit))
        assert [span for part in parts for span in part] == spans
        assert all(len(part) == 1 or size(part) <= limit for part in parts)
    assert len(list(split(spans, 5000))) < 20
    assert list(split([], 5000)) == []


def test_the_size_of_an_encoded_span_is_exact() -> None:
    spans = made(9, DIRECT)
    assert size_of(spans[-1]) == size_of_encoded(spans) - size_of_encoded(spans[:-1])


@pytest.mark.fault(
    "export", "a batch of spans is larger than a receiver accepts", "it is sent in requests of at most 1 MB each"
)
def test_requests_stay_below_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MAX_REQUEST_BYTES", 10_000)
    receiver, counts = Receiver(lambda spans: encode_spans(spans).ByteSize() <= 10_000), ExportCounts()
    assert BoundedSpanExporter(receiver, counts).export(made(400)) is SpanExportResult.SUCCESS
    assert sorted(receiver.arrived) == list(range(400))
    assert counted(counts) == (400, 0, 0)


def test_the_collector_accepts_the_largest_request() -> None:
    limits = (Path(__file__).parents[3] / "collector-config/features/limits.yaml").read_text(encoding="utf-8")
    (most,) = re.findall(r"AI_OTEL_HTTP_BYTES:-(\d+)", limits)
    (mib,) = re.findall(r"AI_OTEL_GRPC_MIB:-(\d+)", limits)
    assert int(most) > export.MAX_REQUEST_BYTES
    assert int(mib) * 2**20 > export.MAX_REQUEST_BYTES


# ---------------------------------------------------------------- refused


@pytest.mark.fault(
    "export",
    "a receiver refuses a batch because of a few spans in it",
    "the batch is bisected: the others arrive, these are counted in ai_otel.export.failed and logged once",
)
@pytest.mark.parametrize("culprits", [(0,), (511,), (7, 300), (100, 101, 102, 400)], ids=str)
def test_the_rest_of_a_refused_batch_arrives(culprits: tuple[int, ...], caplog: pytest.LogCaptureFixture) -> None:
    receiver, counts = Receiver(without(*culprits)), ExportCounts()
    exporter = BoundedSpanExporter(receiver, counts)
    for _ in range(2):
        assert exporter.export(made(512)) is SpanExportResult.FAILURE
    assert sorted(receiver.arrived) == sorted(2 * list(set(range(512)) - set(culprits)))
    assert counted(counts) == (1024 - 2 * len(culprits), 2 * len(culprits), 0)
    assert len(receiver.requests) <= 2 * (1 + MAX_EXTRA_REQUESTS)
    (line,) = caplog.messages
    assert line.startswith("ai-otel: the receiver refuses the span 'span ")


def test_many_culprits_cost_a_limited_number_of_requests() -> None:
    receiver, counts = Receiver(without(*range(0, 512, 3))), ExportCounts()
    BoundedSpanExporter(receiver, counts).export(made(512))
    assert len(receiver.requests) == 1 + MAX_EXTRA_REQUESTS
    assert 0 < len(receiver.arrived) == 512 - counts.failed["traces"]


@pytest.mark.fault(
    "export",
    "a receiver refuses everything",
    "after 20 more requests each later batch is two requests, the second with one span, until one succeeds",
)
def test_a_receiver_that_refuses_all_is_asked_twice_for_each_later_batch() -> None:
    receiver, counts = Receiver(lambda _: False), ExportCounts()
    exporter = BoundedSpanExporter(receiver, counts)
    for _ in range(3):
        exporter.export(made(512))
    assert len(receiver.requests) == 3 + MAX_FUTILE_REQUESTS + 2
    assert receiver.requests[-2:] == [512, 1]
    assert counted(counts) == (0, 3 * 512, 0)
    receiver.accepts = without(5)
    exporter.export(made(4))
    exporter.export(made(512))
    assert counted(counts) == (4 + 511, 3 * 512 + 1, 0)


@pytest.mark.fault(
    "export",
    "the receiver refuses everything for a while, and from then on each batch has a span that it refuses",
    "the rest of each batch arrives",
)
def test_after_an_outage_batches_with_a_refused_span_are_bisected() -> None:
    receiver, counts = Receiver(lambda _: False), ExportCounts()
    exporter = BoundedSpanExporter(receiver, counts)
    exporter.export(made(100))
    receiver.accepts = without(0)
    for _ in range(10):
        exporter.export(made(100))
    assert counted(counts) == (10 * 99, 100 + 10, 0)
    assert sorted(receiver.arrived) == sorted(10 * [*range(1, 100)])


class Time:
    """A clock that each request advances."""

    def __init__(self, *took_s: float) -> None:
        self.now_s = 0.0
        self._took_s = list(took_s)

    def monotonic(self) -> float:
        return self.now_s

    def request(self, answer: bool) -> bool:
        self.now_s += self._took_s.pop(0) if len(self._took_s) > 1 else self._took_s[0]
        return answer


@pytest.mark.parametrize(
    ("took_s", "requests"),
    [((10.0,), 1), ((0.0, 10.0), 2), ((0.4,), 14), ((0.0,), 1 + MAX_FUTILE_REQUESTS)],
    ids=["not answered", "not answered any more", "slow", "quick"],
)
def test_bisecting_ends_with_the_answers_and_with_the_time(
    monkeypatch: pytest.MonkeyPatch, took_s: tuple[float, ...], requests: int
) -> None:
    clock = Time(*took_s)
    monkeypatch.setattr(export, "time", clock)
    receiver, counts = Receiver(lambda _: clock.request(answer=False)), ExportCounts()
    BoundedSpanExporter(receiver, counts).export(made(512))
    assert len(receiver.requests) == requests
    assert counted(counts) == (0, 512, 0)


def test_after_the_shutdown_nothing_is_bisected() -> None:
    receiver, counts = Receiver(lambda _: False), ExportCounts()
    exporter = BoundedSpanExporter(receiver, counts)
    exporter.shutdown()
    exporter.export(made(512))
    assert receiver.requests == [512]
    assert counted(counts) == (0, 512, 0)


def test_what_an_exporter_raises_is_raised_and_counted() -> None:
    def broken(spans: Sequence[ReadableSpan]) -> bool:
        raise ValueError

    counts = ExportCounts()
    with pytest.raises(ValueError):  # noqa: PT011 - it has no text
        BoundedSpanExporter(Receiver(broken), counts).export(made(5))
    assert counted(counts) == (0, 5, 0)


def test_a_redirect_is_a_failure_that_is_not_bisected(caplog: pytest.LogCaptureFixture) -> None:
    redirects, counts = Redirects(), ExportCounts()

    def redirected(_: Any) -> bool:
        redirects.saw("http://user:secret@old/v1/traces?key=secret", 301, "https://new/v1/traces?key=secret")
        return True  # as the SDK's exporter takes it

    exporter = BoundedSpanExporter(Receiver(redirected), counts, redirects)
    with caplog.at_level(logging.INFO):
        assert [exporter.export(made(5)) for _ in range(2)] == [SpanExportResult.FAILURE] * 2
    assert counted(counts) == (0, 10, 0)
    (line,) = caplog.messages
    assert "http://***@old/v1/traces?key=*** answers 301, Location: https://new/v1/traces?key=***; " in line


def test_flush_and_shutdown_reach_the_exporter() -> None:
    class Listening(Receiver):
        ended: Any = None

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return timeout_millis == 7

        def shutdown(self, timeout_millis: float = 30_000) -> None:
            self.ended = timeout_millis

    receiver = Listening(lambda _: True)
    exporter = BoundedSpanExporter(receiver, ExportCounts())
    assert exporter.force_flush(7)
    exporter.shutdown(timeout_millis=9)
    assert receiver.ended == 9


def test_an_endpoint_that_is_not_reached_is_a_failed_export() -> None:
    """As the exporters of the oldest supported SDK say it."""

    class Unreached(SpanExporter):
        calls = 0

        def export(self, spans: Any) -> SpanExportResult:
            self.calls += 1
            raise ConnectionRefusedError

    unreached, counts = Unreached(), ExportCounts()
    exporter = BoundedSpanExporter(unreached, counts)
    assert exporter.export(made(8)) is SpanExportResult.FAILURE
    assert (unreached.calls, counts.failed["traces"], counts.sent["traces"]) == (1, 8, 0)
