"""A sender to a tier: its credentials, and the status that it receives."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub

from harness.certificates import Pair

TIMEOUT_S = 10


@dataclass(frozen=True)
class Sender:
    """One that knows whom it speaks to."""

    authority: Path
    """Who signed the receiver's certificate."""
    pair: Pair | None
    """Its own certificate."""
    token: str

    def grpc(self, address: str) -> str:
        """Send nothing, and return the status: OK, UNAUTHENTICATED, UNAVAILABLE (no connection)."""
        key, certificate = (self.pair.key, self.pair.certificate) if self.pair else (None, None)
        credentials = grpc.ssl_channel_credentials(
            self.authority.read_bytes(), key and key.read_bytes(), certificate and certificate.read_bytes()
        )
        with grpc.secure_channel(address, credentials) as channel:
            try:
                MetricsServiceStub(channel).Export(
                    ExportMetricsServiceRequest(), timeout=TIMEOUT_S, metadata=[("authorization", self._authorization)]
                )
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"

    def http(self, address: str) -> str:
        """The same by HTTP: the status, or the alert that ended the handshake."""
        host, _, port = address.rpartition(":")
        context = ssl.create_default_context(cafile=str(self.authority))
        if self.pair:
            context.load_cert_chain(self.pair.certificate, self.pair.key)
        connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=TIMEOUT_S)
        headers = {"Content-Type": "application/x-protobuf", "Authorization": self._authorization}
        try:
            connection.request("POST", "/v1/metrics", b"", headers)
            return str(connection.getresponse().status)
        except ssl.SSLError as error:
            return str(error.reason)
        finally:
            connection.close()

    @property
    def _authorization(self) -> str:
        return f"Bearer {self.token}"


def plain(address: str) -> str:
    """HTTP status that a sender without TLS receives."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
    try:
        connection.request("POST", "/v1/metrics", b"", {"Content-Type": "application/x-protobuf"})
        return str(connection.getresponse().status)
    finally:
        connection.close()
