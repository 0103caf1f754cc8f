"""The SDK's exporters, over HTTP and gRPC, send what is written directly as they send the SDK's spans."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc_module
from opentelemetry.exporter.otlp.proto.http import trace_exporter as http_module
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExportResult

from ai_otel.direct import sending
from ai_otel.direct.sending import agrees, directly, encode
from ai_otel.direct.tracer import DirectTracerProvider

MODULES = {module.__name__: module for module in (http_module, grpc_module)}
EXPORTERS = [http_module.OTLPSpanExporter, grpc_module.OTLPSpanExporter]


class Ended(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[Any] = []

    def on_end(self, span: Any) -> None:
        self.spans.append(span)


def made(number: int, *, scopes: int = 1) -> list[Any]:
    ended = Ended()
    provider = DirectTracerProvider(resource=Resource({"service.name": "test"}), shutdown_on_exit=False)
    provider.add_span_processor(ended)
    tracers = [provider.get_tracer(f"scope {index}") for index in range(scopes)]
    for index in range(number):
        tracers[index % scopes].start_span(f"span {index}", Context(), attributes={"index": index}).end()
    return ended.spans


def names(request: Any) -> list[str]:
    return [span.name for each in request.resource_spans for scope in each.scope_spans for span in scope.spans]


def test_a_request_groups_spans_by_their_scope() -> None:
    request = ExportTraceServiceRequest.FromString(encode(made(4, scopes=2)))
    assert names(request) == ["span 0", "span 2", "span 1", "span 3"]
    assert [scope.scope.name for each in request.resource_spans for scope in each.scope_spans] == ["scope 0", "scope 1"]
    assert encode([]) == b""


def test_the_size_of_a_request_is_known_before_it_is_written() -> None:
    spans = made(20)
    size = sum(len(span.encoded) for span in spans) + spans[0].overhead
    assert len(encode(spans)) <= size <= len(encode(spans)) + 20


def test_this_version_of_the_sdk_encodes_spans_as_we_do() -> None:
    assert agrees()


@pytest.mark.parametrize("exporter", EXPORTERS, ids=["http", "grpc"])
@pytest.mark.fault(
    "export", "another version of the SDK encodes spans in another way", "spans are made and encoded by the SDK"
)
def test_where_the_sdk_encodes_spans_differently_the_sdk_does_it(
    exporter: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def differently(spans: Any) -> Any:
        request = encode_spans(spans)
        request.resource_spans[0].scope_spans[0].spans[0].flags |= 1
        return request

    assert directly(exporter) is not None
    monkeypatch.setattr(sending, "encode_spans", differently)
    assert not agrees()
    assert directly(exporter) is None


@pytest.mark.parametrize("exporter", EXPORTERS, ids=["http", "grpc"])
def test_an_exporter_of_another_kind_is_left_as_it_is(exporter: type[Any]) -> None:
    class Changed(exporter):  # type: ignore[misc]
        pass

    without = type("OTLPSpanExporter", (), {"__module__": exporter.__module__, "export": lambda *_: None})
    assert [directly(each) for each in (ConsoleSpanExporter, Changed, without)] == [None] * 3


@pytest.mark.parametrize("exporter", EXPORTERS, ids=["http", "grpc"])
@pytest.mark.fault(
    "export",
    "the application replaces what encodes spans in the SDK's exporters, such as to redact them",
    "spans are made and encoded by the SDK, with the replacement",
)
def test_an_encoder_that_the_application_replaced_is_used(exporter: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULES[exporter.__module__], "encode_spans", functools.partial(encode_spans))
    assert directly(exporter) is None


@pytest.mark.parametrize("exporter", EXPORTERS, ids=["http", "grpc"])
def test_only_what_encodes_differs(exporter: type[Any]) -> None:
    direct = directly(exporter)
    assert direct is not None
    assert issubclass(direct, exporter)
    assert (direct.__name__, direct.__module__) == (exporter.__name__, exporter.__module__)
    own = {name for name in vars(direct) if not name.startswith("__")} - {"_abc_impl", "__parameters__"}
    assert len(own - {"direct"}) == 1
    # The SDK's module, and so every other exporter, is as it was.
    assert vars(MODULES[exporter.__module__])["encode_spans"] is encode_spans


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What an exporter over HTTP would send."""
    import requests

    bodies: list[bytes] = []

    def request(*_: Any, **options: Any) -> requests.Response:
        bodies.append(options["data"])
        response = requests.Response()
        response.status_code = 200
        return response

    monkeypatch.setattr(requests.Session, "request", request)
    return bodies


def test_what_is_sent_is_what_was_written(sent: list[bytes]) -> None:
    direct = directly(http_module.OTLPSpanExporter)
    assert direct is not None
    exporter, spans = direct(endpoint="http://127.0.0.1:9/v1/traces"), made(3)
    assert exporter.export(spans) is SpanExportResult.SUCCESS
    assert sent == [encode(spans)]
    exporter.shutdown()
    assert exporter.export(spans) is SpanExportResult.FAILURE
    assert len(sent) == 1
