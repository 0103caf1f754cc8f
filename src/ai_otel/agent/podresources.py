"""
Device grants of containers: the kubelet's PodResources API, v1.

It lists the device plugins' ids, and claims by driver, pool and device. `identity.py` maps both to devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ai_otel.agent.kubelet import bounded, call
from ai_otel.gpu.wire import Table, messages

PACKAGE = "v1"
SERVICE = "/v1.PodResourcesLister"
MAX_GRANTS = 100_000

TABLE: Table = {
    "ListPodResourcesRequest": {},
    "ListPodResourcesResponse": {"pod_resources": (1, "repeated PodResources")},
    "AllocatableResourcesRequest": {},
    "AllocatableResourcesResponse": {"devices": (1, "repeated ContainerDevices")},
    "PodResources": {
        "name": (1, "string"),
        "namespace": (2, "string"),
        "containers": (3, "repeated ContainerResources"),
    },
    "ContainerResources": {
        "name": (1, "string"),
        "devices": (2, "repeated ContainerDevices"),
        "dynamic_resources": (5, "repeated DynamicResource"),
    },
    "ContainerDevices": {"resource_name": (1, "string"), "device_ids": (2, "repeated string")},
    "DynamicResource": {
        "claim_name": (2, "string"),
        "claim_namespace": (3, "string"),
        "claim_resources": (4, "repeated ClaimResource"),
    },
    "ClaimResource": {
        "driver_name": (2, "string"),
        "pool_name": (3, "string"),
        "device_name": (4, "string"),
        "share_id": (5, "string"),
    },
}
"""The fields that are read. Others are ignored."""


class Container(NamedTuple):
    """A container of this node, identified by its names."""

    namespace: str
    pod: str
    name: str


@dataclass(frozen=True, slots=True)
class PluginGrant:
    """A device that a device plugin granted to a container, by the plugin's id."""

    container: Container
    resource: str
    id: str


@dataclass(frozen=True, slots=True)
class ClaimGrant:
    """A device that a container holds through a resource claim (DRA)."""

    container: Container
    driver: str
    pool: str
    device: str
    share: bool = False
    """Whether the claim holds a share of the device only."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Key of the device in its ResourceSlice."""
        return self.driver, self.pool, self.device


Grant = PluginGrant | ClaimGrant


@cache
def _messages() -> Any:
    return messages(PACKAGE, TABLE)


def list_grants(path: Path) -> list[Grant]:
    """Return the current grants of all containers of this node. Raises `Unanswered`."""
    known = _messages()
    answer = call(path, f"{SERVICE}/List", known["ListPodResourcesRequest"](), known["ListPodResourcesResponse"])
    grants = (
        grant
        for pod in answer.pod_resources
        for container in pod.containers
        for grant in _grants(Container(pod.namespace, pod.name, container.name), container)
    )
    return bounded(grants, MAX_GRANTS, "devices of containers")


def list_allocatable(path: Path) -> list[tuple[str, str]]:
    """Return resource and id of every device that plugins of this node can grant. Raises `Unanswered`."""
    known = _messages()
    request, answer = known["AllocatableResourcesRequest"](), known["AllocatableResourcesResponse"]
    listed = call(path, f"{SERVICE}/GetAllocatableResources", request, answer)
    ids = ((devices.resource_name, each) for devices in listed.devices for each in devices.device_ids)
    return bounded(ids, MAX_GRANTS, "devices of plugins")


def _grants(container: Container, listed: Any) -> Iterator[Grant]:
    for devices in listed.devices:
        yield from (PluginGrant(container, devices.resource_name, each) for each in devices.device_ids)
    for dynamic in listed.dynamic_resources:
        for claim in dynamic.claim_resources:
            yield ClaimGrant(container, claim.driver_name, claim.pool_name, claim.device_name, bool(claim.share_id))
