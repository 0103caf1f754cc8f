"""What `doctor` says of an endpoint is what the SDK's own exporter makes of the same variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from opentelemetry.exporter.otlp.proto.grpc import exporter as grpc_exporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter

from ai_otel.doctor.export.destination import Destination, destinations
from ai_otel.inputs.otel import check

EXPORTERS: Mapping[tuple[str, str], Any] = {
    ("traces", "http/protobuf"): HttpSpanExporter,
    ("metrics", "http/protobuf"): HttpMetricExporter,
    ("traces", "grpc"): GrpcSpanExporter,
    ("metrics", "grpc"): GrpcMetricExporter,
}

ENDPOINTS = ("http://c:4318", "http://c:4318/", "https://c", "https://c/otlp", "c:4317", "http://c:4317")
VARIABLES = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINTS,
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ENDPOINTS,
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": ENDPOINTS,
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("grpc", "http/protobuf"),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("grpc", "http/protobuf"),
    "OTEL_EXPORTER_OTLP_INSECURE": ("true", "false"),
    "OTEL_EXPORTER_OTLP_TRACES_INSECURE": ("true", "false"),
}

environments = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in VARIABLES.items()})


@given(environment=environments)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_endpoint_and_tls_are_resolved_as_the_sdk_does(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    with monkeypatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        channels = watched_channels(patch)
        for goal in destinations(environment):
            exporter = EXPORTERS[goal.signal, goal.protocol]()
            if goal.protocol == "grpc":
                address = urlsplit(goal.endpoint).netloc or goal.endpoint
                assert channels.pop() == (address, goal.secure), goal
            else:
                assert exporter._endpoint == goal.endpoint, goal
            exporter.shutdown()


def watched_channels(patch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The channels that gRPC exporters open: address, and whether they speak TLS."""
    opened: list[tuple[str, bool]] = []

    def watch(name: str, secure: bool) -> None:
        original = getattr(grpc_exporter, name)

        def open_channel(address: str, *arguments: Any, **options: Any) -> Any:
            opened.append((address, secure))
            return original(address, *arguments, **options)

        patch.setattr(grpc_exporter, name, open_channel)

    watch("insecure_channel", secure=False)
    watch("secure_channel", secure=True)
    return opened


def only(**otel: str) -> Destination:
    return next(iter(destinations(check({f"OTEL_{name}": value for name, value in otel.items()}).values)))


def test_defaults_are_the_local_collectors_ports() -> None:
    assert only().shown == "http://localhost:4318/v1/traces"
    assert only(EXPORTER_OTLP_PROTOCOL="grpc").shown == "http://localhost:4317"


def test_an_empty_variable_is_an_unset_one() -> None:
    """As OpenTelemetry's specification has it."""
    assert only(TRACES_EXPORTER="", EXPORTER_OTLP_ENDPOINT="", EXPORTER_OTLP_PROTOCOL="") == only()


def test_a_signals_own_variable_wins() -> None:
    goal = only(EXPORTER_OTLP_HEADERS="a=1", EXPORTER_OTLP_TRACES_HEADERS="b=2", EXPORTER_OTLP_COMPRESSION="gzip")
    assert (goal.header_names, goal.compression) == (["b"], "gzip")


def test_several_exporters_are_several_destinations() -> None:
    goals = list(destinations({"OTEL_TRACES_EXPORTER": "otlp, console", "OTEL_METRICS_EXPORTER": "none"}))
    assert [(goal.signal, goal.exporter) for goal in goals] == [
        ("traces", "otlp"),
        ("traces", "console"),
        ("metrics", "none"),
    ]
