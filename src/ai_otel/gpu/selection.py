"""
Which of the visible devices are the server's own: a request must not pay for a neighbour's.

In order of trust: the devices that the server's processes hold, by the driver's process list; the first ones of the
visible, if the engine reports how many it computes on; those that a variable such as `CUDA_VISIBLE_DEVICES` names; all
devices of the container. If a variable is set that cannot be resolved, the devices are unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ai_otel.gpu.registry import attributable
from ai_otel.gpu.roles import Election
from ai_otel.gpu.snapshot import Snapshot
from ai_otel.gpu.source import Device

PROCESS_LIST, ENGINE, ENVIRONMENT, CONTAINER = "process_list", "engine", "environment", "container"

VARIABLES: Mapping[str, tuple[str, ...]] = {
    "nvidia": ("CUDA_VISIBLE_DEVICES",),
    "amd": ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
    "intel": ("ZE_AFFINITY_MASK",),
}
"""Vendor → variables that restrict a process to some devices. Only CUDA's can be resolved."""
ORDER = "CUDA_DEVICE_ORDER"

Key = tuple[str, str | None]


class Selection(NamedTuple):
    """The server's own devices."""

    devices: Sequence[Device]
    known_by: str | None
    """`ai_otel.gpu.selection`; `None` if it is unknown which of several devices are its own."""

    @property
    def ids(self) -> tuple[str, ...]:
        """`hw.id` of each device, once."""
        return tuple(dict.fromkeys(device.id for device in self.devices))


class OwnDevices:
    """
    Chooses the server's own devices, one object for a server.

    `variables` is the environment, which may name them; `count` returns on how many devices the engine computes.
    Devices that do not answer take part: without them, the others would be taken for all.
    """

    def __init__(
        self, variables: Mapping[str, str] | None = None, count: Callable[[], int | None] = lambda: None
    ) -> None:
        self._variables = variables if variables is not None else {}
        self._count = count
        self._chosen_from: tuple[Snapshot, int | None] | None = None
        self.selection = Selection((), None)
        """The last choice."""

    def choose(self, devices: Sequence[Device], held: Mapping[Key, bool | None]) -> Selection:
        """Choose among devices; `held` is what the driver's process list says of those that answer."""
        selection = select(devices, held, self._variables, self._count())
        # An engine that sleeps or restarts holds nothing for a while.
        known = self.selection.known_by == PROCESS_LIST and set(self.selection.devices) <= set(devices)
        if not known or selection.known_by == PROCESS_LIST:
            self.selection = selection
        return self.selection

    def choose_from(self, snapshot: Snapshot) -> Selection:
        """Choose among the devices of a sample, once for each."""
        asked = snapshot, self._count()
        if self._chosen_from is None or self._chosen_from[0] is not snapshot or self._chosen_from[1] != asked[1]:
            self._chosen_from = asked
            held = {sample.device.key: sample.reading.held for sample in snapshot.samples if not sample.lost}
            self.choose([sample.device for sample in snapshot.samples], held)
        return self.selection


def select(
    devices: Sequence[Device],
    held: Mapping[Key, bool | None],
    variables: Mapping[str, str],
    count: int | None = None,
) -> Selection:
    """
    Return the server's own devices among the attributable ones.

    `held` is what the driver's process list says of each device (`GpuReading.held`), `variables` the environment,
    `count` the number of NVIDIA GPUs that the engine computes on, if it reports it.
    """
    parts = [
        _of_vendor(vendor, [device for device in devices if device.vendor == vendor], held, variables, count)
        for vendor in dict.fromkeys(device.vendor for device in devices)
    ]
    ways = [part.known_by for part in parts]
    if not parts or None in ways:
        return Selection((), None)
    own = [device for part in parts for device in part.devices]
    return Selection(own, next(way for way in (CONTAINER, ENVIRONMENT, ENGINE, PROCESS_LIST) if way in ways))


def _of_vendor(
    vendor: str,
    devices: Sequence[Device],
    held: Mapping[Key, bool | None],
    variables: Mapping[str, str],
    count: int | None,
) -> Selection:
    candidates = attributable(devices)
    values = [variables[name] for name in VARIABLES.get(vendor, ()) if name in variables]
    named = cuda_devices(values[0], devices, variables.get(ORDER, "")) if values and vendor == "nvidia" else None
    own = [device for device in candidates if held.get(device.key)]
    if own:
        # A device that cannot be read may be held, too: without it, a request would have a part of its energy only.
        unread = [device for device in candidates if device.key not in held]
        return Selection([*own, *(device for device in unread if named is None or device in named)], PROCESS_LIST)
    if not values:
        known = vendor == "nvidia" and count is not None and count < len(candidates)
        return (
            _first(candidates, count, devices, variables.get(ORDER, "")) if known else Selection(candidates, CONTAINER)
        )
    if named is not None:
        return Selection(named[:count], ENGINE if count is not None and count < len(named) else ENVIRONMENT)
    return Selection(candidates, CONTAINER) if len(candidates) == 1 else Selection((), None)


def _first(candidates: Sequence[Device], count: int | None, devices: Sequence[Device], order: str) -> Selection:
    """Return the first devices, which an engine takes, if CUDA numbers them as the driver does."""
    divided = any(device.instance_id is not None for device in devices)
    return Selection((), None) if divided or not is_certain(devices, order) else Selection(candidates[:count], ENGINE)


def is_certain(devices: Sequence[Device], order: str) -> bool:
    """
    Return whether CUDA numbers whole devices as the driver does.

    It does with `CUDA_DEVICE_ORDER=PCI_BUS_ID`. By default it puts the fastest device first: then only equal devices
    are in the driver's order.
    """
    return order == "PCI_BUS_ID" or len({device.model for device in devices if device.instance_id is None}) <= 1


def cuda_devices(value: str, devices: Sequence[Device], order: str = "") -> list[Device] | None:
    """
    Return the devices that `CUDA_VISIBLE_DEVICES` names; `None` if its numbers may mean other devices.

    As CUDA does, the list ends at the first entry that names no device.
    """
    whole = [device for device in devices if device.instance_id is None]
    certain = is_certain(devices, order)
    own: dict[Key, Device] = {}
    for entry in value.split(","):
        found = _named(entry.strip(), devices, whole)
        if entry.strip().isdecimal() and found and (not certain or len(found) > 1):
            return None
        if len(found) != 1:
            break
        own[found[0].key] = found[0]
    return list(own.values())


def _named(entry: str, devices: Sequence[Device], whole: Sequence[Device]) -> list[Device]:
    """Return the devices that an entry can mean: CUDA accepts a number, or the unique beginning of a UUID."""
    if entry.isdecimal():
        ids = {device.id for place, device in enumerate(whole) if int(entry) == _index(device, place)}
        return [device for device in attributable(devices) if device.id in ids]
    if entry.startswith("MIG-GPU-"):  # before driver 470: the GPU's UUID, GPU instance and compute instance
        gpu, _, instance = entry.removeprefix("MIG-").partition("/")
        return [d for d in devices if d.id == gpu and d.instance_id == instance.partition("/")[0]]
    if entry.startswith("MIG-"):
        return [d for d in devices if d.instance_uuid is not None and d.instance_uuid.startswith(entry)]
    return [d for d in attributable(devices) if entry.startswith("GPU-") and d.id.startswith(entry)]


def _index(device: Device, place: int) -> int:
    return place if device.index is None else device.index


class OwnElection:
    """
    Stands for election with the server's own devices, so that each of several servers of a host samples its own.

    `own` returns the own devices. If none of the opened ones is known to be one, the process stands with all.
    """

    def __init__(self, election: Election, own: Callable[[], Selection]) -> None:
        self._election = election
        self._own = own

    def vacant(self) -> bool:
        """Return whether no other process samples the own devices."""
        return self._election.vacant()

    def lead(self, devices: Sequence[str], interval_s: float) -> bool:
        """Stand with those devices that are own; return whether this process samples."""
        own = {"/".join(filter(None, device.key)) for device in self._own().devices}
        return self._election.lead([device for device in devices if device in own] or devices, interval_s)

    def step_down(self) -> None:
        """Leave it to others: no device answers."""
        self._election.step_down()
