from __future__ import annotations

import atexit
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, InMemoryMetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter
from opentelemetry.trace import NoOpTracerProvider

from ai_otel import providers
from ai_otel.direct.binding import BindableHistogram
from ai_otel.direct.tracer import DirectTracerProvider
from ai_otel.export import loading
from ai_otel.hooks import guard
from ai_otel.hooks.guard import strict
from ai_otel.inputs import otel
from ai_otel.providers import Providers

NOWHERE = "http://127.0.0.1:9"


def reader_without_thread(exporter: Any) -> PeriodicExportingMetricReader:
    return PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)


class Made:
    """The exporters that were made, and everything that has to be shut down again."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: list[Any] = []
        self.providers: list[Providers] = []

    def own(self, **environment: str) -> Providers:
        made = providers.own(Resource({"service.name": "test"}), environment)
        self.providers.append(made)
        return made


def class_of(exporter: Any) -> Any:
    """The SDK's class, of which a direct exporter's is a subclass."""
    return type(exporter).__base__ if getattr(exporter, "direct", False) else type(exporter)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Nothing is exported: what is made is only inspected."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", NOWHERE)
    monkeypatch.setattr(otel, "_logged", set())
    seen = Made()

    def processor(exporter: Any, _: Any) -> Any:
        seen.spans.append(exporter.wrapped)
        return SimpleNamespace(shutdown=exporter.shutdown, force_flush=lambda _=0: True)

    def reader(exporter: Any) -> InMemoryMetricReader:
        seen.metrics.append(exporter.wrapped)
        return InMemoryMetricReader()

    monkeypatch.setattr(providers, "CountedSpanProcessor", processor)
    monkeypatch.setattr(providers, "PeriodicExportingMetricReader", reader)
    yield seen
    for each in seen.providers:
        each.shutdown()
    for exporter in seen.metrics:
        exporter.shutdown()


# ---------------------------------------------------------------- our own

HTTP, GRPC = (HttpSpanExporter, HttpMetricExporter), (GrpcSpanExporter, GrpcMetricExporter)
CONSOLE = (ConsoleSpanExporter, ConsoleMetricExporter)
PROTOCOL, TRACES, METRICS = (f"OTEL_EXPORTER_OTLP_{signal}PROTOCOL" for signal in ("", "TRACES_", "METRICS_"))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, HTTP),
        ({PROTOCOL: ""}, HTTP),
        ({PROTOCOL: "http/protobuf"}, HTTP),
        ({PROTOCOL: "grpc"}, GRPC),
        ({PROTOCOL: " grpc "}, GRPC),
        ({TRACES: "grpc"}, (GrpcSpanExporter, HttpMetricExporter)),
        ({METRICS: "grpc"}, (HttpSpanExporter, GrpcMetricExporter)),
        ({PROTOCOL: "grpc", TRACES: "http/protobuf"}, (HttpSpanExporter, GrpcMetricExporter)),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp"}, HTTP),
        ({"OTEL_TRACES_EXPORTER": "", "OTEL_METRICS_EXPORTER": " "}, HTTP),
        ({"OTEL_TRACES_EXPORTER": "otlp_proto_grpc"}, (GrpcSpanExporter, HttpMetricExporter)),
        ({"OTEL_TRACES_EXPORTER": "none"}, (None, HttpMetricExporter)),
        ({"OTEL_METRICS_EXPORTER": "none"}, (HttpSpanExporter, None)),
        (
            {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "console"},
            (ConsoleSpanExporter, ConsoleMetricExporter),
        ),
    ],
    ids=str,
)
def test_the_variables_choose_the_exporters(made: Made, environment: dict[str, str], expected: tuple[Any, Any]) -> None:
    assert made.own(**environment).origin == "own"
    assert [class_of(exporter) for exporter in made.spans] == [expected[0]] * (expected[0] is not None)
    assert [class_of(exporter) for exporter in made.metrics] == [expected[1]] * (expected[1] is not None)


def test_several_exporters_may_be_named(made: Made) -> None:
    made.own(OTEL_TRACES_EXPORTER="otlp, console,none,")
    assert [class_of(exporter) for exporter in made.spans] == [HttpSpanExporter, ConsoleSpanExporter]


@pytest.mark.fault("configuration", "`OTEL_EXPORTER_OTLP_PROTOCOL` is unknown", "it is logged, and the default is used")
def test_an_unknown_protocol_is_logged_and_the_default_used(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    made.own(OTEL_EXPORTER_OTLP_PROTOCOL="http/yaml", OTEL_METRICS_EXPORTER="none")
    (logged,) = caplog.messages
    assert logged.startswith("ai-otel: OTEL_EXPORTER_OTLP_PROTOCOL='http/yaml' is invalid: ")
    assert logged.endswith("write http/protobuf or grpc; using http/protobuf")
    assert [class_of(exporter) for exporter in made.spans] == [HttpSpanExporter]


@pytest.mark.fault("configuration", "an exporter's name is unknown", "it is logged, and the others are used")
def test_an_unknown_exporter_is_logged_and_the_others_are_used(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    made.own(OTEL_TRACES_EXPORTER="zipkin_old,otlp", OTEL_METRICS_EXPORTER="none")
    (logged,) = caplog.messages
    assert logged == (
        "ai-otel: OTEL_TRACES_EXPORTER='zipkin_old,otlp' is invalid: "
        "zipkin_old is not in opentelemetry_traces_exporter, is its package installed?; using otlp"
    )
    assert [class_of(exporter) for exporter in made.spans] == [HttpSpanExporter]


@pytest.mark.fault("configuration", "an exporter cannot be made", "the others are used")
def test_an_exporter_that_cannot_be_made_does_not_take_the_others_with_it(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise ValueError("no such compression")

    load = loading.load
    monkeypatch.setattr(loading, "load", lambda group, name: refuse if "otlp" in name else load(group, name))
    monkeypatch.setattr(guard, "errors", Counter())
    made.own(OTEL_TRACES_EXPORTER="otlp,console", OTEL_METRICS_EXPORTER="otlp,console")
    assert [class_of(exporter) for exporter in made.spans] == [ConsoleSpanExporter]
    assert [class_of(exporter) for exporter in made.metrics] == [ConsoleMetricExporter]
    assert "exporter otlp failed" in caplog.messages[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COMPRESSION", "bogus"),
        ("TRACES_COMPRESSION", "bogus"),
        ("METRICS_TIMEOUT", ""),
        ("TIMEOUT", "soon"),
        ("CERTIFICATE", "/no/such/file.pem"),
        ("INSECURE", "perhaps"),
        ("HEADERS", "Authorization: Bearer s3cret"),
    ],
)
def test_exporters_over_grpc_are_made_beside_values_that_cannot_be_read(
    made: Made, name: str, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    made.own(OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert [class_of(exporter) for exporter in (*made.spans, *made.metrics)] == list(GRPC)
    assert [message.split("=")[0].split(" is ")[0] for message in caplog.messages] == (
        [f"ai-otel: OTEL_EXPORTER_OTLP_{name}"] if value else []
    )


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION"])
@pytest.mark.parametrize("compression", ["none", "deflate"])
@pytest.mark.fault(
    "configuration",
    "the compression is `none` or `deflate`, and the protocol gRPC, whose exporters in the SDK raise for both",
    "telemetry is exported uncompressed; `deflate` is logged",
)
def test_exporters_over_grpc_are_made_without_compression(
    made: Made, name: str, compression: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(name, compression)
    made.own(OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert [class_of(exporter) for exporter in (*made.spans, *made.metrics)] == list(GRPC)
    assert {message.split("=")[1] for message in caplog.messages} == (
        {"'deflate' is invalid: write gzip or none, for gRPC; using none"} if compression == "deflate" else set()
    )


def test_a_reader_may_be_named_as_an_exporter(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the Prometheus one is: nothing pushes, a server reads."""
    readers: list[Any] = []

    def meter_provider(*, metric_readers: list[Any], **_: Any) -> NoOpMeterProvider:
        readers.extend(metric_readers)
        return NoOpMeterProvider()

    monkeypatch.setattr(loading, "load", lambda *_: InMemoryMetricReader)
    monkeypatch.setattr(providers, "SdkMeterProvider", meter_provider)
    made.own(OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="pulled")
    assert [type(reader) for reader in readers] == [InMemoryMetricReader]


def test_own_providers_are_private_and_are_shut_down(made: Made) -> None:
    own = made.own(OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="console")
    assert own.own_traces
    assert own.own_metrics
    assert trace.get_tracer_provider() is not own.tracer_provider
    assert metrics.get_meter_provider() is not own.meter_provider
    assert own.tracer_provider._atexit_handler is None  # type: ignore[attr-defined]
    assert getattr(own.meter_provider, "sdk", own.meter_provider)._atexit_handler is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, True),
        ({PROTOCOL: "grpc"}, True),
        ({"OTEL_METRICS_EXPORTER": "console"}, True),
        ({"OTEL_METRICS_EXEMPLAR_FILTER": "always_on"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}, True),
        ({"OTEL_METRICS_EXPORTER": "otlp,console"}, False),
        ({"OTEL_METRICS_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram"}, False),
        ({"OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true"}, False),
    ],
    ids=str,
)
def test_histograms_are_direct_where_that_gives_the_same(
    made: Made, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: bool
) -> None:
    pytest.importorskip("ai_otel.direct.meters", exc_type=ImportError)
    monkeypatch.setattr(providers, "PeriodicExportingMetricReader", reader_without_thread)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED" in environment and not hasattr(InMemoryMetricReader(), "_metrics"):
        pytest.skip("this version of the SDK has none")
    own = made.own(OTEL_TRACES_EXPORTER="none", **environment)
    histogram = own.meter_provider.get_meter("test").create_histogram("h")
    assert isinstance(histogram, BindableHistogram) is expected
    assert ("metrics" in own.direct) is expected


def test_histograms_of_the_sdk_can_be_chosen(made: Made) -> None:
    own = providers.own(Resource({}), {"OTEL_TRACES_EXPORTER": "none"}, direct=False)
    made.providers.append(own)
    assert isinstance(own.meter_provider, MeterProvider)
    assert own.direct == ()


def test_without_an_exporter_of_metrics_nothing_is_measured(made: Made) -> None:
    """The meter also says so to the sampler of devices, which then does not stand for election."""
    own = made.own(OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")
    assert isinstance(own.meter_provider, NoOpMeterProvider)
    assert own.own_metrics


def test_the_sdk_can_be_disabled(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    own = made.own(OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")
    assert not own.tracer_provider.get_tracer("ai_otel").start_span("chat").is_recording()


# ---------------------------------------------------------------- directly


@pytest.mark.parametrize(
    ("environment", "direct"),
    [
        ({}, True),
        ({PROTOCOL: "grpc"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp_proto_grpc"}, True),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, True),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "3"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp,console"}, False),
        ({"OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": " True "}, False),
    ],
    ids=str,
)
def test_spans_are_made_directly_where_that_gives_the_same(
    made: Made, environment: dict[str, str], direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    own = made.own(**environment)
    assert ("traces" in own.direct) is direct
    assert isinstance(own.tracer_provider, TracerProvider)
    assert isinstance(own.tracer_provider, DirectTracerProvider) is direct


def test_the_setting_has_the_sdk_make_everything(made: Made) -> None:
    own = providers.own(Resource({}), {}, direct=False)
    made.providers.append(own)
    assert own.direct == ()
    assert type(own.tracer_provider) is TracerProvider
    assert [type(exporter) for exporter in made.spans] == [HttpSpanExporter]


@pytest.mark.parametrize("module", ["ai_otel.direct.sending", "ai_otel.direct.tracer"])
@pytest.mark.fault(
    "configuration", "the SDK has not what `ai_otel.direct` imports of it", "spans are made and encoded by the SDK"
)
def test_without_what_is_imported_of_the_sdk_it_makes_everything(
    made: Made, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert "traces" not in made.own().direct


def test_a_users_provider_is_never_replaced(made: Made) -> None:
    tracers = TracerProvider(shutdown_on_exit=False)
    chosen = providers.choose(providers.UserProviders(tracers), lambda: Resource({}), {})
    made.providers.append(chosen)
    assert chosen.tracer_provider is tracers
    assert "traces" not in chosen.direct


# ---------------------------------------------------------------- the user's


class Calls(SimpleNamespace):
    """Notes how it was ended."""

    def __init__(self) -> None:
        calls: list[str] = []
        super().__init__(
            calls=calls, shutdown=lambda: calls.append("shutdown"), force_flush=lambda: calls.append("force_flush")
        )


@pytest.mark.parametrize("own_traces", [False, True])
@pytest.mark.parametrize("own_metrics", [False, True])
def test_only_own_providers_are_shut_down(own_traces: bool, own_metrics: bool) -> None:
    tracers: Any = Calls()
    meters: Any = Calls()
    Providers(tracers, meters, "global", own_traces=own_traces, own_metrics=own_metrics).shutdown()
    assert tracers.calls == ["shutdown" if own_traces else "force_flush"]
    assert meters.calls == ["shutdown" if own_metrics else "force_flush"]


def test_providers_that_cannot_be_flushed_are_let_be() -> None:
    held = Providers(NoOpTracerProvider(), NoOpMeterProvider(), "passed")
    with strict() as failures:
        held.shutdown()
    assert failures == []


def test_a_placeholder_is_no_global_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    assert providers.global_tracer_provider() is None
    assert providers.global_meter_provider() is None
    tracers, meters = TracerProvider(shutdown_on_exit=False), MeterProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: tracers)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: meters)
    assert providers.global_tracer_provider() is tracers
    assert providers.global_meter_provider() is meters


# ---------------------------------------------------------------- from a file

FILE = """\
file_format: "1.0"
resource:
  attributes:
    - {name: deployment.environment.name, value: from-file}
tracer_provider:
  processors:
    - batch:
        exporter:
          otlp_http:
            endpoint: http://127.0.0.1:9/v1/traces
meter_provider:
  readers:
    - periodic:
        interval: 60000
        exporter:
          otlp_http:
            endpoint: http://127.0.0.1:9/v1/metrics
"""

needs_reader = pytest.mark.requires(module="opentelemetry.configuration")


@pytest.fixture
def from_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Providers | None]]:
    # What is left at the end goes nowhere, and says so.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    opened: list[Providers] = []

    def read(text: str) -> Providers | None:
        path = tmp_path / "otel.yaml"
        path.write_text(text)
        found = providers.from_file(str(path), Resource({"service.name": "vllm", "host.name": "here"}))
        opened.extend([found] if found is not None else [])
        return found

    yield read
    for each in opened:
        each.shutdown()
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)


@needs_reader
def test_a_file_configures_private_providers(from_file: Callable[[str], Providers | None]) -> None:
    found = from_file(FILE)
    assert found is not None
    assert (found.origin, found.own_traces, found.own_metrics) == ("file", True, True)
    assert isinstance(found.tracer_provider, TracerProvider)
    attributes = found.tracer_provider.resource.attributes
    assert attributes["deployment.environment.name"] == "from-file"
    assert attributes["host.name"] == "here"
    assert trace.get_tracer_provider() is not found.tracer_provider


@needs_reader
def test_a_service_that_the_file_does_not_name_keeps_the_engines(from_file: Callable[[str], Providers | None]) -> None:
    """The SDK makes up `unknown_service` where a file says nothing."""
    for text, name in ((FILE, "vllm"), (FILE.replace("deployment.environment.name", "service.name"), "from-file")):
        found = from_file(text)
        assert found is not None
        assert found.tracer_provider.resource.attributes["service.name"] == name  # type: ignore[attr-defined]


@needs_reader
def test_what_a_file_configures_ends_with_us_and_not_before(
    from_file: Callable[[str], Providers | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_exit: list[Any] = []
    monkeypatch.setattr(atexit, "unregister", at_exit.append)
    found = from_file(FILE)
    assert found is not None
    assert at_exit == [found.tracer_provider.shutdown, found.meter_provider.shutdown]  # type: ignore[attr-defined]


@needs_reader
def test_a_file_can_disable_everything(from_file: Callable[[str], Providers | None]) -> None:
    found = from_file(FILE + "disabled: true\n")
    assert found is not None
    assert isinstance(found.tracer_provider, NoOpTracerProvider)
    assert isinstance(found.meter_provider, NoOpMeterProvider)


@needs_reader
@pytest.mark.parametrize(
    "text",
    [
        "file_format: [",
        "tracer_provider: {}",
        'file_format: "9.0"',
        FILE.replace("interval: 60000", "interval: soon"),
        FILE.replace("otlp_http", "no_such_exporter"),
    ],
    ids=["no yaml", "no format", "another format", "no number", "no exporter"],
)
@pytest.mark.fault("configuration", "`OTEL_CONFIG_FILE` is invalid", "it is logged, and the other variables are used")
def test_a_file_that_cannot_be_used_is_logged(
    from_file: Callable[[str], Providers | None], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert from_file(text) is None
    assert "cannot be used: " in caplog.messages[-1]
    assert caplog.messages[-1].endswith("using the other OTEL_* variables")


@needs_reader
def test_a_file_that_is_not_there_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert providers.from_file("/no/such/file.yaml", Resource({})) is None
    assert "OTEL_CONFIG_FILE=/no/such/file.yaml cannot be used" in caplog.messages[-1]


def test_without_the_package_that_reads_files_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.configuration", None)
    assert providers.from_file("otel.yaml", Resource({})) is None
    assert "pip install 'opentelemetry-sdk[file-configuration]'" in caplog.messages[-1]
