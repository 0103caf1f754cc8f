"""ai-otel's own exporters against real receivers, on this machine's loopback: what arrives, and what is counted."""

from __future__ import annotations

import copy
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_service
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace.span import TraceState

from ai_otel import providers
from ai_otel.export.counts import ExportCounts
from harness.telemetry.receiver import receiver, spans_of, too_large

GRPC_LIMIT = 2**20
"""What the Collector accepts with its feature `limits`, a quarter of what gRPC receivers accept by default."""


@pytest.fixture(params=["direct", "sdk"])
def own(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[..., providers.Providers]:
    """Make private providers that export only when they are flushed, with either value of `AI_OTEL_EMITTER`."""
    direct = request.param == "direct"

    def make(**environment: str) -> providers.Providers:
        environment = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000", **environment}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        made = providers.own(Resource({"service.name": "test"}), environment, direct=direct)
        assert ("traces" in made.direct) is direct
        return made

    return make


def record(made: providers.Providers, number: int, **attributes: Any) -> None:
    tracer = made.tracer_provider.get_tracer("test")
    for index in range(number):
        tracer.start_span(f"span {index}", attributes=attributes).end()


def flush(made: providers.Providers) -> None:
    for provider in (made.tracer_provider, made.meter_provider):
        if not isinstance(provider, NoOpMeterProvider):
            provider.force_flush()  # type: ignore[attr-defined]


def ended(made: providers.Providers) -> ExportCounts:
    """Flush, and shut down while the receiver still answers; the counts as they were before the shutdown."""
    flush(made)
    counts = copy.deepcopy(made.exports)
    assert counts is not None
    made.shutdown()
    return counts


@pytest.mark.fault(
    "export",
    "one span of a batch is larger than the receiver accepts (413)",
    "the other spans arrive; this one is counted in ai_otel.export.failed",
)
def test_one_span_does_not_cost_the_others(own: Any, caplog: pytest.LogCaptureFixture) -> None:
    with receiver(too_large(200_000)) as (found, url):
        made = own(OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_METRICS_EXPORTER="none")
        record(made, 100)
        made.tracer_provider.get_tracer("test").start_span("culprit", attributes={"text": "x" * 300_000}).end()
        record(made, 100)
        counts = ended(made)
    assert sorted(found.spans) == sorted(2 * [f"span {index}" for index in range(100)])
    assert counts.sent == {"traces": 200}
    assert counts.failed == {"traces": 1}
    assert [line for line in caplog.messages if "refuses the span 'culprit'" in line]


@contextmanager
def grpc_receiver(keep: Callable[[Any, Any], None] = lambda _, __: None) -> Iterator[tuple[list[str], str]]:
    """A gRPC receiver with gRPC's own limit of a message. `keep` gets each request, and its context."""
    arrived: list[str] = []

    class Service(trace_service.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> ExportTraceServiceResponse:
            keep(request, context)
            arrived.extend(spans_of(request))
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.max_receive_message_length", GRPC_LIMIT)])
    trace_service.add_TraceServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield arrived, f"http://127.0.0.1:{port}"
    finally:
        server.stop(0).wait(5)


@pytest.mark.fault(
    "requests",
    "clients send `tracestate` headers of 16 kB, so that a batch exceeds the 1 MiB that the Collector accepts",
    "the batch is sent in several requests, and all spans arrive",
)
def test_a_batch_fits_a_grpc_receiver(own: Any) -> None:
    state = TraceState([(f"vendor{number}", "x" * 250) for number in range(32)])
    remote = trace.SpanContext(1, 1, is_remote=True, trace_flags=trace.TraceFlags(1), trace_state=state)
    context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    with grpc_receiver() as (arrived, url):
        made = own(OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_PROTOCOL="grpc", OTEL_METRICS_EXPORTER="none")
        tracer = made.tracer_provider.get_tracer("test")
        for index in range(511):
            tracer.start_span(f"span {index}", context, attributes={"text": "y" * 1024}).end()
        counts = ended(made)
    assert len(arrived) == 511
    assert counts.sent == {"traces": 511}


@pytest.mark.fault(
    "export",
    "an OTLP/HTTP endpoint answers with a redirect",
    "a failed export: counted in ai_otel.export.failed, and logged once with the URL to set",
)
@pytest.mark.parametrize("code", [301, 302, 303, 304, 307, 308])
def test_a_redirect_is_a_failed_export(own: Any, caplog: pytest.LogCaptureFixture, code: int) -> None:
    with receiver() as (target, final), receiver(lambda path, _: (code, {"Location": final + path})) as (_, url):
        made = own(OTEL_EXPORTER_OTLP_ENDPOINT=url)
        made.meter_provider.get_meter("test").create_counter("requests").add(1)
        for _ in range(2):
            record(made, 5)
            flush(made)
        counts = ended(made)
    assert target.methods == []
    assert counts.sent == {"traces": 0, "metrics": 0}
    assert counts.failed == {"traces": 10, "metrics": 3}
    lines = [line for line in caplog.messages if line.startswith("ai-otel:")]
    assert len(lines) == 2
    assert all(f"{url}/v1/" in line and f"answers {code}, Location: {final}/v1/" in line for line in lines)


def test_what_arrives_is_counted_as_sent(own: Any) -> None:
    with receiver() as (found, url):
        made = own(OTEL_EXPORTER_OTLP_ENDPOINT=url)
        counter = made.meter_provider.get_meter("test").create_counter("requests")
        for number in range(3):
            counter.add(1, {"number": number})
        record(made, 5)
        flush(made)
        assert (len(found.spans), found.points) == (5, 3)
        counts = ended(made)
        assert counts.sent == {"traces": 5, "metrics": 6}
        assert counts.failed == counts.dropped == {"traces": 0, "metrics": 0}


@pytest.mark.fault(
    "export",
    "spans end faster than they are exported",
    "those that the queue drops are counted in ai_otel.export.dropped",
)
def test_spans_that_the_queue_drops_are_counted(own: Any) -> None:
    answer = threading.Event()

    def slowly(_path: str, _body: bytes) -> tuple[int, dict[str, str]]:
        answer.wait(10)
        return 200, {}

    with receiver(slowly) as (found, url):
        made = own(
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
            OTEL_METRICS_EXPORTER="none",
            OTEL_BSP_MAX_QUEUE_SIZE="50",
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10",
        )
        record(made, 10)
        time.sleep(0.2)  # the first batch is on its way
        record(made, 1000)
        answer.set()
        counts = ended(made)
        assert counts.dropped["traces"] >= 900
        assert counts.sent["traces"] == len(found.spans) == 1010 - counts.dropped["traces"]


@pytest.mark.fault(
    "export",
    "the receiver is unavailable for a second (503, `UNAVAILABLE`)",
    "the SDK's exporter retries; all spans arrive",
)
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_request_is_retried(own: Any, protocol: str) -> None:
    requests: list[Any] = []

    def at_first(_path: str, _body: bytes) -> tuple[int, dict[str, str]]:
        requests.append(None)
        return (503 if len(requests) == 1 else 200), {}

    def unavailable(request: Any, context: Any) -> None:
        requests.append(request)
        if len(requests) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not ready")

    with receiver(at_first) as (found, http), grpc_receiver(unavailable) as (arrived, over_grpc):
        made = own(
            OTEL_EXPORTER_OTLP_ENDPOINT=over_grpc if protocol == "grpc" else http,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_METRICS_EXPORTER="none",
        )
        record(made, 5)
        counts = ended(made)
    assert [*found.spans, *arrived] == [f"span {index}" for index in range(5)]
    assert (counts.sent, counts.failed, len(requests)) == ({"traces": 5}, {"traces": 0}, 2)


class CountingIds(RandomIdGenerator):
    """1, 2, 3: the same in every run."""

    def __init__(self) -> None:
        numbers = itertools.count(1)
        self.generate_span_id = self.generate_trace_id = numbers.__next__  # type: ignore[method-assign]


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_same_arrives_both_ways(protocol: str, compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[ExportTraceServiceRequest] = []

    def keep(_path: str, body: bytes) -> tuple[int, dict[str, str]]:
        requests.append(ExportTraceServiceRequest.FromString(body))
        return 200, {}

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    with receiver(keep) as (_, http), grpc_receiver(lambda request, _: requests.append(request)) as (_, over_grpc):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", over_grpc if protocol == "grpc" else http)
        for direct in (True, False):
            variables = {"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
            made = providers.own(Resource({"service.name": "test"}, "https://x"), variables, direct=direct)
            assert ("traces" in made.direct) is direct
            vars(made.tracer_provider)["id_generator"] = CountingIds()
            tracer = made.tracer_provider.get_tracer("test", "1", "https://example.com/schema")
            parent = tracer.start_span("parent", Context(), attributes={"text": "é" * 500, "number": 2.5}, start_time=1)
            context = trace.set_span_in_context(parent)
            for index in range(20):
                tracer.start_span(f"child {index}", context, attributes={"index": index}, start_time=2).end(3)
            parent.end(4)
            ended(made)
    direct_request, sdk_request = requests
    assert direct_request == sdk_request
    assert len(spans_of(direct_request)) == 21


def test_an_endpoint_without_a_server_is_a_failure(own: Any) -> None:
    made = own(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TIMEOUT="1")
    made.meter_provider.get_meter("test").create_counter("requests").add(1)
    record(made, 5)
    counts = ended(made)
    assert counts.failed == {"traces": 5, "metrics": 1}
