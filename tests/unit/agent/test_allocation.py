"""Joins the kubelet's grants with the sampled devices."""

from __future__ import annotations

from typing import Any

import pytest

from ai_otel import semconv
from ai_otel.agent.allocation import (
    DRA,
    POD_RESOURCES,
    Allocated,
    Allocation,
    NodeState,
    UnmappedReason,
    is_wanted,
    join,
)
from ai_otel.agent.identity import Inventory
from ai_otel.agent.metrics import attributes
from ai_otel.agent.podresources import ClaimGrant, Container, PluginGrant
from ai_otel.agent.pods import Pod
from ai_otel.agent.slices import SliceDevice
from ai_otel.gpu.source import Device
from ai_otel.settings import Settings

GPU, MIG = (
    Device("GPU-1", "nvidia"),
    Device("GPU-1", "nvidia", instance_id="7", instance_uuid="MIG-1", instance_profile="1g"),
)
INVENTORY = Inventory([GPU, MIG])
ONE, TWO = Container("ml", "one", "server"), Container("ml", "two", "server")
WANTED = Settings().agent_resources
DRIVER = "gpu.nvidia.com"


def node(**known: Any) -> NodeState:
    return NodeState(wanted=WANTED, **known)


def plugin(container: Container, id_: str, resource: str = "nvidia.com/gpu") -> PluginGrant:
    return PluginGrant(container, resource, id_)


def claim(container: Container, device: str, *, share: bool = False) -> ClaimGrant:
    return ClaimGrant(container, DRIVER, "node-1", device, share)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("nvidia.com/gpu", True),
        ("nvidia.com/gpu.shared", True),
        ("nvidia.com/mig-1g.18gb", True),
        ("nvidia.com/mig-1g.18gb.shared", True),
        ("amd.com/gpu", True),
        ("amd.com/cpx_nps4", True),
        ("gpu.intel.com/i915", True),
        ("gpu.intel.com/xe", True),
        ("gpu.intel.com/i915_monitoring", False),
        ("google.com/tpu", True),
        ("aws.amazon.com/neuron", True),
        ("aws.amazon.com/neuroncore", True),
        ("gpu.nvidia.com", True),
        ("gpu.intel.com", True),
        ("compute-domain.nvidia.com", False),
        ("rdma/hca", False),
        ("example.com/nic", False),
    ],
)
def test_by_default_only_accelerators_are_mapped(name: str, wanted: bool) -> None:
    assert is_wanted(name, WANTED) is wanted


def test_other_resources_are_neither_mapped_nor_listed_as_unmapped() -> None:
    assert join([plugin(ONE, "eth0", "example.com/nic")], INVENTORY, node()) == Allocated()


def test_two_shares_of_a_device_are_one_allocation_of_a_container() -> None:
    allocated = join([plugin(ONE, "GPU-1::0"), plugin(ONE, "GPU-1::1"), plugin(TWO, "GPU-1::2")], INVENTORY, node())
    assert allocated.allocations == (
        Allocation(GPU, ONE, "time_slicing", POD_RESOURCES),
        Allocation(GPU, TWO, "time_slicing", POD_RESOURCES),
    )


def test_a_claimed_device_with_several_holders_or_a_share_is_shared() -> None:
    slices = {(DRIVER, "node-1", "gpu-0"): SliceDevice("GPU-1"), (DRIVER, "node-1", "mig-0"): SliceDevice("MIG-1")}

    def sharing(*grants: ClaimGrant) -> list[str]:
        allocated = join(grants, INVENTORY, node(slices=slices))
        assert {each.attribution for each in allocated.allocations} == {DRA}
        return [each.sharing for each in allocated.allocations]

    assert sharing(claim(ONE, "gpu-0")) == ["exclusive"]
    assert sharing(claim(ONE, "gpu-0"), claim(TWO, "gpu-0")) == ["claim", "claim"]
    assert sharing(claim(ONE, "gpu-0", share=True)) == ["claim"]
    assert sharing(claim(ONE, "mig-0")) == ["mig"]
    assert sharing(claim(ONE, "gpu-0"), claim(TWO, "mig-0")) == ["exclusive", "mig"]


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ({}, UnmappedReason.SLICES_OFF),
        ({"slices_on": True}, UnmappedReason.NO_SLICES),
        ({"slices": {}}, UnmappedReason.NOT_IN_SLICES),
        ({"slices": {(DRIVER, "node-1", "gpu-0"): SliceDevice(kind="mig")}}, UnmappedReason.NO_UUID),
        ({"slices": {(DRIVER, "node-1", "gpu-0"): SliceDevice("GPU-9")}}, UnmappedReason.NO_DEVICE),
        (
            {"slices": {(DRIVER, "node-1", "gpu-0"): SliceDevice(pci_bus_id="0:0", kind="gpu")}},
            UnmappedReason.NO_DEVICE,
        ),
        ({"slices": {(DRIVER, "node-1", "gpu-0"): SliceDevice(pci_bus_id="0:0", kind="mig")}}, UnmappedReason.NO_UUID),
    ],
)
def test_an_unmapped_claim_states_the_reason(known: dict[str, Any], why: UnmappedReason) -> None:
    (unmapped,) = join([claim(ONE, "gpu-0")], INVENTORY, node(**known)).unmapped
    assert unmapped.why is why
    assert str(unmapped) == f"{DRIVER} node-1/gpu-0, held by ml/one/server, is not mapped to a device: {why.value}"


def test_an_unmapped_id_does_not_affect_the_others() -> None:
    allocated = join([plugin(ONE, "3"), plugin(TWO, "GPU-1")], INVENTORY, node())
    (unmapped,) = allocated.unmapped
    assert (unmapped.what, unmapped.id, unmapped.why) == ("nvidia.com/gpu", "3", UnmappedReason.NO_DEVICE)
    assert [each.container for each in allocated.allocations] == [TWO]


def test_a_pod_that_has_ended_holds_nothing() -> None:
    """Kubelets before 1.34 still list its devices."""
    pods = [Pod("ml", "one", "u-1", "Succeeded"), Pod("ml", "two", "u-2", "Running"), Pod("web", "one", "u", "Failed")]
    allocated = join([plugin(ONE, "GPU-1"), plugin(TWO, "GPU-1")], INVENTORY, node(pods=pods))
    assert [(each.container, each.pod_uid) for each in allocated.allocations] == [(TWO, "u-2")]
    assert allocated.ended == 1


def test_a_pods_uid_is_set_only_if_one_living_pod_has_the_name() -> None:
    living, other, ended = (
        Pod("ml", "one", uid, phase) for uid, phase in (("a", "Running"), ("b", "Pending"), ("c", "Failed"))
    )
    for pods, uid in (([living, ended], "a"), ([living, other], None), ([], None), (None, None)):
        (allocation,) = join([plugin(ONE, "GPU-1")], INVENTORY, node(pods=pods)).allocations
        assert allocation.pod_uid == uid


def test_the_attributes_of_a_point_are_the_contracts() -> None:
    allocated = attributes(Allocation(MIG, ONE, "mig", DRA, "u-1"))
    assert allocated == {
        "hw.id": "GPU-1",
        "ai_otel.gpu.instance.id": "7",
        "ai_otel.gpu.instance.profile": "1g",
        "k8s.namespace.name": "ml",
        "k8s.pod.name": "one",
        "k8s.container.name": "server",
        "k8s.pod.uid": "u-1",
        "ai_otel.gpu.sharing": "mig",
        "ai_otel.gpu.attribution": "dra",
    }
    assert set(allocated) <= set(semconv.AI_OTEL_GPU_ALLOCATION.attributes)
    assert {POD_RESOURCES, DRA} == set(semconv.GPU_ATTRIBUTIONS)
    assert "k8s.pod.uid" not in attributes(Allocation(GPU, ONE, "exclusive", POD_RESOURCES))
