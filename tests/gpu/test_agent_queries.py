"""The agent's points in a real Prometheus, and the queries of the documentation."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from harness.collector.process import until
from harness.gpu import kubelet as kubelets, node, nvml
from harness.server import end, free_port
from harness.telemetry import prometheus
from harness.telemetry.prometheus import Prometheus

pytestmark = [pytest.mark.requires(part="prometheus"), pytest.mark.requires(**nvml.REQUIRES)]

GIB = 2**30
POWER = "ai_otel_gpu_allocation * on (hw_id) group_left () max by (hw_id) (hw_power_watts)"
INSTANCE_MEMORY = (
    'ai_otel_gpu_allocation{ai_otel_gpu_instance_id!=""} * on (hw_id, ai_otel_gpu_instance_id) group_left () '
    "max by (hw_id, ai_otel_gpu_instance_id) (hw_gpu_memory_usage_bytes)"
)
UNALLOCATED = "max by (hw_id) (hw_power_watts) unless on (hw_id) ai_otel_gpu_allocation"


@pytest.fixture(scope="module")
def queried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has received the agent's metrics."""
    directory = tmp_path_factory.mktemp("agent")
    with prometheus.running({}, directory / "prometheus") as server, kubelets.running() as kubelet:
        kubelet.pods = node.pods()
        environment = {
            "PATH": "/usr/bin:/bin",
            "K8S_NODE_NAME": "node-1",
            "AI_OTEL_GPU": "nvidia",
            "AI_OTEL_GPU_INTERVAL": "0.2",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{server.url}/api/v1/otlp/v1/metrics",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            **nvml.environment(node.scenario(), directory),
        }
        words = ["--kubelet", str(kubelet.socket.parent), "--listen", f"127.0.0.1:{free_port()}", "--interval", "0.5"]
        with (log := directory / "agent.log").open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "ai_otel.cli", "agent", *words], env=environment, stderr=output
            )
        try:
            assert until(lambda: bool(server.query("ai_otel_gpu_allocation") and server.query(POWER)), 60), (
                log.read_text()
            )
            yield server
        finally:
            end(process)


def test_power_joins_the_containers_of_a_device(queried: Prometheus) -> None:
    """Each container of a device has the device's own value, also if the device is shared."""
    (pair_a, pair_b) = [each for each in queried.query(POWER) if each.labels["k8s_pod_name"] == "pair"]
    assert {pair_a.labels["hw_id"], pair_b.labels["hw_id"]} == {node.gpu(2), node.gpu(3)}
    assert pair_a.value == pair_b.value == 300
    assert {each.labels["instance"] for each in queried.query("hw_power_watts")} == {"node-1"}
    sliced = [each for each in queried.query(POWER) if each.labels["hw_id"] == node.gpu(1)]
    assert {each.labels["k8s_pod_name"] for each in sliced} == {"sliced-a", "sliced-b", "sliced-c"}


def test_an_instances_memory_joins_the_instance(queried: Prometheus) -> None:
    found = queried.query(INSTANCE_MEMORY)
    instances = {held for held in node.TRUTH if held.instance is not None and held.attribution == "pod_resources"}
    assert {(each.labels["hw_id"], each.labels["ai_otel_gpu_instance_id"]) for each in found} == {
        (held.device, held.instance) for held in instances
    }
    assert {each.value / GIB for each in found} == {4.0}


def test_unallocated_devices_are_found(queried: Prometheus) -> None:
    """GPU 4 and 5 are held by claims, which this agent is not configured to map."""
    assert {each.labels["hw_id"] for each in queried.query(UNALLOCATED)} == {node.gpu(4), node.gpu(5)}
