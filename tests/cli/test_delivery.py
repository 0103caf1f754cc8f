"""A probe is sent, and its outcome is reported with the next step."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests.certs
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from ai_otel.doctor.export import delivery
from ai_otel.doctor.export.checks import _STEPS, check_export
from ai_otel.doctor.export.reach import Reach
from ai_otel.doctor.finding import Finding, Level


def traces(**otel: str) -> Finding:
    """What is said of the traces."""
    variables = {f"OTEL_{name}": value for name, value in otel.items()}
    return next(
        each for each in check_export({"OTEL_METRICS_EXPORTER": "none", **variables}) if each.subject == "traces"
    )


def reach_of(finding: Finding) -> str:
    reach: str = finding.details["reach"]
    return reach


@pytest.fixture(autouse=True)
def _untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporters read the environment for arguments that are not passed."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


# ---------------------------------------------------------------- over HTTP


def test_an_endpoint_that_takes_it_gets_one_span_and_one_point(sink) -> None:
    found = list(check_export({"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url}))
    assert [(each.subject, each.level, reach_of(each)) for each in found] == [
        ("traces", Level.OK, "accepted"),
        ("metrics", Level.OK, "accepted"),
    ]
    (span,) = sink.spans
    assert (span.name, span.resource["service.name"]) == ("ai-otel doctor", "ai-otel-doctor")
    (metric,) = sink.metrics[0].resource_metrics[0].scope_metrics[0].metrics
    assert metric.name == "ai_otel.record.open"
    assert [point.as_int for point in metric.sum.data_points] == [0]


@pytest.mark.parametrize("direct", [True, False])
def test_the_emitter_is_reported_and_is_the_servers(sink, direct: bool) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url, "OTEL_METRICS_EXPORTER": "none"}
    found = next(iter(check_export(variables, direct=direct)))
    emitter = "direct" if direct else "sdk"
    assert (found.subject, found.level, found.details["emitter"]) == ("traces", Level.OK, emitter)
    assert found.says.endswith(f"accepted (emitter: {emitter})")
    assert [span.name for span in sink.spans] == ["ai-otel doctor"]


def test_headers_are_sent_and_only_their_names_are_reported(answering) -> None:
    with answering(200) as url:
        found = traces(EXPORTER_OTLP_ENDPOINT=url, EXPORTER_OTLP_HEADERS="Authorization=Bearer%20s3cret,x-team=blue")
    assert found.level is Level.OK
    assert found.details["headers"] == ["authorization", "x-team"]
    assert "authorization, x-team" in found.says
    assert "s3cret" not in repr(found)


def test_a_password_in_the_endpoint_is_not_printed(answering) -> None:
    with answering(200) as url:
        found = traces(EXPORTER_OTLP_ENDPOINT=url.replace("://", "://me:s3cret@"))
    assert found.level is Level.OK
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize(
    ("status", "next_step"),
    [
        (302, "follows no redirect"),
        (400, "does it want https"),
        (401, "OTEL_EXPORTER_OTLP_HEADERS"),
        (404, "is this a Collector's otlp port?"),
        (500, "See the server's log."),
        (503, "overloaded or not ready"),
    ],
)
def test_a_bad_status_is_reported_once_with_the_next_step(answering, status: int, next_step: str) -> None:
    """Exporters retry for up to a minute; the doctor reports the first response."""
    began = time.monotonic()
    with answering(status, {"Location": "http://127.0.0.1:1/"}) as url:
        found = traces(EXPORTER_OTLP_ENDPOINT=url)
    assert (found.level, found.details["status"]) == (Level.WRONG, status)
    assert next_step in found.next_step
    assert time.monotonic() - began < 5


def test_an_endpoint_of_one_signal_without_a_path_is_recognised(answering) -> None:
    """The SDK adds /v1/traces to the general variable only: the most common mistake there is."""
    with answering(404) as url:
        found = traces(EXPORTER_OTLP_TRACES_ENDPOINT=url)
    assert found.next_step.startswith(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is taken as it stands: end it with /v1/traces"
    )


def test_a_partial_success_is_reported(answering) -> None:
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 1
    answer.partial_success.error_message = "over quota"
    with answering(200, {"Content-Type": "application/x-protobuf"}, answer.SerializeToString()) as url:
        found = traces(EXPORTER_OTLP_ENDPOINT=url)
    assert (found.level, reach_of(found)) == (Level.WRONG, "partly accepted")
    assert "over quota" in found.says


@pytest.mark.fault("configuration", "no Collector listens", "`ai-otel doctor` names the endpoint and the next step")
def test_a_closed_port_asks_whether_a_collector_listens(closed_port) -> None:
    found = traces(EXPORTER_OTLP_ENDPOINT=closed_port)
    assert (found.level, reach_of(found)) == (Level.WRONG, "connection refused")
    assert "Start a Collector there" in found.next_step
    assert "status.hostIP" in found.next_step


@pytest.mark.fault("configuration", "the endpoint never answers", "`ai-otel doctor` ends at its time limit and says so")
def test_a_black_hole_is_no_answer_and_does_not_keep_us(black_hole, monkeypatch) -> None:
    monkeypatch.setattr(delivery, "ATTEMPT_S", 0.5)
    began = time.monotonic()
    found = traces(EXPORTER_OTLP_ENDPOINT=black_hole)
    assert (found.level, reach_of(found)) == (Level.WRONG, "no answer")
    assert time.monotonic() - began < 5


def test_an_unknown_host_name_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver is replaced: a real one may time out."""

    def not_found(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", not_found)
    found = traces(EXPORTER_OTLP_ENDPOINT="http://collector.invalid:4318")
    assert (found.level, reach_of(found)) == (Level.WRONG, "name not found")
    assert "Kubernetes service is NAME.NAMESPACE.svc" in found.next_step


def test_https_to_a_plain_port_is_a_tls_error(answering) -> None:
    with answering(200) as url:
        found = traces(EXPORTER_OTLP_ENDPOINT=url.replace("http:", "https:"))
    assert (found.level, reach_of(found)) == (Level.WRONG, "TLS error")
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in found.next_step


@pytest.mark.fault(
    "configuration", "the endpoint's certificate is unknown", "`ai-otel doctor` names the variable for the CA"
)
def test_an_unknown_certificate_is_a_tls_error_and_a_known_one_is_accepted(answering, certificate, monkeypatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with answering(200, certificate=certificate) as url:
        assert reach_of(traces(EXPORTER_OTLP_ENDPOINT=url)) == "TLS error"
        known = traces(EXPORTER_OTLP_ENDPOINT=url, EXPORTER_OTLP_CERTIFICATE=str(certificate))
    assert reach_of(known) == "accepted", known.says


def test_a_failing_certificate_names_the_variables_that_override_it(answering, certificate, tmp_path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(Path(requests.certs.where()).read_bytes())
    with answering(200, certificate=certificate) as url:
        found = traces(EXPORTER_OTLP_ENDPOINT=url, EXPORTER_OTLP_CERTIFICATE=str(other))
    assert reach_of(found) == "TLS error"
    assert "REQUESTS_CA_BUNDLE" in found.next_step


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://collector:4318", "http://collector:port", "http://[::1"])
def test_a_malformed_endpoint_is_reported_with_an_example(endpoint: str) -> None:
    found = {each.subject: each for each in check_export({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})}
    malformed = found["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert (malformed.level, malformed.next_step) == (Level.WRONG, "Write it like http://HOST:4318.")
    assert found["traces"].details["endpoint"] == "http://localhost:4318/v1/traces"


@pytest.mark.fault(
    "configuration",
    "OTEL_SDK_DISABLED is set",
    "`ai-otel doctor` says which variable to unset, and no package to install",
)
def test_a_disabled_sdk_is_not_asked_to_send(sink) -> None:
    found = traces(EXPORTER_OTLP_ENDPOINT=sink.url, SDK_DISABLED="true")
    assert reach_of(found) == "not tried"
    assert found.next_step == "Unset OTEL_SDK_DISABLED."
    assert sink.spans == []


@pytest.mark.fault(
    "configuration",
    "an `OTEL_*` variable of a server has a value that the SDK cannot read",
    "`ai-otel doctor` builds the exporters as the server does: it names the variable, exits with 1, and its span and "
    "point arrive",
)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROPAGATORS", "tracecontext,baggage,ottrace"),
        ("METRICS_EXEMPLAR_FILTER", "bogus"),
        ("ATTRIBUTE_VALUE_LENGTH_LIMIT", "-1"),
        ("SPAN_ATTRIBUTE_COUNT_LIMIT", "abc"),
        ("BSP_MAX_QUEUE_SIZE", "0"),
        ("METRIC_EXPORT_INTERVAL", "-1"),
        ("EXPORTER_OTLP_TRACES_TIMEOUT", "soon"),
        ("EXPORTER_OTLP_CERTIFICATE", "/no/such/file.pem"),
    ],
)
def test_a_value_that_the_sdk_cannot_read_is_named(sink, name: str, value: str) -> None:
    found = {
        each.subject: each for each in check_export({"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url, f"OTEL_{name}": value})
    }
    assert found[f"OTEL_{name}"].level is Level.WRONG
    assert {signal: reach_of(found[signal]) for signal in ("traces", "metrics")} == {
        "traces": "accepted",
        "metrics": "accepted",
    }
    assert len(sink.spans) == len(sink.metrics) == 1


def test_one_point_is_sent_at_any_interval(sink) -> None:
    list(check_export({"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url, "OTEL_METRIC_EXPORT_INTERVAL": "1"}))
    assert len(sink.metrics) == 1


def test_an_unsampled_probe_is_sent_all_the_same(sink) -> None:
    list(check_export({"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url, "OTEL_TRACES_SAMPLER": "always_off"}))
    assert len(sink.spans) == 1


def test_other_exporters_are_named_and_not_tried() -> None:
    assert traces(TRACES_EXPORTER="none").says == "go nowhere: the exporter is none"
    assert traces(TRACES_EXPORTER="console").says == "go to the exporter console; it is not tried"


def test_an_unknown_protocol_is_reported(closed_port) -> None:
    found = {each.subject: each for each in check_export({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})}
    assert found["OTEL_EXPORTER_OTLP_PROTOCOL"].next_step == "Write http/protobuf or grpc."


def test_a_configuration_file_decides_alone(tmp_path: Path) -> None:
    (found,) = check_export({"OTEL_CONFIG_FILE": str(tmp_path / "otel.yaml")})
    assert found.level is Level.NOTE


# ---------------------------------------------------------------- over gRPC


class Taking(TraceServiceServicer):
    """Takes spans, and remembers them."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []

    def Export(self, request: Any, context: Any) -> ExportTraceServiceResponse:
        self.requests.append(request)
        self.metadata.append({item.key: item.value for item in context.invocation_metadata()})
        return ExportTraceServiceResponse()


@contextmanager
def over_grpc(service: Any) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def test_grpc_gets_its_span_and_its_headers() -> None:
    service = Taking()
    with over_grpc(service) as url:
        found = traces(
            EXPORTER_OTLP_PROTOCOL="grpc", EXPORTER_OTLP_ENDPOINT=url, EXPORTER_OTLP_HEADERS="authorization=s3cret"
        )
    assert (found.level, reach_of(found)) == (Level.OK, "accepted")
    spans = [
        span for request in service.requests for each in request.resource_spans for span in each.scope_spans[0].spans
    ]
    assert [span.name for span in spans] == ["ai-otel doctor"]
    assert {each["authorization"] for each in service.metadata} == {"s3cret"}


def test_grpc_without_this_signal_is_reported() -> None:
    with over_grpc(Taking()) as url:
        found = {each.subject: each for each in check_export(
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": url}
        )}  # fmt: skip
    assert found["traces"].level is Level.OK
    assert found["metrics"].details["status"] == "UNIMPLEMENTED"
    assert "add a pipeline for it to the Collector" in found["metrics"].next_step


def test_grpc_that_requires_credentials_is_reported() -> None:
    class Strict(Taking):
        def Export(self, request: Any, context: Any) -> Any:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")

    with over_grpc(Strict()) as url:
        found = traces(EXPORTER_OTLP_PROTOCOL="grpc", EXPORTER_OTLP_ENDPOINT=url)
    assert found.details["status"] == "UNAUTHENTICATED"
    assert "no token" in found.says
    assert "OTEL_EXPORTER_OTLP_HEADERS" in found.next_step


def test_grpc_to_a_closed_port_is_refused(closed_port) -> None:
    assert reach_of(traces(EXPORTER_OTLP_PROTOCOL="grpc", EXPORTER_OTLP_ENDPOINT=closed_port)) == "connection refused"


def test_grpc_to_a_port_that_speaks_http_is_another_protocol(answering) -> None:
    with answering(200) as url:
        found = traces(EXPORTER_OTLP_PROTOCOL="grpc", EXPORTER_OTLP_ENDPOINT=url)
    assert (found.level, reach_of(found)) == (Level.WRONG, "another protocol")
    assert "4318" in found.next_step


@pytest.mark.fault(
    "configuration", "the protocol does not match the port", "`ai-otel doctor` names the variable to set"
)
def test_http_to_a_port_that_speaks_grpc_is_another_protocol() -> None:
    with over_grpc(Taking()) as url:
        found = traces(EXPORTER_OTLP_ENDPOINT=url)
    assert (found.level, reach_of(found)) == (Level.WRONG, "another protocol")


def test_grpc_without_a_scheme_means_tls(answering) -> None:
    """`host:4317` is what people write, and the SDK then speaks TLS to a plain port."""
    with over_grpc(Taking()) as url:
        found = traces(EXPORTER_OTLP_PROTOCOL="grpc", EXPORTER_OTLP_ENDPOINT=url.removeprefix("http://"))
    assert reach_of(found) == "TLS error"
    assert f"write {url} if the server speaks plain text" in found.next_step


# ---------------------------------------------------------------- a server with TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key in the same file."""
    folder = tmp_path_factory.mktemp("tls")
    key, file = folder / "key.pem", folder / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(file)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not on PATH; next: install openssl")
    file.write_bytes(file.read_bytes() + key.read_bytes())
    return file


def test_every_way_to_fail_has_a_next_step() -> None:
    assert set(Reach) - set(_STEPS) == {Reach.ACCEPTED}
