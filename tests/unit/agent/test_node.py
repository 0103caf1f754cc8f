"""Who the agent says it is, where it asks, and when it calls itself ready."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from ai_otel.agent import node
from ai_otel.agent.node import Agent, resource
from ai_otel.gpu.source import Device, GpuReading, Unavailable
from ai_otel.settings import Settings, Surroundings
from ai_otel.testing import FakeGpu

IN_A_POD = {
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "POD_NAME": "agent-x",
    "POD_NAMESPACE": "ops",
    "NODE_NAME": "node-1",
}
GPU, OTHER = Device("GPU-1", "nvidia"), Device("GPU-2", "nvidia")


def test_the_node_speaks_and_not_the_pod_of_the_agent() -> None:
    told = resource(Surroundings.read(IN_A_POD), "node-1").attributes
    assert (told["service.name"], told["service.instance.id"]) == ("ai-otel-agent", "node-1")
    assert (told["k8s.node.name"], told["host.name"]) == ("node-1", "node-1")
    assert not [name for name in told if name.startswith("k8s.") and name != "k8s.node.name"]


def test_what_the_user_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gpus")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=rack-7,service.instance.id=seven,k8s.cluster.name=c")
    told = resource(Surroundings.read(IN_A_POD), "node-1").attributes
    assert (told["service.name"], told["service.instance.id"], told["host.name"]) == ("gpus", "seven", "rack-7")
    assert (told["k8s.cluster.name"], told["k8s.node.name"]) == ("c", "node-1")


def test_outside_of_a_cluster_it_is_this_host() -> None:
    told = resource(Surroundings.read({}), None).attributes
    assert told["host.name"] == socket.gethostname()
    assert "k8s.node.name" not in told
    assert told["service.instance.id"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, ("10.96.0.1", 443)),
        ({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, ("fd00::1", 6443)),
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "tcp://x"}, None),
    ],
)
def test_the_api_server_is_where_the_pods_variables_say(
    environment: dict[str, str], expected: tuple[str, int] | None
) -> None:
    assert Surroundings.read(environment).api_server == expected


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    source = FakeGpu({GPU: GpuReading(power_w=300.0), OTHER: GpuReading(power_w=200.0)})
    monkeypatch.setattr(node, "make_sources", lambda names, options: {"nvidia": source})
    return source


@pytest.fixture
def agent(tmp_path) -> Iterator[Agent]:
    """One whose two threads the test starts by itself."""
    made = Agent(Settings(agent_kubelet=str(tmp_path), gpu_interval=0.05), Surroundings.read(IN_A_POD))
    yield made
    made.sampler.stop()
    made.watch.stop()


def until_looked(agent: Agent) -> None:
    deadline = time.monotonic() + 30
    while agent.sampler.snapshot.taken_s is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_is_ready_once_both_threads_run_and_the_devices_were_looked_at(gpu: FakeGpu, agent: Agent) -> None:
    assert not agent.report().ready
    agent.sampler.start()
    until_looked(agent)
    assert not agent.report().ready
    agent.watch.start()
    report = agent.report()
    assert report.ready
    assert report.facts["sampler"]["sources"] == {"nvidia": "ok"}
    assert report.facts["sampler"]["devices"] == {"nvidia": 2}
    agent.sampler.stop()
    assert not agent.report().ready


def test_a_sampler_that_hangs_in_a_driver_is_not_ready(
    gpu: FakeGpu, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.sampler.start()
    agent.watch.start()
    until_looked(agent)
    assert agent.report().ready
    later = SimpleNamespace(perf_counter=lambda: time.perf_counter() + 2 * node.SILENT_S)
    monkeypatch.setattr(node, "time", later)
    assert not agent.report().ready


def test_a_device_that_is_lost_is_named(gpu: FakeGpu, agent: Agent) -> None:
    gpu.lost.add(GPU)
    agent.sampler.start()
    until_looked(agent)
    assert agent.report().facts["sampler"]["lost"] == ["GPU-1"]


def test_a_source_that_cannot_be_opened_says_why(gpu: FakeGpu, agent: Agent) -> None:
    gpu.trouble = Unavailable("The driver is not loaded: load it.", installed=True)
    agent.sampler.start()
    until_looked(agent)
    assert agent.report().facts["sampler"]["sources"] == {"nvidia": "The driver is not loaded: load it."}
