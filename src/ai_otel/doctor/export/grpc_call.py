"""One empty OTLP request over gRPC, which a server has to accept, and why it does not."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped, unused-ignore]
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.util.re import parse_env_headers

from ai_otel.doctor.export.destination import Destination
from ai_otel.doctor.export.reach import Reach, classify

_CALLS: dict[str, tuple[Any, Any]] = {
    "traces": (TraceServiceStub, ExportTraceServiceRequest),
    "metrics": (MetricsServiceStub, ExportMetricsServiceRequest),
}


def credentials(destination: Destination) -> Any:
    """TLS as the variables ask for it; raises `OSError` where a file cannot be read."""
    files = (destination.certificate, destination.client_key, destination.client_certificate)
    return grpc.ssl_channel_credentials(*(Path(file).read_bytes() if file else None for file in files))


def refusal(destination: Destination, secrets: Any, timeout_s: float) -> tuple[Reach, str, str | None] | None:
    """What keeps the server from accepting: how far we got, the reason, the status. `None` where it accepts."""
    target = urlsplit(destination.endpoint).netloc or destination.endpoint
    stub, request = _CALLS[destination.signal]
    channel = grpc.secure_channel(target, secrets) if destination.secure else grpc.insecure_channel(target)
    headers = tuple(parse_env_headers(destination.headers, liberal=True).items())
    try:
        with channel:
            stub(channel).Export(request(), metadata=headers, timeout=timeout_s)
    except grpc.RpcError as error:
        status = error.code().name
        if status in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            return (*_knock(destination), None)
        return Reach.STATUS, error.details() or "", status
    return None


def _knock(destination: Destination) -> tuple[Reach, str]:
    """Name, connection, TLS: the first that fails."""
    if destination.address is None:
        return Reach.MALFORMED, ""
    try:
        with socket.create_connection(destination.address, timeout=1) as connection:
            if destination.secure:
                _handshake(connection, destination)
    except OSError as error:
        return classify(error) or Reach.UNREACHABLE, str(error)
    return Reach.OTHER_PROTOCOL, "something listens there, but does not answer gRPC"


def _handshake(connection: socket.socket, destination: Destination) -> None:
    context = ssl.create_default_context(cafile=destination.certificate)
    if destination.client_certificate:
        context.load_cert_chain(destination.client_certificate, destination.client_key)
    with context.wrap_socket(connection, server_hostname=destination.address[0] if destination.address else None):
        pass
