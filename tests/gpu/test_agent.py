"""The node agent against a kubelet over real gRPC, an API server over HTTPS, and a simulated NVML."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from ai_otel.agent.allocation import UnmappedReason
from ai_otel.agent.kubelet_poller import KubeletPoller, PollerOptions
from ai_otel.agent.metrics import observe_allocations
from ai_otel.gpu.nvidia.source import NvmlSource
from ai_otel.gpu.sampler import Sampler
from ai_otel.gpu.source import Device, GpuReading, Options
from ai_otel.testing import FakeGpu
from harness.collector.process import until
from harness.gpu import node, nvml
from harness.gpu.kubelet import Kubelet
from harness.gpu.node import Held
from harness.gpu.polling import GPU, Clock, holding, pods_of
from harness.gpu.slices import Api, Trust, serving

# ---------------------------------------------------------------- a whole node


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[Sequence[Device]]:
    """The devices that the production source enumerates."""
    with nvml.library(tmp_path, node.scenario()):
        source = NvmlSource(Options())
        yield source.open()
        source.close()


def exported(provider: MeterProvider, reader: InMemoryMetricReader) -> dict[Held, dict[str, object]]:
    """Return every point of the allocation metric."""
    data = reader.get_metrics_data()
    points = [
        point
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "ai_otel.gpu.allocation"
        for point in metric.data.data_points
    ]
    assert {point.value for point in points} <= {1}
    return {
        Held(
            str(point.attributes["k8s.pod.name"]),
            str(point.attributes["hw.id"]),
            point.attributes.get("ai_otel.gpu.instance.id"),
            str(point.attributes["ai_otel.gpu.sharing"]),
            str(point.attributes["ai_otel.gpu.attribution"]),
        ): dict(point.attributes)
        for point in points
    }


@pytest.mark.requires(**nvml.REQUIRES)
def test_the_allocations_of_20_pods_on_8_gpus_are_complete(
    devices: Sequence[Device], kubelet: Kubelet, options: PollerOptions, trust: Trust, tmp_path: Path
) -> None:
    """MIG, time-slicing, GKE's names and claims, with UIDs from the Pods API. An ended pod has no point."""
    assert len(devices) == 8 + 11
    kubelet.pods = node.pods()
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    with serving(Api(node.slices()), trust, tmp_path / "account") as server:
        poller = KubeletPoller(replace(options, slices_on=True, api_server=server), lambda: devices)
        observe_allocations(provider.get_meter("ai_otel"), lambda: poller.view.allocated)
        poller.poll()
        points = exported(provider, reader)
        assert set(points) == node.TRUTH
        assert len({held.pod for held in points}) == 20
        assert poller.view.allocated.unmapped == ()
        assert poller.view.errors == {}
        for held, point in points.items():
            assert point["k8s.namespace.name"] == "ml"
            assert point["k8s.container.name"] == "server"
            assert point["k8s.pod.uid"] == f"uid-{held.pod}"
            assert point.get("ai_otel.gpu.instance.profile") == ("1g.18gb" if held.instance else None)
        kubelet.pods = [pod for pod in kubelet.pods if not pod.name.startswith(("mig-", "claim-b", "pair"))]
        poller.poll()
        left = {held for held in node.TRUTH if not held.pod.startswith(("mig-", "claim-", "pair"))}
        # A claim that two pods shared is exclusive now.
        assert set(exported(provider, reader)) == {*left, Held("claim-a", node.gpu(4), None, "exclusive", "dra")}
    provider.shutdown()


@pytest.mark.requires(**nvml.REQUIRES)
def test_a_dynamic_mig_device_is_unmapped_and_logged_once(
    devices: Sequence[Device],
    kubelet: Kubelet,
    options: PollerOptions,
    trust: Trust,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kubelet.pods = [node.claim("dynamic", "gpu-2-mig-dynamic"), node.claim("static", "gpu-2-mig-1")]
    with serving(Api(node.slices()), trust, tmp_path / "account") as server:
        poller = KubeletPoller(replace(options, slices_on=True, api_server=server), lambda: devices)
        for _ in range(3):
            poller.poll()
    (unmapped,) = poller.view.allocated.unmapped
    assert (unmapped.container.pod, unmapped.why) == ("dynamic", UnmappedReason.NO_UUID)
    assert pods_of(poller) == ["static"]
    (sentence,) = caplog.messages
    assert "gpu.nvidia.com node-1/gpu-2-mig-dynamic, held by ml/dynamic/server, is not mapped" in sentence


# ---------------------------------------------------------------- rediscovery


def test_missing_held_device_triggers_rediscovery(
    kubelet: Kubelet, options: PollerOptions, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that rediscovery does not find is logged. MIG instances may be created at run time."""
    seen, asked = [GPU], []
    kubelet.pods = [holding("one", "GPU-1"), holding("two", "MIG-new"), holding("three", "MIG-elsewhere")]

    def rediscover() -> None:
        asked.append(len(seen))
        seen.append(Device("GPU-1", "nvidia", instance_id="1", instance_uuid="MIG-new"))

    poller = KubeletPoller(options, lambda: list(seen), rediscover)
    poller.poll()
    assert (pods_of(poller), len(asked), caplog.messages) == (["one"], 1, [])
    poller.poll()
    poller.poll()
    assert (pods_of(poller), len(asked)) == (["one", "two"], 1)
    (sentence,) = caplog.messages
    assert "nvidia.com/gpu MIG-elsewhere, held by ml/three/server, is not mapped" in sentence


def test_unknown_ids_trigger_at_most_one_rediscovery_a_minute(
    kubelet: Kubelet, options: PollerOptions, caplog: pytest.LogCaptureFixture
) -> None:
    """HAMi, for example, generates new ids for each pod. Each id is logged once."""
    clock, asked = Clock(), []
    poller = KubeletPoller(options, lambda: [GPU], lambda: asked.append(clock.now_s), clock=clock)
    for second, pods in ((0, "a0"), (15, "a0 b1"), (30, "c0 b1"), (61, "c0 b1"), (76, "d1"), (91, "d0")):
        kubelet.pods = [holding(name[0], f"GPU-1-{name[1]}") for name in pods.split()]
        clock.now_s = 1000 + second
        poller.poll()
    assert asked == [1000, 1061]
    assert [message.partition(", held")[0] for message in caplog.messages] == [
        "ai-otel: nvidia.com/gpu GPU-1-0",
        "ai-otel: nvidia.com/gpu GPU-1-1",
    ]


def test_rediscovery_finds_new_devices_and_keeps_counters() -> None:
    gpu = FakeGpu({GPU: GpuReading(energy_j=100.0)})
    sampler = Sampler(lambda: {"fake": gpu}, clock=(clock := Clock()))
    sampler.rediscover()
    sampler.collect()
    gpu.readings[GPU] = GpuReading(energy_j=7.0)
    clock.now_s += 1
    sampler.collect()
    instance = Device("GPU-1", "nvidia", instance_id="1")
    gpu.readings[instance] = GpuReading()
    sampler.rediscover()
    clock.now_s += 1
    sampler.collect()
    assert [(sample.device, sample.reading.energy_j) for sample in sampler.snapshot.samples] == [
        (GPU, 107.0),
        (instance, None),
    ]
    assert (gpu.opened, gpu.closed) == (2, 1)


def test_without_devices_rediscovery_runs_each_minute(kubelet: Kubelet, options: PollerOptions) -> None:
    """A driver may be installed at run time."""
    clock, asked = Clock(), []
    poller = KubeletPoller(options, list, lambda: asked.append(clock.now_s), clock=clock)
    for _ in range(5):
        poller.poll()
        clock.now_s += 31
    assert asked == [1062, 1124]


def test_a_failed_poll_is_reported_and_polling_continues(
    kubelet: Kubelet, options: PollerOptions, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    broken = True

    def devices() -> Sequence[Device]:
        if broken:
            raise RuntimeError("a bug")
        return [GPU]

    kubelet.pods = [holding("one", "GPU-1")]
    poller = KubeletPoller(replace(options, interval_s=0.1), devices)
    poller.start()
    try:
        assert until(lambda: "a poll of the agent failed" in poller.view.errors.get("kubelet", ""), 30)
        broken = False
        assert until(lambda: pods_of(poller) == ["one"], 30)
    finally:
        poller.stop()
