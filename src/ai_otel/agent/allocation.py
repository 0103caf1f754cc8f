"""Who holds which device: what the kubelet told, joined with the devices that we see. Pure; nothing is asked here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from ai_otel.agent.identity import CLAIM, Inventory, Match
from ai_otel.agent.podresources import ClaimGrant, Container, Grant, PluginGrant
from ai_otel.agent.pods import Pod
from ai_otel.agent.slices import Key, SliceDevice
from ai_otel.gpu.source import Device

POD_RESOURCES, DRA = "pod_resources", "dra"


class Why(str, Enum):
    """Why we do not know which device it is. The value ends the sentence that a person reads."""

    NO_DEVICE = "none of the devices that we see is called so"
    SLICES_OFF = "resource claims are told by the API server only: set AI_OTEL_AGENT_RESOURCE_SLICES=true"
    NO_SLICES = "the API server did not tell its ResourceSlice"
    NOT_IN_SLICES = "no ResourceSlice of this node has it"
    NO_UUID = "its driver states no UUID, as for MIG devices that are made when they are claimed"


@dataclass(frozen=True, slots=True)
class Unmapped:
    """Something that a container holds, and no device of ours."""

    container: Container
    what: str
    """The resource's name, or the DRA driver's."""
    id: str
    """The plugin's id, or pool and device."""
    why: Why

    def __str__(self) -> str:
        holder = "/".join(self.container)
        return f"{self.what} {self.id}, held by {holder}, is not mapped to a device: {self.why.value}"


@dataclass(frozen=True, slots=True)
class Allocation:
    """A device, or a part of it, that a container holds."""

    device: Device
    container: Container
    sharing: str
    attribution: str
    pod_uid: str | None = None


@dataclass(frozen=True, slots=True)
class Allocated:
    """Everything that is held on this node."""

    allocations: tuple[Allocation, ...] = ()
    unmapped: tuple[Unmapped, ...] = ()
    ended: int = 0
    """Left out because their pod has ended; older kubelets list them still."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What else is known when the kubelet's list is read."""

    wanted: Sequence[str]
    """Resource names and DRA drivers that are devices of ours; `*` stands for anything."""
    allocatable: Sequence[tuple[str, str]] = ()
    slices: Mapping[Key, SliceDevice] | None = None
    """`None` where the API server did not tell."""
    slices_on: bool = False
    pods: Sequence[Pod] | None = None
    """`None` where the Pods API did not tell."""


def join(grants: Iterable[Grant], inventory: Inventory, facts: Facts) -> Allocated:
    """Map what was granted. A device that a container holds twice, as two shares, is told once."""
    ours = [grant for grant in grants if is_wanted(name_of(grant), facts.wanted)]
    pods = _pods(facts.pods)
    living = [grant for grant in ours if not _ended(pods, grant.container)]
    siblings = _siblings(living, facts.allocatable)
    mapped: dict[tuple[Container, tuple[str, str | None]], tuple[Match, str]] = {}
    unmapped = []
    for grant in living:
        found = (
            _claim(grant, inventory, facts) if isinstance(grant, ClaimGrant) else _plugin(grant, inventory, siblings)
        )
        if isinstance(found, Why):
            unmapped.append(Unmapped(grant.container, name_of(grant), _id(grant), found))
        else:
            attribution = DRA if isinstance(grant, ClaimGrant) else POD_RESOURCES
            mapped.setdefault((grant.container, found.device.key), (found, attribution))
    holders = Counter(device for _, device in mapped)
    allocations = tuple(
        Allocation(
            found.device,
            container,
            CLAIM if attribution == DRA and holders[key] > 1 else found.sharing,
            attribution,
            _uid(pods, container),
        )
        for (container, key), (found, attribution) in mapped.items()
    )
    return Allocated(allocations, tuple(unmapped), len(ours) - len(living))


def is_wanted(name: str, patterns: Sequence[str]) -> bool:
    """Whether a resource or driver is of ours. Intel's monitoring resource gives every GPU to who only looks."""
    return any(fnmatchcase(name, pattern) for pattern in patterns) and not name.endswith("_monitoring")


def name_of(grant: Grant) -> str:
    """The resource's name, or the driver's."""
    return grant.driver if isinstance(grant, ClaimGrant) else grant.resource


def _id(grant: Grant) -> str:
    return f"{grant.pool}/{grant.device}" if isinstance(grant, ClaimGrant) else grant.id


def _siblings(grants: Iterable[Grant], allocatable: Iterable[tuple[str, str]]) -> Mapping[str, set[str]]:
    ids: dict[str, set[str]] = defaultdict(set)
    for resource, id_ in [
        *allocatable,
        *((each.resource, each.id) for each in grants if isinstance(each, PluginGrant)),
    ]:
        ids[resource.partition("/")[0]].add(id_)
    return ids


def _plugin(grant: PluginGrant, inventory: Inventory, siblings: Mapping[str, set[str]]) -> Match | Why:
    found = inventory.plugin(grant.id, siblings[grant.resource.partition("/")[0]])
    return Why.NO_DEVICE if found is None else found


def _claim(grant: ClaimGrant, inventory: Inventory, facts: Facts) -> Match | Why:
    if facts.slices is None:
        return Why.NO_SLICES if facts.slices_on else Why.SLICES_OFF
    told = facts.slices.get(grant.key)
    if told is None:
        return Why.NOT_IN_SLICES
    found = inventory.claimed(told)
    if found is None:
        return Why.NO_DEVICE if told.uuid or (told.pci_bus_id and told.kind in {None, "gpu"}) else Why.NO_UUID
    return Match(found.device, CLAIM) if grant.share else found


def _pods(pods: Sequence[Pod] | None) -> Mapping[tuple[str, str], list[Pod]]:
    named: dict[tuple[str, str], list[Pod]] = defaultdict(list)
    for pod in pods or ():
        named[pod.namespace, pod.name].append(pod)
    return dict(named)


def _ended(pods: Mapping[tuple[str, str], list[Pod]], container: Container) -> bool:
    named = pods.get(container[:2], [])
    return bool(named) and all(pod.ended for pod in named)


def _uid(pods: Mapping[tuple[str, str], list[Pod]], container: Container) -> str | None:
    """`None` as well where two pods of the name live, which happens while one is replaced."""
    uids = {pod.uid for pod in pods.get(container[:2], ()) if not pod.ended and pod.uid}
    return uids.pop() if len(uids) == 1 else None
