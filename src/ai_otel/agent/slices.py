"""
Descriptions of claimed devices: the ResourceSlices that DRA drivers publish for a node, by driver, pool and device.

The attribute `uuid` and the standard PCI address of whole devices are used. Devices that are created on allocation,
such as dynamic MIG devices, have neither and are not mapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ai_otel.agent.api_server import ApiServer, MalformedAnswer, NoSuchResource

VERSIONS = ("v1", "v1beta2", "v1beta1")
PCI_BUS_ID = "resource.kubernetes.io/pciBusID"
MAX_DEVICES = 10_000

Key = tuple[str, str, str]
"""Driver, pool, device."""


class SliceDevice(NamedTuple):
    """A device as its driver describes it."""

    uuid: str | None = None
    pci_bus_id: str | None = None
    kind: str | None = None
    """The driver's `type`: for NVIDIA `gpu`, `mig`, `vfio`."""


class Slices(NamedTuple):
    """Every device of a node, and how many descriptions were left out because they are not what the API defines."""

    devices: Mapping[Key, SliceDevice]
    malformed: int = 0


class _Slice(NamedTuple):
    driver: str
    pool: str
    generation: int
    devices: Sequence[object]


def read_slices(server: ApiServer, node: str) -> Slices:
    """Return every device of a node. Raises `ApiServerError`."""
    missing: NoSuchResource | None = None
    for version in VERSIONS:
        path = f"/apis/resource.k8s.io/{version}/resourceslices"
        try:
            return devices_of(server.items(path, fieldSelector=f"spec.nodeName={node}"))
        except NoSuchResource as error:
            missing = missing or error
    raise missing or NoSuchResource("the API server has no ResourceSlices")


def devices_of(slices: Iterable[object]) -> Slices:
    """Return the devices of the newest generation of each pool. Raises `MalformedAnswer` if there are too many."""
    known: list[_Slice] = []
    malformed = count = 0
    for each in slices:
        found = _slice(each)
        if found is None:
            malformed += 1
            continue
        count += len(found.devices)
        if count > MAX_DEVICES:
            raise MalformedAnswer(f"the API server lists more than {MAX_DEVICES} devices for this node")
        known.append(found)
    newest: dict[tuple[str, str], int] = {}
    for each in known:
        pool = each.driver, each.pool
        newest[pool] = max(each.generation, newest.get(pool, each.generation))
    devices: dict[Key, SliceDevice] = {}
    for each in known:
        if each.generation == newest[each.driver, each.pool]:
            for device in each.devices:
                name = device.get("name") if isinstance(device, dict) else None
                if isinstance(device, dict) and isinstance(name, str) and name:
                    devices[each.driver, each.pool, name] = _device(device, each.driver)
                else:
                    malformed += 1
    return Slices(devices, malformed)


def _slice(content: object) -> _Slice | None:
    """Return a slice; `None` if it is not what the API defines."""
    spec = _dict(_dict(content).get("spec"))
    pool = _dict(spec.get("pool"))
    driver, name, generation, devices = (
        spec.get("driver"),
        pool.get("name"),
        pool.get("generation", 0),
        spec.get("devices"),
    )
    if not (isinstance(driver, str) and driver and isinstance(name, str) and isinstance(devices, list | None)):
        return None
    if not isinstance(generation, int):
        return None
    return _Slice(driver, name, generation, devices or ())


def _device(device: Mapping[str, Any], driver: str) -> SliceDevice:
    # v1beta1 nests them one level deeper.
    attributes = _dict(device.get("attributes")) or _dict(_dict(device.get("basic")).get("attributes"))

    def text(name: str) -> str | None:
        # A name without a domain belongs to the driver.
        found = _dict(attributes.get(name) or attributes.get(f"{driver}/{name}")).get("string")
        return found if isinstance(found, str) and found else None

    return SliceDevice(uuid=text("uuid"), pci_bus_id=text(PCI_BUS_ID), kind=text("type"))


def _dict(content: object) -> dict[str, Any]:
    """Return an object's fields; none if it is not an object."""
    return content if isinstance(content, dict) else {}
