"""`ai-otel agent` as a person or a DaemonSet starts it: processes, a kubelet, a simulated NVML, real OTLP."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ai_otel import semconv
from ai_otel.agent import health
from harness.gpu import node, nvml
from harness.gpu.kubelet import Kubelet, running
from harness.polling import eventually
from harness.server import end, free_port
from harness.telemetry.sink import Sink, listening, read

pytestmark = pytest.mark.requires(**nvml.REQUIRES)

ALLOCATION = "ai_otel.gpu.allocation"
PLUGIN_TRUTH = {held for held in node.TRUTH if held.attribution == "pod_resources"}


@pytest.fixture
def kubelet() -> Iterator[Kubelet]:
    with running(pods_api=True) as started:
        started.pods = node.pods()
        yield started


@pytest.fixture
def sink() -> Iterator[Sink]:
    with listening() as kept:
        yield kept


def environment(directory: Path, scenario: nvml.Scenario | None = None, **variables: str) -> dict[str, str]:
    """Return the environment of a container, without this process's settings."""
    return {
        "PATH": "/usr/bin:/bin",
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "K8S_NODE_NAME": "node-1",
        "POD_NAME": "agent-x7f2p",
        "POD_NAMESPACE": "observability",
        "AI_OTEL_GPU": "nvidia",
        "AI_OTEL_GPU_INTERVAL": "0.2",
        "OTEL_METRIC_EXPORT_INTERVAL": "300",
        **nvml.environment(scenario or node.scenario(), directory),
        **variables,
    }


class Command:
    """The running agent."""

    def __init__(self, process: subprocess.Popen[str], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    def health(self, path: str = "/healthz") -> tuple[int, Any]:
        """Return status and body of `/healthz`; status 0 if it is not served."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, {}

    def ready(self) -> bool:
        return self.health()[0] == 200


@contextmanager
def agent(variables: Mapping[str, str], kubelet: Path, log: Path) -> Iterator[Command]:
    """Run it until the block ends, with a kubelet's directory mounted as a DaemonSet would."""
    port = free_port()
    words = ["--interval", "0.2", "--kubelet", str(kubelet), "--listen", f"127.0.0.1:{port}"]
    words += ["--pods-api", str(kubelet.parent / "pods-api")]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ai_otel.cli", "agent", *words], env=variables, stderr=output, text=True
        )
        command = Command(process, port, log)
        try:
            eventually(command.ready, 60, log.read_text)
            yield command
        finally:
            end(process)


def allocated(sink: Sink) -> set[node.Held]:
    """Return the allocations of the newest export."""
    for request in reversed(sink.metrics):
        held = set()
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points = [read(each.attributes) for each in metric.sum.data_points if metric.name == ALLOCATION]
                    held |= {
                        node.Held(
                            point["k8s.pod.name"],
                            point["hw.id"],
                            point.get("ai_otel.gpu.instance.id"),
                            point["ai_otel.gpu.sharing"],
                            point["ai_otel.gpu.attribution"],
                        )
                        for point in points
                    }
        return held
    return set()


def values(sink: Sink, name: str) -> dict[str, float]:
    """The newest value of each whole device."""
    found = {}
    for (_, labels), point in sink.points(name).items():
        known = dict(labels)
        if "ai_otel.gpu.instance.id" not in known:
            found[known["hw.id"]] = float(getattr(point, point.WhichOneof("value")))
    return found


def test_the_agent_exports_every_device_once_and_its_containers(kubelet: Kubelet, sink: Sink, tmp_path: Path) -> None:
    """Values, allocations, the resource, `/healthz`; a pod that ends; a kubelet that restarts; a clean shutdown."""
    variables = environment(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=sink.url)
    with agent(variables, kubelet.socket.parent, tmp_path / "agent.log") as command:
        assert sink.wait(lambda: allocated(sink) == PLUGIN_TRUTH)
        assert sink.wait(lambda: len(values(sink, "hw.power")) == 8)
        (resource,) = {
            frozenset(read(each.resource.attributes).items())
            for request in sink.metrics
            for each in request.resource_metrics
        }
        attributes = dict(resource)
        assert (attributes["service.name"], attributes["service.instance.id"]) == ("ai-otel-agent", "node-1")
        assert attributes["k8s.node.name"] == "node-1"
        assert attributes["host.name"] == "node-1", "not the name of its pod"
        assert not {"k8s.pod.name", "k8s.namespace.name"} & set(attributes), "its own pod is not the devices' pod"
        names = {
            metric.name
            for request in sink.metrics
            for each in request.resource_metrics
            for scope in each.scope_metrics
            for metric in scope.metrics
        }
        assert names <= {metric.name for metric in semconv.METRICS}
        assert sink.traces == []

        status, body = command.health()
        assert (status, body["ready"], body["node"]) == (200, True, "node-1")
        assert body["sampler"]["sources"] == {"nvidia": "ok"}
        assert body["sampler"]["devices"] == {"nvidia": 19}
        assert body["sampler"]["lost"] == []
        assert body["kubelet"]["allocations"] == len(PLUGIN_TRUTH)
        # Four claims are held; ResourceSlices are not read.
        assert body["kubelet"]["unmapped"] == 4
        assert command.health("/")[0] == 404

        kubelet.pods = [pod for pod in kubelet.pods if pod.name != "pair"]
        left = {held for held in PLUGIN_TRUTH if held.pod != "pair"}
        assert sink.wait(lambda: allocated(sink) == left)
        kubelet.stop()
        eventually(lambda: bool(command.health()[1]["kubelet"]["troubles"]), 30)
        assert command.ready(), "device metrics are exported without the kubelet"
        kubelet.start(pods_api=True)
        eventually(lambda: not command.health()[1]["kubelet"]["troubles"], 30)

        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(30) == 0
    log = command.log.read_text()
    assert "AI_OTEL_AGENT_RESOURCE_SLICES=true" in log
    assert "Traceback" not in log
    assert log.count("gpu-2-mig-1, held by ml/claimed-mig-1/server") == 1


@pytest.mark.fault("gpu", "a GPU is lost on a node", "the agent exports the others")
def test_a_lost_gpu_has_no_values_and_the_others_are_exported(kubelet: Kubelet, sink: Sink, tmp_path: Path) -> None:
    scenario = nvml.Scenario(
        gpus=[nvml.Gpu(uuid=node.gpu(0), lost_at=6.0), nvml.Gpu(uuid=node.gpu(1), minor=1, bus_id="00000000:19:00.0")]
    )
    kubelet.pods = [
        node.plugin("one", "nvidia.com/gpu", node.gpu(0)),
        node.plugin("two", "nvidia.com/gpu", node.gpu(1)),
    ]
    variables = environment(tmp_path, scenario, OTEL_EXPORTER_OTLP_ENDPOINT=sink.url)
    with agent(variables, kubelet.socket.parent, tmp_path / "agent.log") as command:
        eventually(lambda: command.health()[1]["sampler"]["lost"] == [node.gpu(0)], 30)
        sink.metrics.clear()
        assert sink.wait(lambda: len(sink.metrics) >= 3)
        newest = sink.metrics[-1]
        sink.metrics[:] = [newest]
        assert set(values(sink, "hw.power")) == {node.gpu(1)}
        assert {held.device for held in allocated(sink)} == {node.gpu(0), node.gpu(1)}, "its pod still holds it"
        assert command.ready()


@pytest.mark.fault("gpu", "the kubelet does not answer", "devices are exported without pods, and /healthz says why")
def test_without_a_kubelet_devices_are_exported_and_healthz_says_why(sink: Sink, tmp_path: Path) -> None:
    variables = environment(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=sink.url)
    with agent(variables, tmp_path / "pod-resources", tmp_path / "agent.log") as command:
        assert sink.wait(lambda: len(values(sink, "hw.power")) == 8)
        _, body = command.health()
        assert body["ready"]
        assert "mount its directory" in body["kubelet"]["troubles"]["kubelet"]
        assert body["kubelet"]["listed_ago_s"] is None
        assert allocated(sink) == set()
    assert command.log.read_text().count("mount its directory") == 1


# ---------------------------------------------------------------- the command line


def once(variables: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ai_otel.cli", "agent", *words],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_once_prints_a_table_of_devices_and_containers(kubelet: Kubelet, tmp_path: Path) -> None:
    kubelet.pods.append(replace(node.plugin("done", "nvidia.com/gpu", node.gpu(2)), phase="Succeeded"))
    where = ["--kubelet", str(kubelet.socket.parent), "--pods-api", str(kubelet.pods_socket.parent)]
    done = once(environment(tmp_path), "--once", *where)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.split(r"  +", lines[0]) == ["DEVICE", "INSTANCE", "MODEL", "BUSY", "MEMORY GIB", "POWER", "HELD BY"]
    rows = [line for line in lines if line.startswith(("GPU-", " "))]
    assert sum(line.startswith("GPU-") for line in rows) == 19
    held = {line.split("  ")[-1].strip() for line in rows}
    assert {f"ml/{each.pod}/server ({each.sharing})" for each in PLUGIN_TRUTH} <= held
    (pair,) = [line for line in lines if line.startswith(node.gpu(2))]
    assert re.split(r"  +", pair)[1:] == [
        "NVIDIA H200 (simulated)", "87%", "40.0 of 141.0", "300 W", "ml/pair/server (exclusive)"
    ]  # fmt: skip
    (instance,) = [line for line in lines if line.startswith(f"{node.gpu(0)}  8 1g.18gb")]
    assert "ml/mig-8/server (mig)" in instance
    assert "300 W" not in instance, "an instance has no power value"
    assert "left out because their pods have ended: 1" in done.stdout
    assert done.stdout.count("set AI_OTEL_AGENT_RESOURCE_SLICES=true") == 4


def test_once_without_devices_prints_the_reason(tmp_path: Path) -> None:
    done = once({"PATH": "/usr/bin:/bin", "AI_OTEL_GPU": "none"}, "--once", "--kubelet", str(tmp_path))
    assert done.returncode == 1
    assert done.stdout.startswith("No device found.\n")
    assert "mount its directory" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--interval", "0"), "agent_interval='0' is invalid: write a number above 0 and at most 3600"),
        (("--listen", "13134"), "agent_listen='13134' is invalid: write it like 0.0.0.0:13134"),
        (("--replicas", "some"), "agent_replicas='some' is invalid: write one of time_slicing, mps"),
    ],
)
@pytest.mark.fault("configuration", "an option of the agent is invalid", "it ends with a message")
def test_an_invalid_option_ends_the_agent_with_a_message(words: tuple[str, ...], sentence: str) -> None:
    done = once({"PATH": "/usr/bin:/bin"}, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == f"ai-otel agent: {sentence}"


@pytest.mark.fault("configuration", "the agent's port is in use", "it ends with the next step")
def test_a_port_in_use_ends_the_agent_with_the_next_step(sink: Sink) -> None:
    address = sink.url.removeprefix("http://")
    done = once({"PATH": "/usr/bin:/bin", "AI_OTEL_GPU": "none"}, "--listen", address)
    assert done.returncode == 1
    assert f"{address} cannot be listened on" in done.stderr
    assert "choose another with --listen" in done.stderr


# ---------------------------------------------------------------- /healthz


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_healthz_is_503_until_the_agent_is_ready(ready: bool, status: int, tmp_path: Path) -> None:
    with health.serving("127.0.0.1:0", lambda: health.HealthStatus(ready, {"node": "node-1"})) as port:
        command = Command(None, port, tmp_path)  # type: ignore[arg-type]
        assert command.health() == (status, {"ready": ready, "node": "node-1"})
        assert command.health("/healthz?verbose=1")[0] == status
        assert command.health("/metrics") == (404, {"ready": False, "error": "only /healthz is served"})
        with socket.create_connection(("127.0.0.1", port)):
            assert command.health()[0] == status, "a silent client does not block others"


def test_healthz_is_served_on_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    with (
        health.serving("[::1]:0", lambda: health.HealthStatus(ready=True, facts={})) as port,
        urllib.request.urlopen(f"http://[::1]:{port}/healthz", timeout=10) as answer,
    ):
        assert json.load(answer) == {"ready": True}
