"""The agent's resource, its configuration and its readiness."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from ai_otel.agent import node
from ai_otel.agent.node import Agent, resource
from ai_otel.gpu.source import Device, GpuReading, Unavailable
from ai_otel.settings import Environment, Settings
from ai_otel.testing import FakeGpu
from harness.polling import eventually

IN_A_POD = {
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "POD_NAME": "agent-x",
    "POD_NAMESPACE": "ops",
    "NODE_NAME": "node-1",
}
GPU, OTHER = Device("GPU-1", "nvidia"), Device("GPU-2", "nvidia")


def test_the_resource_is_the_node_and_not_the_agents_pod() -> None:
    attributes = resource(Environment.read(IN_A_POD), "node-1").attributes
    assert (attributes["service.name"], attributes["service.instance.id"]) == ("ai-otel-agent", "node-1")
    assert (attributes["k8s.node.name"], attributes["host.name"]) == ("node-1", "node-1")
    assert not [name for name in attributes if name.startswith("k8s.") and name != "k8s.node.name"]


def test_user_settings_of_the_resource_have_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gpus")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=rack-7,service.instance.id=seven,k8s.cluster.name=c")
    attributes = resource(Environment.read(IN_A_POD), "node-1").attributes
    assert (attributes["service.name"], attributes["service.instance.id"], attributes["host.name"]) == (
        "gpus",
        "seven",
        "rack-7",
    )
    assert (attributes["k8s.cluster.name"], attributes["k8s.node.name"]) == ("c", "node-1")


def test_outside_a_cluster_the_resource_is_this_host() -> None:
    attributes = resource(Environment.read({}), None).attributes
    assert attributes["host.name"] == socket.gethostname()
    assert "k8s.node.name" not in attributes
    assert attributes["service.instance.id"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, ("10.96.0.1", 443)),
        ({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, ("fd00::1", 6443)),
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "tcp://x"}, None),
    ],
)
def test_the_api_servers_address_is_from_the_pods_environment(
    environment: dict[str, str], expected: tuple[str, int] | None
) -> None:
    assert Environment.read(environment).api_server == expected


@pytest.mark.parametrize("direct", [True, False])
def test_the_emitter_can_be_chosen(monkeypatch: pytest.MonkeyPatch, direct: bool) -> None:
    pytest.importorskip("ai_otel.direct.meters", exc_type=ImportError)
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "console")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    made = node._providers(Environment.read({"OTEL_METRICS_EXPORTER": "console"}), None, direct=direct)
    assert made.direct == (("metrics",) if direct else ())
    made.shutdown()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    source = FakeGpu({GPU: GpuReading(power_w=300.0), OTHER: GpuReading(power_w=200.0)})
    monkeypatch.setattr(node, "make_sources", lambda places, options: {"nvidia": source})
    return source


@pytest.fixture
def agent(tmp_path) -> Iterator[Agent]:
    """An agent whose two threads are started by the test."""
    made = Agent(Settings(agent_kubelet=str(tmp_path), gpu_interval=0.05), Environment.read(IN_A_POD))
    yield made
    made.sampler.stop()
    made.poller.stop()


def wait_for_sample(agent: Agent) -> None:
    eventually(lambda: agent.sampler.snapshot.taken_s is not None)


def test_it_is_ready_once_both_threads_run_and_a_sample_exists(gpu: FakeGpu, agent: Agent) -> None:
    assert not agent.status().ready
    agent.sampler.start()
    wait_for_sample(agent)
    assert not agent.status().ready
    agent.poller.start()
    status = agent.status()
    assert status.ready
    assert status.facts["sampler"]["sources"] == {"nvidia": "ok"}
    assert status.facts["sampler"]["devices"] == {"nvidia": 2}
    agent.sampler.stop()
    assert not agent.status().ready


def test_an_agent_whose_sampler_hangs_in_a_driver_is_not_ready(
    gpu: FakeGpu, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.sampler.start()
    agent.poller.start()
    wait_for_sample(agent)
    assert agent.status().ready
    later = SimpleNamespace(perf_counter=lambda: time.perf_counter() + 2 * node.STALE_S)
    monkeypatch.setattr(node, "time", later)
    assert not agent.status().ready


def test_lost_devices_are_listed(gpu: FakeGpu, agent: Agent) -> None:
    gpu.lost.add(GPU)
    agent.sampler.start()
    wait_for_sample(agent)
    assert agent.status().facts["sampler"]["lost"] == ["GPU-1"]


def test_a_source_that_cannot_be_opened_states_the_reason(gpu: FakeGpu, agent: Agent) -> None:
    gpu.trouble = Unavailable("The driver is not loaded: load it.", installed=True)
    agent.sampler.start()
    wait_for_sample(agent)
    assert agent.status().facts["sampler"]["sources"] == {"nvidia": "The driver is not loaded: load it."}
