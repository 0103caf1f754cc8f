"""Servers that fork their workers: each process reports what it counted itself, to a real endpoint, in its own name."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.telemetry.sink import Sink, listening, points_of, read
from isolated import TESTS, run

# Two requests, then a fork; one more in the parent, three in the child. Both end as processes do.
SERVER = """
import asyncio, os, sys, time
import fake_engine
mode = sys.argv[1]
passed = {}
if mode == "passed":
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    passed["tracer_provider"] = TracerProvider()
    passed["tracer_provider"].add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    passed["meter_provider"] = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])
import ai_otel
handle = ai_otel.instrument(**passed)
with fake_engine.install() as engine:
    handle.watch({"fake": fake_engine.ENGINE})
    def serve(count):
        for _ in range(count):
            asyncio.run(fake_engine.collect(engine.Server().generate("a b")))
    serve(2)
    handle.flush()
    child = os.fork()
    if child == 0:
        serve(3)
        handle.flush()
        time.sleep(0.3)  # an inherited reader would speak up now
        handle.stop()
        sys.stdout.flush()
        os._exit(0)
    serve(1)
    assert os.waitpid(child, 0)[1] == 0
    print(handle.providers.origin, os.getpid(), child)
"""

FILE = """\
file_format: "1.0"
tracer_provider:
  processors: [{batch: {exporter: {otlp_http: {endpoint: "URL/v1/traces"}}}}]
meter_provider:
  readers: [{periodic: {interval: 100, exporter: {otlp_http: {endpoint: "URL/v1/metrics"}}}}]
"""


def serve(mode: str, sink: Sink, *launcher: str, **environment: str) -> tuple[str, int, int]:
    """Run the server; whose providers it had, and the process ids of parent and child."""
    given = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONWARNINGS": "ignore::DeprecationWarning",
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
        "AI_OTEL_STOP_TIMEOUT": "10",
        **environment,
    }
    done = run(SERVER, mode, launcher=launcher, **given)
    assert done.returncode == 0, done.stderr
    origin, parent, child = done.stdout.split()
    return origin, int(parent), int(child)


def requests_by_process(sink: Sink) -> Counter[int]:
    """How many request spans each process sent."""
    return Counter(span.resource["process.pid"] for span in sink.spans if span.name == "chat tiny")


def newest(sink: Sink, name: str) -> dict[int, float]:
    """The newest value of a metric, by the process that sent it."""
    values: dict[int, float] = {}
    for request in sink.metrics:
        for each in request.resource_metrics:
            pid = read(each.resource.attributes)["process.pid"]
            found = [metric for scope in each.scope_metrics for metric in scope.metrics if metric.name == name]
            for metric in found:
                (point,) = points_of(metric)
                values[pid] = point.count if hasattr(point, "bucket_counts") else point.as_int
    return values


def instances(sink: Sink) -> Mapping[int, set[str]]:
    """Every `service.instance.id` that each process gave, on spans and metrics."""
    found: dict[int, set[str]] = defaultdict(set)
    resources: list[dict[str, Any]] = [span.resource for span in sink.spans]
    resources += [read(each.resource.attributes) for request in sink.metrics for each in request.resource_metrics]
    for resource in resources:
        found[resource["process.pid"]].add(resource["service.instance.id"])
    return found


@pytest.fixture(scope="module")
def forked() -> Any:
    """Our own providers."""
    with listening() as sink:
        origin, parent, child = serve("fork", sink)
        assert origin == "own"
        yield sink, parent, child


@pytest.mark.fault("requests", "a server forks its workers", "each process exports its own requests once")
def test_each_process_sends_the_spans_of_its_own_requests(forked: Any) -> None:
    sink, parent, child = forked
    assert requests_by_process(sink) == {parent: 3, child: 3}
    assert len({span.span_id for span in sink.spans}) == len(sink.spans)


@pytest.mark.parametrize(
    ("name", "of_one_request"),
    [("ai_otel.usage.output_tokens", 2), ("ai_otel.request.finished", 1), ("gen_ai.server.request.duration", 1)],
)
def test_each_process_counts_its_own_requests(forked: Any, name: str, of_one_request: int) -> None:
    """A fork inherits every sum; reported twice, they would be counted twice."""
    sink, parent, child = forked
    assert newest(sink, name) == {parent: 3 * of_one_request, child: 3 * of_one_request}


def test_each_process_has_a_name_of_its_own(forked: Any) -> None:
    sink, parent, child = forked
    found = instances(sink)
    assert set(found) == {parent, child}
    assert all(len(names) == 1 for names in found.values())
    assert found[parent] != found[child]


@pytest.mark.fault(
    "configuration",
    "a user sets one `service.instance.id` for a server that forks its workers",
    "the parent keeps it, each worker adds its process id, and no two processes write one series",
)
def test_an_instance_id_that_the_user_set_is_the_prefix_in_the_child() -> None:
    with listening() as sink:
        _, parent, child = serve("fork", sink, OTEL_RESOURCE_ATTRIBUTES="service.instance.id=mine,service.name=server")
        assert instances(sink) == {parent: {"mine"}, child: {f"mine.{child}"}}
        assert {span.resource["service.name"] for span in sink.spans} == {"server"}


@pytest.mark.fault(
    "configuration",
    "two servers that nothing connects start with the same `service.instance.id`",
    "the first has it, the other adds its process id, and the first's successor has it again",
)
def test_servers_that_inherit_one_instance_id_differ() -> None:
    code = "import sys; from ai_otel.inputs.instance import own_instance as own; print(own('mine'), flush=True); "
    code += "sys.stdin.read()"
    with listening() as sink:

        def started() -> tuple[subprocess.Popen[str], str]:
            process = subprocess.Popen(
                [sys.executable, "-c", code],
                env={"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdout is not None
            return process, process.stdout.readline().strip()

        first, second = started(), started()
        assert (first[1], second[1]) == ("mine", f"mine.{second[0].pid}")
        first[0].communicate(timeout=10)
        third = started()
        assert third[1] == "mine"
        for process, _ in (second, third):
            process.communicate(timeout=10)


def test_workers_in_a_pod_are_separate_instances() -> None:
    pod = {"K8S_POD_NAME": "p", "K8S_NAMESPACE_NAME": "n", "K8S_CONTAINER_NAME": "c"}
    with listening() as sink:
        _, parent, child = serve("fork", sink, **pod)
        assert instances(sink) == {parent: {"n.p.c"}, child: {f"n.p.c.{child}"}}


@pytest.mark.requires(module="opentelemetry.configuration")
def test_providers_from_a_file_are_each_processs_own_too(tmp_path: Path) -> None:
    with listening() as sink:
        (tmp_path / "otel.yaml").write_text(FILE.replace("URL", sink.url))
        origin, parent, child = serve("fork", sink, OTEL_CONFIG_FILE=str(tmp_path / "otel.yaml"))
        assert origin == "file"
        assert requests_by_process(sink) == {parent: 3, child: 3}
        assert newest(sink, "ai_otel.usage.output_tokens") == {parent: 6, child: 6}
        assert newest(sink, "gen_ai.server.request.duration") == {parent: 3, child: 3}
        assert {span.resource["service.name"] for span in sink.spans} == {"fake"}


# ---------------------------------------------------------------- providers of the user's


def check_users(sink: Sink) -> None:
    """What the SDK does with its own sums in a fork is the SDK's; what we count is each process's own."""
    spans = [span for span in sink.spans if span.name == "chat tiny"]
    assert len({span.span_id for span in spans}) == len(spans) == 6
    counted = []
    for request in sink.metrics:
        scopes = [scope for each in request.resource_metrics for scope in each.scope_metrics]
        found = [metric for scope in scopes for metric in scope.metrics if metric.name == "ai_otel.usage.output_tokens"]
        assert len(found) <= 1  # made once, not once more in the child
        counted += [point.as_int for metric in found for point in points_of(metric)]
    assert max(counted) == 6  # three requests of two tokens, in parent and child


NEVER = {"OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
"""The SDK's own reader holds its lock while it exports. A fork just then hangs its child, with or without ai-otel."""


def test_providers_that_were_passed_in_are_used_in_the_child_too() -> None:
    with listening() as sink:
        assert serve("passed", sink, **NEVER)[0] == "passed"
        check_users(sink)


@pytest.mark.requires(module="opentelemetry.instrumentation.auto_instrumentation")
def test_global_providers_of_opentelemetry_instrument_work_in_the_child(tmp_path: Path) -> None:
    # As much of a distribution of OpenTelemetry as it needs: who sets up the SDK.
    distro = tmp_path / "some_distro-1.dist-info"
    distro.mkdir()
    (distro / "METADATA").write_text("Metadata-Version: 2.1\nName: some-distro\nVersion: 1\n")
    entry = "[opentelemetry_configurator]\nsome = opentelemetry.sdk._configuration:_OTelSDKConfigurator\n"
    (distro / "entry_points.txt").write_text(entry)
    with listening() as sink:
        origin, *_ = serve(
            "fork",
            sink,
            "opentelemetry-instrument",
            AI_OTEL_ENABLED="true",
            OTEL_TRACES_EXPORTER="otlp_proto_http",
            OTEL_METRICS_EXPORTER="otlp_proto_http",
            PYTHONPATH=f"{TESTS}:{tmp_path}",
            OTEL_SERVICE_NAME="theirs",
            **NEVER,
        )
        assert origin == "global"
        check_users(sink)
        assert {span.resource["service.name"] for span in sink.spans} == {"theirs"}
