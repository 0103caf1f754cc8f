"""
Polls the kubelet for device allocations on its own thread.

The kubelet allows all clients of its socket together 100 calls a second. A poll makes two, by default every 15 s. The
interval is extended when the kubelet reports that its rate limit is exceeded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ai_otel.agent.allocation import Allocated, NodeState, UnmappedReason, is_wanted, join
from ai_otel.agent.api_server import ApiServer, ApiServerError
from ai_otel.agent.identity import Inventory
from ai_otel.agent.kubelet import Refused, Unanswered, Unknown
from ai_otel.agent.podresources import ClaimGrant, Grant, list_allocatable, list_grants
from ai_otel.agent.pods import Pod, list_pods
from ai_otel.agent.slices import Key, SliceDevice, read_slices
from ai_otel.gpu.source import Device
from ai_otel.hooks.daemon import DaemonThread
from ai_otel.hooks.guard import Guard

log = logging.getLogger("ai_otel")

MIN_INTERVAL_S = 0.1
"""Minimum interval: 10 polls of 2 calls a second are a fifth of the kubelet's rate limit."""
MAX_WAIT_S = 300.0
RETENTION_S = 120.0
"""How long the last response stays valid if the kubelet does not answer: its restart moves no device."""
SLICES_RETENTION_S = 600.0
SLICES_MIN_INTERVAL_S = 30.0
"""Minimum seconds between two requests to the API server, also for unknown claims."""
ALLOCATABLE_RETENTION_S = 300.0
FIRST_SAMPLE_S = 10.0
"""Seconds to wait for the first sample of the devices: without devices nothing can be mapped."""
REDISCOVERY_INTERVAL_S = 60.0
"""
Minimum seconds between two rediscoveries of the devices. One is triggered if a container holds an unknown device, or if
there is no device: MIG instances change and drivers may be installed while the agent runs.
"""
MAX_LOGGED = 10_000
"""Number of logged subjects that are kept, so that each is logged once."""


@dataclass(frozen=True, slots=True)
class PollerOptions:
    """Addresses and options of the poller."""

    kubelet: Path
    pods_api: Path
    wanted: Sequence[str]
    interval_s: float = 15.0
    replicas: str = "time_slicing"
    slices_on: bool = False
    """Whether resource claims are resolved by the API server's ResourceSlices."""
    api_server: ApiServer | None = None
    node: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """Result of the last poll. Times are `time.perf_counter` in seconds."""

    allocated: Allocated = field(default_factory=Allocated)
    listed_at_s: float | None = None
    """Time of the kubelet's last response."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """Interface (`kubelet`, `pods_api`, `api_server`) → why it did not answer."""


class KubeletPoller:
    """
    Polls the kubelet. `view` is replaced as a whole, so any thread may read it.

    `devices` returns the devices of the last snapshot, and `sampled` whether there is one. `rediscover` triggers a new
    enumeration of the devices.
    """

    def __init__(
        self,
        options: PollerOptions,
        devices: Callable[[], Sequence[Device]],
        rediscover: Callable[[], None] = lambda: None,
        sampled: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.view = View()
        self.refusals = 0
        """Number of consecutive polls that exceeded the kubelet's rate limit."""
        self._options = options
        self._devices = devices
        self._rediscover = rediscover
        self._sampled = sampled
        self._clock = clock
        self._searched: set[tuple[str, str]] = set()
        self._rediscovered_at_s = clock()
        self._allocatable: tuple[float, list[tuple[str, str]]] | None = None
        self._slices: tuple[float, Mapping[Key, SliceDevice] | None] | None = None
        self._api_error: str | None = None
        self._logged: set[object] = set()
        self._thread = DaemonThread("ai-otel kubelet", self._run)
        self._stopping = self._thread.stopping

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop the thread, waiting for at most `timeout_s`."""
        self._thread.stop(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.alive

    def wait_s(self) -> float:
        """Return the seconds until the next poll: doubled with each refusal."""
        return max(
            MIN_INTERVAL_S,
            min(self._options.interval_s * 2.0**self.refusals, max(MAX_WAIT_S, self._options.interval_s)),
        )

    def _run(self) -> None:
        guard = Guard("kubelet", alone=True, lasting=True)
        until_s = self._clock() + FIRST_SAMPLE_S
        while not self._sampled() and self._clock() < until_s and not self._stopping.wait(0.05):
            pass
        while not self._stopping.is_set():
            if guard(self.poll) is None:
                self.view = self._unanswered("a poll of the agent failed: see the log, and report it")
            self._stopping.wait(self.wait_s())

    def poll(self) -> View:
        """Poll once, and return the new `view`."""
        errors: dict[str, str] = {}
        try:
            grants = list_grants(self._options.kubelet)
        except Unanswered as error:
            self.refusals = min(self.refusals + 1, 16) if isinstance(error, Refused) else 0
            self.view = self._unanswered(str(error))
        else:
            self.refusals = 0
            devices = self._devices()
            inventory = Inventory(devices, replicas=self._options.replicas)
            allocated = join(grants, inventory, self._node_state(grants, errors))
            self.view = View(allocated, self._clock(), errors)
            self._rediscover_missing(devices, allocated)
        for sentence in self.view.errors.values():
            self._log_once(sentence, sentence)
        return self.view

    def _unanswered(self, why: str) -> View:
        self._allocatable = None  # plugins register again with a new kubelet
        kept = replace(self.view, errors={**self.view.errors, "kubelet": why})
        since = self.view.listed_at_s
        if since is None or self._clock() - since > max(RETENTION_S, 3 * self._options.interval_s):
            return replace(kept, allocated=Allocated())
        return kept

    def _node_state(self, grants: Sequence[Grant], errors: dict[str, str]) -> NodeState:
        claims = {
            grant.key
            for grant in grants
            if isinstance(grant, ClaimGrant) and is_wanted(grant.driver, self._options.wanted)
        }
        return NodeState(
            wanted=self._options.wanted,
            allocatable=self._read_allocatable(),
            slices=self._read_slices(claims, errors) if claims else {},
            slices_on=self._options.slices_on,
            pods=self._read_pods(errors) if grants else None,
        )

    def _read_allocatable(self) -> list[tuple[str, str]]:
        now = self._clock()
        if self._allocatable is None or now - self._allocatable[0] > ALLOCATABLE_RETENTION_S:
            try:
                self._allocatable = now, list_allocatable(self._options.kubelet)
            except Unknown:
                self._allocatable = now, []  # an older kubelet
            except Unanswered:
                return []  # retried with the next poll
        return self._allocatable[1]

    def _read_pods(self, errors: dict[str, str]) -> list[Pod] | None:
        if not self._options.pods_api.exists():
            return None  # a kubelet without this interface: pods are identified by name
        try:
            return list_pods(self._options.pods_api)
        except Unanswered as error:
            errors["pods_api"] = str(error)
            return None

    def _read_slices(self, claims: set[Key], errors: dict[str, str]) -> Mapping[Key, SliceDevice] | None:
        server, node = self._options.api_server, self._options.node
        if not self._options.slices_on:
            return None
        if server is None:
            errors["api_server"] = "resource claims need the API server, and this process does not run in a pod"
            return None
        if node is None:
            errors["api_server"] = "the node's name is unknown: set K8S_NODE_NAME by fieldRef spec.nodeName"
            return None
        now, kept = self._clock(), self._slices
        age_s = now - kept[0] if kept is not None else float("inf")
        missing = kept is None or kept[1] is None or not claims <= kept[1].keys()
        if age_s > SLICES_RETENTION_S or (missing and age_s > SLICES_MIN_INTERVAL_S):
            try:
                self._slices, self._api_error = (now, read_slices(server, node)), None
            except ApiServerError as error:
                self._slices, self._api_error = (now, kept[1] if kept is not None else None), str(error)
        if self._api_error is not None:
            errors["api_server"] = self._api_error
        return self._slices[1] if self._slices is not None else None

    def _rediscover_missing(self, devices: Sequence[Device], allocated: Allocated) -> None:
        """Trigger a rediscovery if a held device is unknown, as after a change of MIG instances."""
        for each in allocated.unmapped:
            # Unknown devices are logged if a rediscovery did not find them.
            if each.why is not UnmappedReason.NO_DEVICE or (each.what, each.id) in self._searched:
                self._log_once(str(each), (each.what, each.id, each.why))
        unknown = [each for each in allocated.unmapped if each.why is UnmappedReason.NO_DEVICE]
        unseen = {(each.what, each.id) for each in unknown} - self._searched
        now = self._clock()
        waited = now - self._rediscovered_at_s > REDISCOVERY_INTERVAL_S
        if (unseen and (waited or not self._searched)) or (not devices and waited):
            self._rediscovered_at_s = now
            self._searched |= unseen
            self._rediscover()

    def _log_once(self, sentence: str, subject: object) -> None:
        """Log a sentence once for each subject."""
        if len(self._logged) > MAX_LOGGED:
            self._logged.clear()
            self._searched.clear()
        if subject not in self._logged:
            self._logged.add(subject)
            log.warning("ai-otel: %s", sentence)
