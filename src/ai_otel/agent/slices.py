"""
Descriptions of claimed devices: the ResourceSlices that DRA drivers publish for a node, by driver, pool and device.

The attribute `uuid` and the standard PCI address of whole devices are used. Devices that are created on allocation,
such as dynamic MIG devices, have neither and are not mapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ai_otel.agent.api_server import ApiServer, NoSuchResource

VERSIONS = ("v1", "v1beta2", "v1beta1")
PCI_BUS_ID = "resource.kubernetes.io/pciBusID"

Key = tuple[str, str, str]
"""Driver, pool, device."""


class SliceDevice(NamedTuple):
    """A device as its driver describes it."""

    uuid: str | None = None
    pci_bus_id: str | None = None
    kind: str | None = None
    """The driver's `type`: for NVIDIA `gpu`, `mig`, `vfio`."""


def read_slices(server: ApiServer, node: str) -> Mapping[Key, SliceDevice]:
    """Return every device of a node. Raises `ApiServerError`."""
    missing: NoSuchResource | None = None
    for version in VERSIONS:
        path = f"/apis/resource.k8s.io/{version}/resourceslices"
        try:
            return devices_of(list(server.items(path, fieldSelector=f"spec.nodeName={node}")))
        except NoSuchResource as error:
            missing = missing or error
    raise missing or NoSuchResource("the API server has no ResourceSlices")


def devices_of(slices: Iterable[Mapping[str, Any]]) -> Mapping[Key, SliceDevice]:
    """Return the devices of the newest generation of each pool."""
    specs = [each.get("spec") or {} for each in slices]
    newest: dict[tuple[str, str], int] = {}
    for spec in specs:
        pool, generation = _pool(spec)
        newest[pool] = max(generation, newest.get(pool, generation))
    return {
        (*pool, device["name"]): _device(device, pool[0])
        for spec in specs
        for pool, generation in [_pool(spec)]
        if generation == newest[pool]
        for device in _devices(spec)
    }


def _pool(spec: Mapping[str, Any]) -> tuple[tuple[str, str], int]:
    pool = spec.get("pool") or {}
    return (str(spec.get("driver", "")), str(pool.get("name", ""))), int(pool.get("generation") or 0)


def _devices(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for device in spec.get("devices") or ():
        if device.get("name"):
            yield device


def _device(device: Mapping[str, Any], driver: str) -> SliceDevice:
    # v1beta1 nests them one level deeper.
    attributes = device.get("attributes") or (device.get("basic") or {}).get("attributes") or {}

    def text(name: str) -> str | None:
        # A name without a domain belongs to the driver.
        value = attributes.get(name) or attributes.get(f"{driver}/{name}") or {}
        found = value.get("string")
        return str(found) if found else None

    return SliceDevice(uuid=text("uuid"), pci_bus_id=text(PCI_BUS_ID), kind=text("type"))
