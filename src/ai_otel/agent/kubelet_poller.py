"""
Asks the kubelet now and then who holds which device, on a thread of its own.

The kubelet allows all clients of its socket together 100 calls a second. We make two in a pass, by default every 15 s,
and wait longer when it says that it is asked too often.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ai_otel.agent.allocation import Allocated, Facts, Why, is_wanted, join
from ai_otel.agent.api_server import ApiServer, ApiTrouble
from ai_otel.agent.identity import Inventory
from ai_otel.agent.kubelet import Refused, Unanswered, Unknown
from ai_otel.agent.podresources import ClaimGrant, Grant, list_allocatable, list_grants
from ai_otel.agent.pods import Pod, list_pods
from ai_otel.agent.slices import Key, SliceDevice, read_slices
from ai_otel.gpu.source import Device
from ai_otel.hooks.guard import Guard

log = logging.getLogger("ai_otel")

FLOOR_S = 0.1
"""Never shorter, whatever is configured: 10 passes of 2 calls a second are a fifth of what the kubelet allows."""
LONGEST_WAIT_S = 300.0
KEPT_S = 120.0
"""For so long the last list holds when the kubelet does not answer: a restart of it moves no device."""
SLICES_KEPT_S = 600.0
SLICES_FLOOR_S = 30.0
"""Between two questions to the API server, also for a claim that it does not know."""
ALLOCATABLE_KEPT_S = 300.0
FIRST_LOOK_S = 10.0
LOOK_FOR_S = 60.0
"""
Devices are found anew at most so often: where a container holds one that we do not see, and where we see none at all.
MIG instances change while we run, and a driver may be installed.
"""
REMEMBERED = 10_000
"""How many subjects are remembered as told."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where to ask, and what for."""

    kubelet: Path
    pods_api: Path
    wanted: Sequence[str]
    interval_s: float = 15.0
    replicas: str = "time_slicing"
    slices_on: bool = False
    """Whether the API server is asked what resource claims are."""
    api_server: ApiServer | None = None
    node: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What the last pass left behind. Times are `time.perf_counter`."""

    allocated: Allocated = field(default_factory=Allocated)
    listed_at_s: float | None = None
    """When the kubelet last answered."""
    troubles: Mapping[str, str] = field(default_factory=dict)
    """Who did not answer → why: `kubelet`, `pods_api`, `api_server`."""


class Watch:
    """
    The one who asks. `view` is replaced as a whole, so any thread may read it.

    `devices` are those of the last look, `looked` says whether there was one, and `find_anew` asks for another search.
    """

    def __init__(
        self,
        places: Places,
        devices: Callable[[], Sequence[Device]],
        find_anew: Callable[[], None] = lambda: None,
        looked: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.view = View()
        self.refusals = 0
        """How often the kubelet said that it is asked too often, one after the other."""
        self._places = places
        self._devices = devices
        self._find_anew = find_anew
        self._looked = looked
        self._clock = clock
        self._looked_for: set[tuple[str, str]] = set()
        self._looked_for_s = clock()
        self._allocatable: tuple[float, list[tuple[str, str]]] | None = None
        self._slices: tuple[float, Mapping[Key, SliceDevice] | None] | None = None
        self._api_trouble: str | None = None
        self._told: set[object] = set()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._thread = threading.Thread(target=self._run, name="ai-otel kubelet", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def wait_s(self) -> float:
        """Seconds until the next pass: doubled with each refusal."""
        return max(
            FLOOR_S, min(self._places.interval_s * 2.0**self.refusals, max(LONGEST_WAIT_S, self._places.interval_s))
        )

    def _run(self) -> None:
        one_pass = Guard("kubelet", alone=True)
        until_s = self._clock() + FIRST_LOOK_S
        while not self._looked() and self._clock() < until_s and not self._stopping.wait(0.05):
            pass  # without a device nothing can be mapped
        while not self._stopping.is_set():
            if one_pass(self.look) is None:
                self.view = self._silent("a pass of ours failed: see the log, and report it")
            self._stopping.wait(self.wait_s())

    def look(self) -> View:
        """One pass."""
        troubles: dict[str, str] = {}
        try:
            grants = list_grants(self._places.kubelet)
        except Unanswered as error:
            self.refusals = min(self.refusals + 1, 16) if isinstance(error, Refused) else 0
            self.view = self._silent(str(error))
        else:
            self.refusals = 0
            devices = self._devices()
            inventory = Inventory(devices, replicas=self._places.replicas)
            allocated = join(grants, inventory, self._facts(grants, troubles))
            self.view = View(allocated, self._clock(), troubles)
            self._look_for(devices, allocated)
        for trouble in self.view.troubles.values():
            self._tell(trouble, trouble)
        return self.view

    def _silent(self, why: str) -> View:
        self._allocatable = None  # plugins register anew with a new kubelet
        kept = replace(self.view, troubles={**self.view.troubles, "kubelet": why})
        since = self.view.listed_at_s
        if since is None or self._clock() - since > max(KEPT_S, 3 * self._places.interval_s):
            return replace(kept, allocated=Allocated())
        return kept

    def _facts(self, grants: Sequence[Grant], troubles: dict[str, str]) -> Facts:
        claims = {
            grant.key
            for grant in grants
            if isinstance(grant, ClaimGrant) and is_wanted(grant.driver, self._places.wanted)
        }
        return Facts(
            wanted=self._places.wanted,
            allocatable=self._ask_allocatable(),
            slices=self._ask_slices(claims, troubles) if claims else {},
            slices_on=self._places.slices_on,
            pods=self._ask_pods(troubles) if grants else None,
        )

    def _ask_allocatable(self) -> list[tuple[str, str]]:
        now = self._clock()
        if self._allocatable is None or now - self._allocatable[0] > ALLOCATABLE_KEPT_S:
            try:
                self._allocatable = now, list_allocatable(self._places.kubelet)
            except Unknown:
                self._allocatable = now, []  # an older kubelet
            except Unanswered:
                return []  # asked again with the next pass
        return self._allocatable[1]

    def _ask_pods(self, troubles: dict[str, str]) -> list[Pod] | None:
        if not self._places.pods_api.exists():
            return None  # a kubelet without this interface: names have to do, and nobody needs to hear of it
        try:
            return list_pods(self._places.pods_api)
        except Unanswered as error:
            troubles["pods_api"] = str(error)
            return None

    def _ask_slices(self, claims: set[Key], troubles: dict[str, str]) -> Mapping[Key, SliceDevice] | None:
        server, node = self._places.api_server, self._places.node
        if not self._places.slices_on:
            return None
        if server is None:
            troubles["api_server"] = "resource claims are told by the API server, and this process is in no pod"
            return None
        if node is None:
            troubles["api_server"] = "the node's name is unknown: set K8S_NODE_NAME by fieldRef spec.nodeName"
            return None
        now, kept = self._clock(), self._slices
        age_s = now - kept[0] if kept is not None else float("inf")
        missing = kept is None or kept[1] is None or not claims <= kept[1].keys()
        if age_s > SLICES_KEPT_S or (missing and age_s > SLICES_FLOOR_S):
            try:
                self._slices, self._api_trouble = (now, read_slices(server, node)), None
            except ApiTrouble as error:
                self._slices, self._api_trouble = (now, kept[1] if kept is not None else None), str(error)
        if self._api_trouble is not None:
            troubles["api_server"] = self._api_trouble
        return self._slices[1] if self._slices is not None else None

    def _look_for(self, devices: Sequence[Device], allocated: Allocated) -> None:
        """Have the devices found anew where one is held that we do not see, as after a change of MIG instances."""
        for each in allocated.unmapped:
            # Of a device that we do not see only when looking for it did not help.
            if each.why is not Why.NO_DEVICE or (each.what, each.id) in self._looked_for:
                self._tell(str(each), (each.what, each.id, each.why))
        unseen = {(each.what, each.id) for each in allocated.unmapped if each.why is Why.NO_DEVICE} - self._looked_for
        now = self._clock()
        waited = now - self._looked_for_s > LOOK_FOR_S
        if (unseen and (waited or not self._looked_for)) or (not devices and waited):
            self._looked_for_s = now
            self._looked_for |= unseen
            self._find_anew()

    def _tell(self, sentence: str, subject: object) -> None:
        """Say it, once for each subject."""
        if len(self._told) > REMEMBERED:
            self._told.clear()
            self._looked_for.clear()
        if subject not in self._told:
            self._told.add(subject)
            log.warning("ai-otel: %s", sentence)
