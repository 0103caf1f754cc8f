"""Device allocations: joins the kubelet's grants with the sampled devices. Pure functions without I/O."""

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


class UnmappedReason(str, Enum):
    """Why a granted id is not mapped to a device. The value completes the logged sentence."""

    NO_DEVICE = "no sampled device has this id"
    SLICES_OFF = "resource claims need the API server: set AI_OTEL_AGENT_RESOURCE_SLICES=true"
    NO_SLICES = "its ResourceSlice could not be read from the API server"
    NOT_IN_SLICES = "no ResourceSlice of this node contains it"
    NO_UUID = "its driver reports no UUID, as for dynamically created MIG devices"


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A grant that is not mapped to a sampled device."""

    container: Container
    what: str
    """Name of the resource or of the DRA driver."""
    id: str
    """Id of the device plugin, or pool and device."""
    why: UnmappedReason

    def __str__(self) -> str:
        holder = "/".join(self.container)
        return f"{self.what} {self.id}, held by {holder}, is not mapped to a device: {self.why.value}"


@dataclass(frozen=True, slots=True)
class Allocation:
    """A device or instance that a container holds."""

    device: Device
    container: Container
    sharing: str
    attribution: str
    pod_uid: str | None = None


@dataclass(frozen=True, slots=True)
class Allocated:
    """All allocations of this node."""

    allocations: tuple[Allocation, ...] = ()
    unmapped: tuple[Unmapped, ...] = ()
    ended: int = 0
    """Number of grants left out because their pod has ended. Older kubelets still list them."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """What is known of the node besides the kubelet's grants."""

    wanted: Sequence[str]
    """Patterns of the resource names and DRA drivers to map; `*` matches any text."""
    allocatable: Sequence[tuple[str, str]] = ()
    slices: Mapping[Key, SliceDevice] | None = None
    """`None` if the API server did not answer."""
    slices_on: bool = False
    pods: Sequence[Pod] | None = None
    """`None` if the Pods API did not answer."""


def join(grants: Iterable[Grant], inventory: Inventory, node: NodeState) -> Allocated:
    """Map the grants to devices. A device of which a container holds two shares is returned once."""
    mappable = [grant for grant in grants if is_wanted(name_of(grant), node.wanted)]
    pods = _pods(node.pods)
    living = [grant for grant in mappable if not _ended(pods, grant.container)]
    siblings = _siblings(living, node.allocatable)
    mapped: dict[tuple[Container, tuple[str, str | None]], tuple[Match, str]] = {}
    unmapped = []
    for grant in living:
        found = _claim(grant, inventory, node) if isinstance(grant, ClaimGrant) else _plugin(grant, inventory, siblings)
        if isinstance(found, UnmappedReason):
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
    return Allocated(allocations, tuple(unmapped), len(mappable) - len(living))


def is_wanted(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a resource or driver is mapped. Intel's monitoring resource grants every GPU for reading only."""
    return any(fnmatchcase(name, pattern) for pattern in patterns) and not name.endswith("_monitoring")


def name_of(grant: Grant) -> str:
    """Return the name of the resource or of the DRA driver."""
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


def _plugin(grant: PluginGrant, inventory: Inventory, siblings: Mapping[str, set[str]]) -> Match | UnmappedReason:
    found = inventory.plugin(grant.id, siblings[grant.resource.partition("/")[0]])
    return UnmappedReason.NO_DEVICE if found is None else found


def _claim(grant: ClaimGrant, inventory: Inventory, node: NodeState) -> Match | UnmappedReason:
    if node.slices is None:
        return UnmappedReason.NO_SLICES if node.slices_on else UnmappedReason.SLICES_OFF
    described = node.slices.get(grant.key)
    if described is None:
        return UnmappedReason.NOT_IN_SLICES
    found = inventory.claimed(described)
    if found is None:
        identified = described.uuid or (described.pci_bus_id and described.kind in {None, "gpu"})
        return UnmappedReason.NO_DEVICE if identified else UnmappedReason.NO_UUID
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
    """Return the pod's UID; `None` if unknown, or if two pods have the name while one is replaced."""
    uids = {pod.uid for pod in pods.get(container[:2], ()) if not pod.ended and pod.uid}
    return uids.pop() if len(uids) == 1 else None
