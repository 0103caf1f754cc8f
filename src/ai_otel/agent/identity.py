"""
Maps the device ids of device plugins and DRA drivers to devices. Each plugin and driver has its own id format.

An id is resolved to a value that the device's library reports: UUID, instance UUID or number, PCI address or device
node. Ids without an exact match are not mapped; neither order nor prefixes are used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ai_otel.agent.slices import SliceDevice
from ai_otel.gpu.source import Device

EXCLUSIVE, MIG, TIME_SLICING, MPS, CLAIM = "exclusive", "mig", "time_slicing", "mps", "claim"

DRM = Path("/sys/class/drm")

_REPLICA = re.compile(r"(?P<base>.+)::\d+")
"""NVIDIA's plugin with time-slicing or MPS: id of the shared device, and number of the share."""
_NODE = re.compile(r"(?P<node>nvidia\d+)(/gi(?P<instance>\d+))?(?P<share>/vgpu\d+)?")
"""GKE's plugin: device node, MIG instance, number of the share."""
_OLD_MIG = re.compile(r"MIG-(?P<uuid>GPU-[^/]+)/(?P<instance>\d+)/\d+")
"""MIG devices before driver 470: GPU, instance, compute instance."""
_CARD = re.compile(r"(?P<card>card\d+)-\d+")
"""Intel's plugin: DRM device, number of the share."""
_PCI = re.compile(
    r"(?P<domain>[0-9a-f]{4,8}):(?P<bus>[0-9a-f]{2}):(?P<slot>[0-9a-f]{2})\.(?P<function>[0-7])", re.IGNORECASE
)
_PARTITION = re.compile(r"amdgpu_xcp_\d+")
"""AMD's plugin: every partition of a GPU except the first, which has the GPU's PCI address."""


class Match(NamedTuple):
    """A device, and how its containers share it."""

    device: Device
    sharing: str


class Inventory:
    """The devices of this node, indexed by their identifiers."""

    def __init__(self, devices: Iterable[Device], *, replicas: str = TIME_SLICING, drm: Path = DRM) -> None:
        known = list(devices)
        whole = [device for device in known if device.instance_id is None]
        self._replicas = replicas
        self._drm = drm
        self._by_key = {device.key: device for device in known}
        self._by_instance = _unique(known, lambda device: device.instance_uuid)
        self._by_node = _unique(whole, lambda device: device.name)
        self._by_address = _unique(whole, lambda device: address(device.pci_bus_id))

    def plugin(self, id_: str, siblings: Collection[str] = ()) -> Match | None:
        """
        Return the device of a device plugin's id; `None` if no device matches.

        `siblings` are all ids of this plugin on this node.
        """
        replica = _REPLICA.fullmatch(id_)
        if replica:
            return self._shared(self._exact(replica["base"]))
        if node := _NODE.fullmatch(id_):
            found = self._node(node["node"], node["instance"])
            return self._shared(found) if node["share"] else found
        if card := _CARD.fullmatch(id_):
            found = self._address(self._card(card["card"]))
            alone = sum(each.startswith(f"{card['card']}-") for each in {*siblings, id_}) == 1
            return found if alone else found and Match(found.device, TIME_SLICING)
        if address(id_) is not None:
            # On a partitioned GPU, the address is the first partition's, whose number is unknown.
            return None if any(_PARTITION.fullmatch(each) for each in siblings) else self._address(id_)
        return self._exact(id_)

    def claimed(self, described: SliceDevice) -> Match | None:
        """Return the device that a DRA driver describes; `None` if no device matches."""
        if described.uuid is not None:
            return self._exact(described.uuid)
        # An instance has the PCI address of its GPU.
        return self._address(described.pci_bus_id) if described.kind in {None, "gpu"} else None

    def _exact(self, id_: str) -> Match | None:
        old = _OLD_MIG.fullmatch(id_)
        instance = self._by_key.get((old["uuid"], old["instance"])) if old else self._by_instance.get(id_)
        if instance is not None:
            return Match(instance, MIG)
        return _whole(self._by_key.get((id_, None)) or self._by_node.get(id_))

    def _node(self, node: str, instance: str | None) -> Match | None:
        whole = self._by_node.get(node)
        if whole is None or instance is None:
            return _whole(whole)
        found = self._by_key.get((whole.id, instance))
        return Match(found, MIG) if found is not None else None

    def _card(self, card: str) -> str | None:
        try:
            return (self._drm / card / "device").resolve(strict=True).name
        except OSError:
            return None

    def _address(self, text: str | None) -> Match | None:
        found = address(text)
        return _whole(self._by_address.get(found) if found is not None else None)

    def _shared(self, found: Match | None) -> Match | None:
        return found and Match(found.device, self._replicas)


def address(text: str | None) -> tuple[int, ...] | None:
    """Parse a PCI address. NVIDIA writes the domain with eight digits, the kernel with four."""
    found = _PCI.fullmatch(text or "")
    return tuple(int(digits, 16) for digits in found.groups()) if found else None


def _whole(device: Device | None) -> Match | None:
    return Match(device, EXCLUSIVE) if device is not None else None


def _unique(devices: Iterable[Device], of: Callable[[Device], Hashable | None]) -> Mapping[Hashable, Device]:
    """Index devices by an identifier. Identifiers of two devices are left out."""
    found: dict[Hashable, Device] = {}
    twice: set[Hashable] = set()
    for device in devices:
        name = of(device)
        if name in found:
            twice.add(name)
        elif name is not None:
            found[name] = device
    return {name: device for name, device in found.items() if name not in twice}
