"""Values of `OTEL_*` variables that cannot be read: reported once, and telemetry of both signals arrives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from opentelemetry import environment_variables as api_variables
from opentelemetry.sdk import environment_variables as sdk_variables

from ai_otel.inputs.otel import ROWS
from harness.telemetry.sink import Sink, listening

TESTS = Path(__file__).parents[1]
SECRET = "sk-proj-0123456789abcdefABCDEF"

# Each case is a process of its own, forked from one that has imported nothing of the SDK: some is read on import.
SERVER = """
import asyncio, json, logging, os, sys
import fake_engine, ai_otel, ai_otel.start, ai_otel.energy.stage, grpc, requests
import opentelemetry.proto.collector.metrics.v1.metrics_service_pb2
import opentelemetry.proto.collector.trace.v1.trace_service_pb2
def serve():
    handle = ai_otel.instrument()
    with fake_engine.install() as engine:
        handle.watch({"fake": fake_engine.ENGINE})
        asyncio.run(fake_engine.collect(engine.Server().generate("a b")))
        handle.flush()
        handle.stop()
assert "opentelemetry.sdk.trace" not in sys.modules
for line in sys.stdin:
    if (child := os.fork()) == 0:
        os.environ.update(json.loads(line))
        logging.basicConfig(stream=sys.stdout, format="%(message)s", force=True)
        serve()
        sys.stdout.flush()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(f"ended {status}", flush=True)
"""

NUMBERS = ("abc", "-1", "1e400", "99999999999999999999")
WORDS = ("bogus", SECRET, "\x1b[31mred\x1b[0m")
CASES: Mapping[str, tuple[str, ...]] = {
    "OTEL_SDK_DISABLED": WORDS,
    "OTEL_PROPAGATORS": ("tracecontext,baggage,ottrace", "bogus", SECRET),
    "OTEL_PYTHON_TRACER_PROVIDER": WORDS,
    "OTEL_PYTHON_METER_PROVIDER": WORDS,
    "OTEL_RESOURCE_ATTRIBUTES": ("team", "team=blue,sk", "pod=$(POD_NAME)", SECRET),
    "OTEL_SERVICE_NAME": ("$(NAME)", "${NAME}"),
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": ("bogus", "process,bogus"),
    "OTEL_TRACES_SAMPLER": WORDS,
    "OTEL_TRACES_SAMPLER_ARG": ("abc", "-1", "2", "nan"),
    **dict.fromkeys((name for name in ROWS if name.endswith("_LIMIT")), ("unlimited", *NUMBERS)),
    **dict.fromkeys((name for name in ROWS if name.startswith("OTEL_BSP_")), NUMBERS),
    "OTEL_BSP_SCHEDULE_DELAY": ("0", *NUMBERS),
    "OTEL_BSP_MAX_QUEUE_SIZE": ("0", *NUMBERS),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ("0", "4096", *NUMBERS),
    "OTEL_METRIC_EXPORT_INTERVAL": ("abc", "-1", "0", "nan", "inf"),
    "OTEL_METRIC_EXPORT_TIMEOUT": ("abc", "-1", "0", "nan"),
    "OTEL_METRICS_EXEMPLAR_FILTER": WORDS,
    "OTEL_TRACES_EXPORTER": ("bogus", "bogus,otlp"),
    "OTEL_METRICS_EXPORTER": ("bogus", "bogus,otlp"),
    **{
        f"OTEL_EXPORTER_OTLP_{signal}{option}": values
        for signal in ("", "TRACES_", "METRICS_")
        for option, values in (
            ("PROTOCOL", ("http/json", *WORDS)),
            ("HEADERS", (f"Authorization: Bearer {SECRET}", SECRET, "a=b%0Ac", "team=blue,x")),
            ("TIMEOUT", ("abc", "-1", "0", "10s")),
            ("COMPRESSION", WORDS),
            ("INSECURE", WORDS),
            ("CERTIFICATE", ("/no/such/file.pem", f"{TESTS}/fake_engine.py", str(TESTS), "a\x1b[0m")),
            ("CLIENT_KEY", ("/no/such/file.pem", str(TESTS))),
            ("CLIENT_CERTIFICATE", ("/no/such/file.pem", str(TESTS))),
            # The general endpoint is the sink's: a signal's own that cannot be read leaves it.
            *([("ENDPOINT", ("http://[::1", "collector:4318", "http://c:port", "ftp://c"))] if signal else []),
        )
    },
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": WORDS,
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": WORDS,
    "OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES": ("bogus", "UNAVAILABLE,bogus"),
    **dict.fromkeys((name for name in ROWS if name.endswith("CREDENTIAL_PROVIDER")), ("bogus",)),
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": WORDS,
}
BESIDE = {"OTEL_TRACES_SAMPLER_ARG": {"OTEL_TRACES_SAMPLER": "traceidratio"}}

NOT_READ = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "the sink's; its readers are those of the signals' own",
    "OTEL_CONFIG_FILE": "tests/unit/test_providers.py",
    "OTEL_LOG_LEVEL": "not read by the SDK for Python",
    "OTEL_PYTHON_CONTEXT": "read, and reported, by the API before anything of ai-otel is imported",
    "OTEL_PYTHON_ID_GENERATOR": "read by the SDK's configurator only",
    "OTEL_PYTHON_TRACER_CONFIGURATOR": "read by the SDK's configurator only",
    "OTEL_PYTHON_METER_CONFIGURATOR": "read by the SDK's configurator only",
}
NOT_READ_PREFIXES = (
    "OTEL_EXPORTER_ZIPKIN",
    "OTEL_EXPORTER_JAEGER",
    "OTEL_EXPORTER_PROMETHEUS",
    "OTEL_BLRP",
    "OTEL_LOG",
)


def test_every_variable_of_the_sdk_has_a_row_and_bad_values() -> None:
    """A new release of the SDK may bring new variables."""
    names = {
        value
        for module in (api_variables, sdk_variables)
        for value in vars(module).values()
        if isinstance(value, str) and value.startswith("OTEL_")
    }
    read = {name for name in names if "LOG" not in name and not name.startswith(NOT_READ_PREFIXES)} - set(NOT_READ)
    assert read - set(ROWS) == set()
    assert set(ROWS) - set(CASES) - set(NOT_READ) == set()


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with listening() as kept:
        yield kept


@pytest.fixture(scope="module")
def server(sink: Sink) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(TESTS),
            "AI_OTEL_GPU": "none",
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def serve(server: subprocess.Popen[str], variables: Mapping[str, str]) -> list[str]:
    """Serve one request in a process with these variables; what it logged."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(variables) + "\n")
    server.stdin.flush()
    lines = list[str]()
    for line in server.stdout:
        if line.startswith("ended "):
            assert line == "ended 0\n", lines
            return lines
        lines.append(line.rstrip("\n"))
    raise AssertionError("the server has ended")


@pytest.mark.fault(
    "configuration",
    "an `OTEL_*` variable has a value that the SDK cannot read, such as `OTEL_METRICS_EXEMPLAR_FILTER=bogus`",
    "one warning names the variable, the default is used, and traces and metrics arrive",
)
@pytest.mark.fault(
    "configuration",
    "`OTEL_PROPAGATORS` names a propagator that is not installed, or `OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT` is no number, "
    "so that the SDK cannot be imported",
    "one warning names the variable, ai-otel imports the SDK without it, and `os.environ` stays as it is",
)
@pytest.mark.parametrize("name", CASES)
def test_a_value_that_cannot_be_read_is_reported_and_telemetry_arrives(
    name: str, server: subprocess.Popen[str], sink: Sink
) -> None:
    check(server, sink, {name: CASES[name][0]})


@pytest.mark.parametrize("position", range(1, max(map(len, CASES.values()))))
def test_many_such_values_are_each_reported(position: int, server: subprocess.Popen[str], sink: Sink) -> None:
    """A process for each value of the corpus would take minutes."""
    values = {name: values[position] for name, values in CASES.items() if len(values) > position}
    values.pop("OTEL_TRACES_SAMPLER", None)  # the case of its argument needs one
    check(server, sink, values)


def check(server: subprocess.Popen[str], sink: Sink, values: Mapping[str, str]) -> None:
    for arrived in (sink.spans, sink.traces, sink.metrics):
        arrived.clear()
    beside = {key: value for name in values for key, value in BESIDE.get(name, {}).items()}
    lines = serve(server, {**values, **beside})
    reported = sorted(re.match(r"ai-otel: (OTEL_\w+)", line)[1] if "ai-otel: OTEL_" in line else line for line in lines)
    assert reported == sorted(values), lines
    for line in lines:
        assert "report" not in line
        assert SECRET not in line
        assert line.isprintable()
    assert "chat tiny" in {span.name for span in sink.spans}, lines
    assert sink.points("ai_otel.request.finished"), lines


def test_without_bad_values_nothing_is_logged(server: subprocess.Popen[str], sink: Sink) -> None:
    assert serve(server, {}) == []
    assert sink.spans
