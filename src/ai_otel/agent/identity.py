"""
Which device an id means: device plugins and DRA drivers each have their own way to name one.

Every way ends at something that the device's own library told us: its UUID, its part's UUID or number, its PCI address,
its device node. What matches nothing is not mapped: an order or a prefix would be a guess.
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
"""NVIDIA's plugin, for time-slicing and for MPS: the id of what is shared, and which share."""
_NODE = re.compile(r"(?P<node>nvidia\d+)(/gi(?P<part>\d+))?(?P<share>/vgpu\d+)?")
"""GKE's plugin: the device node, the MIG instance, which share."""
_OLD_MIG = re.compile(r"MIG-(?P<uuid>GPU-[^/]+)/(?P<part>\d+)/\d+")
"""MIG devices before driver 470: GPU, instance, compute instance."""
_CARD = re.compile(r"(?P<card>card\d+)-\d+")
"""Intel's plugin: the DRM device, which share."""
_PCI = re.compile(
    r"(?P<domain>[0-9a-f]{4,8}):(?P<bus>[0-9a-f]{2}):(?P<slot>[0-9a-f]{2})\.(?P<function>[0-7])", re.IGNORECASE
)
_PARTITION = re.compile(r"amdgpu_xcp_\d+")
"""AMD's plugin, for every partition of a GPU but the first: that one has the GPU's PCI address."""


class Match(NamedTuple):
    """A device, and how it is given to who holds the id."""

    device: Device
    sharing: str


class Inventory:
    """The devices of this node, by everything that they are called."""

    def __init__(self, devices: Iterable[Device], *, replicas: str = TIME_SLICING, drm: Path = DRM) -> None:
        known = list(devices)
        whole = [device for device in known if device.instance_id is None]
        self._replicas = replicas
        self._drm = drm
        self._by_key = {device.key: device for device in known}
        self._by_part = _unique(known, lambda device: device.instance_uuid)
        self._by_node = _unique(whole, lambda device: device.name)
        self._by_address = _unique(whole, lambda device: address(device.pci_bus_id))

    def plugin(self, id_: str, siblings: Collection[str] = ()) -> Match | None:
        """
        What a device plugin means by an id; `None` where none of our devices is called so.

        `siblings` are all ids that this plugin has on this node.
        """
        replica = _REPLICA.fullmatch(id_)
        if replica:
            return self._shared(self._exact(replica["base"]))
        if node := _NODE.fullmatch(id_):
            found = self._node(node["node"], node["part"])
            return self._shared(found) if node["share"] else found
        if card := _CARD.fullmatch(id_):
            found = self._address(self._card(card["card"]))
            alone = sum(each.startswith(f"{card['card']}-") for each in {*siblings, id_}) == 1
            return found if alone else found and Match(found.device, TIME_SLICING)
        if address(id_) is not None:
            # With partitions, the address is the first of them, and which part of the GPU that is nobody tells.
            return None if any(_PARTITION.fullmatch(each) for each in siblings) else self._address(id_)
        return self._exact(id_)

    def claimed(self, told: SliceDevice) -> Match | None:
        """What a DRA driver means by a device that it describes."""
        if told.uuid is not None:
            return self._exact(told.uuid)
        # A part has the address of its whole.
        return self._address(told.pci_bus_id) if told.kind in {None, "gpu"} else None

    def _exact(self, id_: str) -> Match | None:
        old = _OLD_MIG.fullmatch(id_)
        part = self._by_key.get((old["uuid"], old["part"])) if old else self._by_part.get(id_)
        if part is not None:
            return Match(part, MIG)
        return _whole(self._by_key.get((id_, None)) or self._by_node.get(id_))

    def _node(self, node: str, part: str | None) -> Match | None:
        whole = self._by_node.get(node)
        if whole is None or part is None:
            return _whole(whole)
        found = self._by_key.get((whole.id, part))
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
    """A PCI address in numbers: NVIDIA writes the domain with eight digits, the kernel with four."""
    found = _PCI.fullmatch(text or "")
    return tuple(int(part, 16) for part in found.groups()) if found else None


def _whole(device: Device | None) -> Match | None:
    return Match(device, EXCLUSIVE) if device is not None else None


def _unique(devices: Iterable[Device], of: Callable[[Device], Hashable | None]) -> Mapping[Hashable, Device]:
    """The devices by one of their names; a name that two have is nobody's."""
    found: dict[Hashable, Device] = {}
    twice: set[Hashable] = set()
    for device in devices:
        name = of(device)
        if name in found:
            twice.add(name)
        elif name is not None:
            found[name] = device
    return {name: device for name, device in found.items() if name not in twice}
