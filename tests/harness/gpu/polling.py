"""Helpers of the kubelet poller's tests."""

from __future__ import annotations

from ai_otel.agent.kubelet_poller import KubeletPoller
from ai_otel.gpu.source import Device
from harness.gpu.kubelet import Pod

GPU = Device("GPU-1", "nvidia")


def holding(name: str, *ids: str) -> Pod:
    return Pod(name, "ml", {"server": {"nvidia.com/gpu": ids}}, uid=f"uid-{name}")


def pods_of(poller: KubeletPoller) -> list[str]:
    return sorted(each.container.pod for each in poller.view.allocated.allocations)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s
