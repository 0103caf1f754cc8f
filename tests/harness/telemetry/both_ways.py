"""Compares, for every record that a test emits, the spans of the SDK's tracer with those that are written directly."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NoOpTracer

from ai_otel.direct.sending import encode
from ai_otel.direct.tracer import DirectTracerProvider
from ai_otel.emit.spans import SpanEmitter


class CountingIds(RandomIdGenerator):
    """1, 2, 3: the same in every run."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def generate_span_id(self) -> int:
        return next(self._numbers)

    def generate_trace_id(self) -> int:
        return next(self._numbers)


class Ended(SpanProcessor):
    """Keeps what ended."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def emitted(kind: type[TracerProvider], emitter: SpanEmitter, record: Any, engine: str) -> list[Any]:
    """The spans of a record, by an emitter like this one on a provider of its own."""
    ended = Ended()
    provider = kind(resource=Resource({"service.name": "test"}), shutdown_on_exit=False, id_generator=CountingIds())
    provider.add_span_processor(ended)
    twin = SpanEmitter(
        provider.get_tracer("test", "1", "https://example.com/schema"),
        same_provider=emitter._same_provider,
        foreign=emitter._foreign,
        phases=emitter._phases,
        keep_engine_spans=emitter._keep_engine_spans,
    )
    twin.emit(record, engine)
    return ended.spans


def compare(emitter: SpanEmitter, record: Any, engine: str) -> None:
    """Fail where the two ways differ for this record."""
    by_sdk = encode_spans(emitted(TracerProvider, emitter, record, engine))
    directly = ExportTraceServiceRequest.FromString(encode(emitted(DirectTracerProvider, emitter, record, engine)))
    assert directly == by_sdk, f"{directly}\n\ninstead of\n\n{by_sdk}"


def compare_record(record: Any, engine: str) -> None:
    """Fail where the two ways differ for this record, emitted with the default settings."""
    compare(SpanEmitter(NoOpTracer(), same_provider=False), record, engine)


@contextmanager
def compared(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """While the block runs, every record is compared before it is emitted; those that were."""
    emit, within, records = SpanEmitter.emit, threading.local(), []
    differences: list[AssertionError] = []

    def both(self: SpanEmitter, record: Any, engine: str) -> Any:
        if not getattr(within, "on", False):
            within.on = True
            try:
                compare(self, record, engine)
                records.append(record)
            except AssertionError as difference:
                differences.append(difference)
            finally:
                within.on = False
        return emit(self, record, engine)

    monkeypatch.setattr(SpanEmitter, "emit", both)
    yield records
    if differences:
        raise differences[0]


@pytest.fixture(autouse=True)
def emitted_both_ways(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every record of a test is compared. Import it into a module or a conftest.py."""
    with compared(monkeypatch) as records:
        yield records
