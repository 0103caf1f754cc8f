"""Sends one span or metric point through the SDK's exporter and reports the outcome."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.util.re import parse_env_headers
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema

from ai_otel import semconv
from ai_otel.doctor.export.destination import Destination
from ai_otel.doctor.export.reach import Reach, chain, classify
from ai_otel.doctor.logs import captured_messages
from ai_otel.instruments import observable
from ai_otel.providers import PROTOCOLS
from ai_otel.version import __version__

SERVICE = "ai-otel-doctor"
SPAN = "ai-otel doctor"
ATTEMPT_S = 3.0
"""Timeout of an exporter in seconds. Name resolution has none, so it is abandoned after twice this time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of the export. `detail` is the message of the server or of the failing library."""

    reach: Reach
    detail: str = ""
    status: int | str | None = None
    """The HTTP status, or the name of the gRPC one."""


def deliver_all(destinations: Sequence[Destination]) -> dict[Destination, Verdict]:
    """Try all OTLP destinations at the same time."""
    verdicts = dict.fromkeys(destinations, Verdict(Reach.NO_ANSWER))

    def attempt(destination: Destination) -> None:
        verdicts[destination] = deliver(destination)

    with captured_messages("opentelemetry"):
        # Daemon threads: one that hangs does not keep the process alive.
        threads = [threading.Thread(target=attempt, args=(destination,), daemon=True) for destination in destinations]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * ATTEMPT_S)
    return verdicts


def deliver(destination: Destination) -> Verdict:
    """Send one span or one metric."""
    if destination.address is None:
        return Verdict(Reach.MALFORMED)
    try:
        exporter_class = _exporter_class(destination)
    except (ImportError, TypeError) as error:
        return Verdict(Reach.NOT_TRIED, f"its exporter cannot be loaded: {error}")
    if exporter_class is None:
        return Verdict(Reach.NOT_TRIED, f"no exporter {PROTOCOLS[destination.protocol]} is installed")
    data = probe_span() if destination.signal == "traces" else probe_metric()
    if not data:
        return Verdict(Reach.NOT_TRIED, "OTEL_SDK_DISABLED is set")
    send = _over_grpc if destination.protocol == "grpc" else _over_http
    return send(destination, exporter_class, data)


def _exporter_class(destination: Destination) -> type[Any] | None:
    for entry in entry_points(
        group=f"opentelemetry_{destination.signal}_exporter", name=PROTOCOLS[destination.protocol]
    ):
        loaded: type[Any] = entry.load()
        return loaded
    return None


# The data.


def _resource() -> Resource:
    return Resource(
        {
            semconv.SERVICE_NAME: SERVICE,
            semconv.TELEMETRY_DISTRO_NAME: "ai-otel",
            semconv.TELEMETRY_DISTRO_VERSION: __version__,
        }
    )


def probe_span() -> Any:
    """One span; empty where the SDK is disabled."""
    kept = InMemorySpanExporter()
    provider = TracerProvider(sampler=ALWAYS_ON, resource=_resource(), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    provider.get_tracer("ai_otel").start_span(SPAN).end()
    return kept.get_finished_spans()


def probe_metric() -> Any:
    """One point of a metric of the contract: the records that are open here, 0; `None` where the SDK is disabled."""

    def open_here(_: CallbackOptions | None = None) -> Iterator[Observation]:
        yield Observation(0)

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], resource=_resource(), shutdown_on_exit=False)
    observable(provider.get_meter("ai_otel"), semconv.AI_OTEL_RECORD_OPEN, open_here)
    return reader.get_metrics_data()


# Over HTTP: the exporter's session keeps the response.


class _Answered(Exception):
    """Ends the exporter's retries: the server has answered, or cannot."""


class _Session(requests.Session):
    """Keeps the outcome of the first request."""

    def __init__(self, signal: str) -> None:
        super().__init__()
        self.signal = signal
        self.verdict: Verdict | None = None

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        # Newer exporters follow no redirect; older ones would turn the export into a GET.
        options["allow_redirects"] = False
        try:
            response = super().request(*arguments, **options)
        except (requests.RequestException, OSError) as error:
            self.verdict = _http_failure(error)
            raise _Answered from error
        self.verdict = _http_verdict(self.signal, response)
        if self.verdict.reach is not Reach.ACCEPTED:
            raise _Answered
        return response


def _over_http(destination: Destination, exporter_class: type[Any], data: Any) -> Verdict:
    session = _Session(destination.signal)
    exporter = exporter_class(
        endpoint=destination.endpoint,
        certificate_file=destination.certificate,
        client_key_file=destination.client_key,
        client_certificate_file=destination.client_certificate,
        headers=parse_env_headers(destination.headers, liberal=True),
        timeout=ATTEMPT_S,
        compression=Compression(destination.compression),
        session=session,
    )
    try:
        exporter.export(data)
    except _Answered:
        exporter.shutdown()
    return session.verdict or Verdict(Reach.NO_ANSWER)


def _http_failure(error: Exception) -> Verdict:
    if isinstance(error, (InvalidSchema, InvalidURL, MissingSchema)):
        return Verdict(Reach.MALFORMED, str(error))
    innermost = list(chain(error))[-1]
    return Verdict(classify(error) or Reach.UNREACHABLE, str(innermost))


def _http_verdict(signal: str, response: requests.Response) -> Verdict:
    status = response.status_code
    if not 200 <= status < 300:
        return Verdict(Reach.STATUS, response.reason or "", status)
    left_out = _left_out(signal, response)
    return Verdict(Reach.PARTLY if left_out else Reach.ACCEPTED, left_out, status)


def _left_out(signal: str, response: requests.Response) -> str:
    """The server's reason, where it answered 200 but took not everything."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    answer: Any = ExportTraceServiceResponse() if signal == "traces" else ExportMetricsServiceResponse()
    if "protobuf" not in response.headers.get("Content-Type", ""):
        return ""
    try:
        answer.ParseFromString(response.content)
    except DecodeError:
        return ""
    partial = answer.partial_success
    count = partial.rejected_spans if signal == "traces" else partial.rejected_data_points
    return (partial.error_message or f"{count} left out") if count else ""


# Over gRPC: an empty request first, because the exporter does not expose the server's response.


def _over_grpc(destination: Destination, exporter_class: type[Any], data: Any) -> Verdict:
    from ai_otel.doctor.export import grpc_call

    try:
        credentials = grpc_call.credentials(destination) if destination.secure else None
    except OSError as error:
        return Verdict(Reach.TLS, f"{error.filename}: {error.strerror}")
    refusal = grpc_call.refusal(destination, credentials, ATTEMPT_S)
    if refusal is not None:
        return Verdict(*refusal)
    exporter = exporter_class(
        endpoint=destination.endpoint,
        insecure=not destination.secure,
        credentials=credentials,
        headers=parse_env_headers(destination.headers, liberal=True),
        timeout=ATTEMPT_S,
    )
    done = exporter.export(data).name == "SUCCESS"
    exporter.shutdown()
    return Verdict(Reach.ACCEPTED) if done else Verdict(Reach.STATUS, "an empty request is taken, this one is not")
