"""The kubelet poller: restarts, the rate limit, the Pods API and the API server."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from ai_otel.agent import kubelet_poller
from ai_otel.agent.allocation import Allocated, UnmappedReason
from ai_otel.agent.kubelet_poller import KubeletPoller, PollerOptions
from ai_otel.gpu.source import Device
from harness.gpu import node
from harness.gpu.kubelet import BURST, Claim, Kubelet, Pod
from harness.gpu.polling import GPU, Clock, holding, pods_of
from harness.gpu.slices import Api, Trust, serving
from harness.polling import eventually

# ---------------------------------------------------------------- kubelet restarts


def test_without_a_kubelet_the_reason_is_logged_once(
    options: PollerOptions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    poller = KubeletPoller(replace(options, kubelet=tmp_path / "kubelet.sock"), lambda: [GPU])
    for _ in range(3):
        assert poller.poll().allocated == Allocated()
    (sentence,) = caplog.messages
    assert "mount its directory" in sentence
    assert poller.view.listed_at_s is None


def test_allocations_are_kept_over_a_restart_of_the_kubelet(kubelet: Kubelet, options: PollerOptions) -> None:
    kubelet.pods = [holding("one", "GPU-1")]
    poller = KubeletPoller(replace(options, interval_s=0.1), lambda: [GPU])
    poller.start()
    try:
        eventually(lambda: pods_of(poller) == ["one"], 30)
        kubelet.stop()
        eventually(lambda: "kubelet" in poller.view.errors, 30)
        assert pods_of(poller) == ["one"], "a restart moves no device"
        kubelet.pods = [holding("two", "GPU-1")]
        kubelet.start(pods_api=True)
        eventually(lambda: pods_of(poller) == ["two"], 30)
        assert poller.view.errors == {}
    finally:
        poller.stop()
    assert not poller.alive


def test_the_last_response_expires(kubelet: Kubelet, options: PollerOptions) -> None:
    clock = Clock()
    kubelet.pods = [holding("one", "GPU-1")]
    poller = KubeletPoller(options, lambda: [GPU], clock=clock)
    poller.poll()
    kubelet.stop()
    clock.now_s += kubelet_poller.RETENTION_S
    poller.poll()
    assert pods_of(poller) == ["one"]
    clock.now_s += 1
    poller.poll()
    assert pods_of(poller) == []


# ---------------------------------------------------------------- rate limit


def test_the_minimum_interval_stays_below_the_kubelets_rate_limit(kubelet: Kubelet, options: PollerOptions) -> None:
    """The simulated kubelet limits calls like the real one: 100 a second, bursts of 10."""
    poller = KubeletPoller(replace(options, interval_s=0.001), lambda: [GPU])
    assert poller.wait_s() == kubelet_poller.MIN_INTERVAL_S
    began = time.monotonic()
    poller.start()
    eventually(lambda: kubelet.calls["List"] >= 15, 30)
    poller.stop()
    elapsed_s = time.monotonic() - began
    assert kubelet.refused == 0
    assert kubelet.calls["List"] <= elapsed_s / kubelet_poller.MIN_INTERVAL_S + 1
    assert kubelet.calls["GetAllocatableResources"] == 1


def test_a_poll_makes_fewer_calls_than_a_burst_allows(kubelet: Kubelet, options: PollerOptions) -> None:
    kubelet.pods = [holding("one", "GPU-1")]
    KubeletPoller(options, lambda: [GPU]).poll()
    assert kubelet.calls == {"List": 1, "GetAllocatableResources": 1, "ListPods": 1}
    assert kubelet.calls.total() < BURST


def test_a_refusal_doubles_the_interval_until_the_next_response(kubelet: Kubelet, options: PollerOptions) -> None:
    kubelet.pods = [holding("one", "GPU-1")]
    poller = KubeletPoller(options, lambda: [GPU], jitter=lambda: 0.0)
    poller.poll()
    kubelet.exhausted = True
    waits = []
    for _ in range(7):
        poller.poll()
        waits.append(poller.wait_s())
    assert waits == [30, 60, 120, 240, 300, 300, 300]
    assert "over its rate limit" in poller.view.errors["kubelet"]
    assert pods_of(poller) == ["one"]
    kubelet.exhausted = False
    poller.poll()
    assert (poller.wait_s(), poller.view.errors) == (15, {})


def test_an_older_kubelet_without_allocatable_devices_is_supported(kubelet: Kubelet, options: PollerOptions) -> None:
    kubelet.allocatable = None
    kubelet.pods = [holding("one", "GPU-1")]
    poller = KubeletPoller(options, lambda: [GPU])
    poller.poll()
    poller.poll()
    assert pods_of(poller) == ["one"]
    assert kubelet.calls["GetAllocatableResources"] == 1
    assert poller.view.errors == {}


# ---------------------------------------------------------------- the Pods API and the API server


def test_without_the_pods_api_pods_are_identified_by_name(
    kubelet: Kubelet, options: PollerOptions, tmp_path: Path
) -> None:
    kubelet.pods = [holding("one", "GPU-1")]
    poller = KubeletPoller(replace(options, pods_api=tmp_path / "pods-api.sock"), lambda: [GPU])
    (allocation,) = poller.poll().allocated.allocations
    assert allocation.pod_uid is None
    assert poller.view.errors == {}


def test_pods_are_identified_by_name_if_the_pods_api_is_unreadable(kubelet: Kubelet, options: PollerOptions) -> None:
    kubelet.pods = [holding("one", "GPU-1")]
    kubelet.pods_answer = lambda: [b"\xff"]
    (allocation,) = KubeletPoller(options, lambda: [GPU]).poll().allocated.allocations
    assert allocation.pod_uid is None


def test_ended_pods_of_the_pods_api_are_left_out(kubelet: Kubelet, options: PollerOptions) -> None:
    kubelet.pods = [replace(holding("ended", "GPU-1"), phase="Succeeded"), holding("one", "GPU-1")]
    poller = KubeletPoller(options, lambda: [GPU])
    poller.poll()
    assert pods_of(poller) == ["one"]
    assert poller.view.allocated.ended == 1


def test_the_api_server_is_requested_at_long_intervals(
    kubelet: Kubelet, options: PollerOptions, trust: Trust, tmp_path: Path
) -> None:
    """Never without a claim, every 30 s for unknown claims, else every 10 minutes."""
    clock, api = Clock(), Api(node.slices(), page=500)
    with serving(api, trust, tmp_path / "account") as server:
        poller = KubeletPoller(
            replace(options, slices_on=True, api_server=server), lambda: [GPU], clock=clock, jitter=lambda: 0.0
        )

        def questions(seconds: float, *pods: Pod) -> int:
            kubelet.pods = list(pods)
            clock.now_s += seconds
            before = len(api.asked)
            poller.poll()
            return len(api.asked) - before

        known, unknown = node.claim("a", "gpu-3"), node.claim("b", "gpu-99")
        nic = Pod("nic", claims={"c": [Claim("dra.net", "node-1", "eth0")]})
        assert questions(0) == questions(0, holding("one", "GPU-1")) == questions(0, nic) == 0
        assert questions(0, known) == 1
        assert questions(15, known) == 0
        assert questions(0, known, unknown) == 0
        assert questions(16, known, unknown) == 1
        assert questions(15, known, unknown) == 0
        assert questions(584, known) == 0
        assert questions(2, known) == 1


def test_a_forbidden_api_server_is_reported_until_access_is_granted(
    kubelet: Kubelet, options: PollerOptions, trust: Trust, tmp_path: Path
) -> None:
    clock, api = Clock(), Api(node.slices(), allowed=False)
    kubelet.pods = [node.claim("a", "gpu-3"), holding("one", "GPU-1")]
    with serving(api, trust, tmp_path / "account") as server:
        poller = KubeletPoller(
            replace(options, slices_on=True, api_server=server),
            lambda: [GPU, Device(node.gpu(4), "nvidia")],
            clock=clock,
        )
        for _ in range(2):
            poller.poll()
            assert "ClusterRole" in poller.view.errors["api_server"]
            assert pods_of(poller) == ["one"]
        api.allowed = True
        clock.now_s += 31
        poller.poll()
    assert pods_of(poller) == ["a", "one"]
    assert poller.view.errors == {}


def test_without_the_nodes_name_the_next_step_is_the_downward_api(
    kubelet: Kubelet, options: PollerOptions, trust: Trust, tmp_path: Path
) -> None:
    kubelet.pods = [node.claim("a", "gpu-3")]
    with serving(Api([]), trust, tmp_path / "account") as server:
        view = KubeletPoller(replace(options, slices_on=True, api_server=server, node=None), lambda: [GPU]).poll()
    assert "K8S_NODE_NAME" in view.errors["api_server"]


def test_outside_a_pod_claims_are_unmapped_with_a_reason(kubelet: Kubelet, options: PollerOptions) -> None:
    kubelet.pods = [node.claim("a", "gpu-3")]
    view = KubeletPoller(replace(options, slices_on=True), lambda: [GPU]).poll()
    assert "does not run in a pod" in view.errors["api_server"]
    assert [each.why for each in view.allocated.unmapped] == [UnmappedReason.NO_SLICES]
