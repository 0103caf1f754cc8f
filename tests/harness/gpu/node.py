"""A simulated node with 8 GPUs, 20 pods that hold them in every supported way, and the expected allocations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.gpu.kubelet import Claim, Pod
from harness.gpu.nvml import Gpu, Instance, Scenario
from harness.gpu.slices import resource_slice

DRIVER = "gpu.nvidia.com"


def gpu(number: int) -> str:
    """Return a GPU's UUID."""
    return f"GPU-51a0fa4e-0000-4000-8000-{number:012d}"


def mig(number: int, instance: int) -> str:
    """Return a MIG device's UUID."""
    return f"MIG-51a0fa4e-0000-4000-8000-{number:06d}{instance:06d}"


INSTANCES: Mapping[int, Sequence[int]] = {0: range(8, 14), 5: (1, 2), 7: (1, 2, 3)}
"""GPU → its MIG instances."""


def scenario() -> Scenario:
    """Return the node's GPUs. Minor numbers are in reverse order of enumeration, to detect mapping by index."""
    return Scenario(
        gpus=[
            Gpu(
                uuid=gpu(number),
                minor=7 - number,
                bus_id=f"00000000:{0x10 + number:02X}:00.0",
                instances=[Instance(gi=each, uuid=mig(number, each)) for each in INSTANCES.get(number, ())],
            )
            for number in range(8)
        ]
    )


def slices() -> list[dict[str, Any]]:
    """Return the ResourceSlices of GPUs 4 and 5. `mig-dynamic` is created on allocation."""
    devices = {
        "gpu-3": {"type": "gpu", "uuid": gpu(4), "resource.kubernetes.io/pciBusID": "0000:14:00.0"},
        "gpu-2-mig-1": {"type": "mig", "uuid": mig(5, 1), "parentUUID": gpu(5)},
        "gpu-2-mig-2": {"type": "mig", "uuid": mig(5, 2), "parentUUID": gpu(5)},
        "gpu-2-mig-dynamic": {"type": "mig", "parentUUID": gpu(5)},
    }
    return [resource_slice({name: attributes}, name=f"slice-{name}") for name, attributes in devices.items()]


@dataclass(frozen=True)
class Held:
    """One expected allocation: a device or instance, its pod, and how it is shared."""

    pod: str
    device: str
    instance: str | None
    sharing: str
    attribution: str = "pod_resources"


def plugin(name: str, resource: str, *ids: str) -> Pod:
    """Return a pod whose container holds devices of a device plugin."""
    return Pod(name, "ml", {"server": {resource: ids}}, uid=f"uid-{name}")


def claim(name: str, device: str) -> Pod:
    """Return a pod whose container holds a claim."""
    return Pod(name, "ml", claims={"server": [Claim(DRIVER, "node-1", device)]}, uid=f"uid-{name}")


def pods() -> list[Pod]:
    """20 pods that hold devices; and one that holds none, and one that holds something else."""
    return [
        *(plugin(f"mig-{each}", "nvidia.com/mig-1g.18gb", mig(0, each)) for each in INSTANCES[0]),
        plugin("sliced-a", "nvidia.com/gpu.shared", f"{gpu(1)}::0", f"{gpu(1)}::1"),
        plugin("sliced-b", "nvidia.com/gpu.shared", f"{gpu(1)}::2"),
        plugin("sliced-c", "nvidia.com/gpu.shared", f"{gpu(1)}::3"),
        plugin("pair", "nvidia.com/gpu", gpu(2), gpu(3)),
        claim("claim-a", "gpu-3"),
        claim("claim-b", "gpu-3"),
        claim("claimed-mig-1", "gpu-2-mig-1"),
        claim("claimed-mig-2", "gpu-2-mig-2"),
        plugin("gke-a", "nvidia.com/gpu", "nvidia1/vgpu0"),
        plugin("gke-b", "nvidia.com/gpu", "nvidia1/vgpu1"),
        plugin("gke-mig", "nvidia.com/gpu", "nvidia0/gi1"),
        plugin("gke-mig-a", "nvidia.com/gpu", "nvidia0/gi2/vgpu0"),
        plugin("gke-mig-b", "nvidia.com/gpu", "nvidia0/gi2/vgpu1"),
        plugin("old-mig", "nvidia.com/gpu", f"MIG-{gpu(7)}/3/0"),
        Pod("web", "web", uid="uid-web"),
        Pod("network", "web", {"nic": {"example.com/nic": ["eth1"]}}, uid="uid-network"),
    ]


TRUTH = {
    *(Held(f"mig-{each}", gpu(0), str(each), "mig") for each in INSTANCES[0]),
    *(Held(f"sliced-{each}", gpu(1), None, "time_slicing") for each in "abc"),
    Held("pair", gpu(2), None, "exclusive"),
    Held("pair", gpu(3), None, "exclusive"),
    Held("claim-a", gpu(4), None, "claim", "dra"),
    Held("claim-b", gpu(4), None, "claim", "dra"),
    Held("claimed-mig-1", gpu(5), "1", "mig", "dra"),
    Held("claimed-mig-2", gpu(5), "2", "mig", "dra"),
    Held("gke-a", gpu(6), None, "time_slicing"),
    Held("gke-b", gpu(6), None, "time_slicing"),
    Held("gke-mig", gpu(7), "1", "mig"),
    Held("gke-mig-a", gpu(7), "2", "time_slicing"),
    Held("gke-mig-b", gpu(7), "2", "time_slicing"),
    Held("old-mig", gpu(7), "3", "mig"),
}
