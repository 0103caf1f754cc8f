"""
Polls the kubelet for device allocations on its own thread.

The kubelet allows all clients of its socket together 100 calls a second. A poll makes two, by default every 15 s. A
source that fails is asked less and less often, and never given up; the other sources go on.
"""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from ai_otel.agent.allocation import Allocated, NodeState, UnmappedReason, is_wanted, join
from ai_otel.agent.api_server import ApiServer, ApiServerError
from ai_otel.agent.backoff import Backoff, Jitter
from ai_otel.agent.identity import Inventory
from ai_otel.agent.kubelet import Malformed, Refused, Unanswered, Unknown
from ai_otel.agent.podresources import ClaimGrant, Grant, list_allocatable, list_grants
from ai_otel.agent.pods import Pod, list_pods
from ai_otel.agent.slices import Key, SliceDevice, Slices, read_slices
from ai_otel.gpu.source import Device
from ai_otel.hooks.daemon import DaemonThread
from ai_otel.hooks.guard import Guard

log = logging.getLogger("ai_otel")

T = TypeVar("T")

MIN_INTERVAL_S = 0.1
"""Minimum interval: 10 polls of 2 calls a second are a fifth of the kubelet's rate limit."""
MAX_WAIT_S = 300.0
"""Maximum seconds between two polls after refusals and malformed answers."""
MAX_RESTART_WAIT_S = 60.0
"""The same while the kubelet does not answer: it may be restarting."""
RETENTION_S = 120.0
"""How long the last response stays valid if the kubelet does not answer: its restart moves no device."""
SLICES_RETENTION_S = 600.0
SLICES_MIN_INTERVAL_S = 30.0
"""Minimum seconds between two requests to the API server, also for unknown claims and after the first failure."""
ALLOCATABLE_RETENTION_S = 300.0
FIRST_SAMPLE_S = 10.0
"""Seconds to wait for the first sample of the devices: without devices nothing can be mapped."""
REDISCOVERY_INTERVAL_S = 60.0
"""
Minimum seconds between two rediscoveries of the devices. One is triggered if a container holds an unknown device, or if
there is no device: MIG instances change and drivers may be installed while the agent runs.
"""
MAX_SENTENCE = 1024
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
    failures: Mapping[str, int] = field(default_factory=dict)
    """Interface → how often it has failed since the start."""


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
        jitter: Jitter = random.random,
    ) -> None:
        self.view = View()
        interval_s = max(options.interval_s, MIN_INTERVAL_S)
        self._kubelet = Backoff(interval_s, jitter)
        self._pods = Backoff(interval_s, jitter)
        self._api = Backoff(SLICES_MIN_INTERVAL_S / 2, jitter)
        self._guards = {name: Guard(name, alone=True, lasting=True) for name in ("kubelet", "pods_api", "api_server")}
        self._options = options
        self._devices = devices
        self._rediscover = rediscover
        self._sampled = sampled
        self._clock = clock
        self._searched: set[tuple[str, str]] = set()
        self._rediscovered_at_s = clock()
        self._allocatable: tuple[float, list[tuple[str, str]]] | None = None
        self._slices: tuple[float, Slices] | None = None
        self._slices_retention_s = SLICES_RETENTION_S
        self._errors: dict[str, str] = {}
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
        """Return the seconds until the next poll: doubled with each failure."""
        return max(MIN_INTERVAL_S, self._kubelet.wait_s)

    def _run(self) -> None:
        guard = Guard("poll", alone=True, lasting=True)
        until_s = self._clock() + FIRST_SAMPLE_S
        while not self._sampled() and self._clock() < until_s and not self._stopping.wait(0.05):
            pass
        while not self._stopping.is_set():
            if guard(self.poll) is None:
                self._kubelet.failed(self._clock(), MAX_WAIT_S)
                self.view = self._unanswered("a poll of the agent failed: see the log, and report it")
            self._stopping.wait(self.wait_s())

    def poll(self) -> View:
        """Poll once, and return the new `view`."""
        self._errors = {}
        grants = self._ask("kubelet", self._kubelet, lambda: list_grants(self._options.kubelet))
        if grants is None:
            self.view = self._unanswered(self._errors["kubelet"])
        else:
            devices = self._devices()
            inventory = Inventory(devices, replicas=self._options.replicas)
            allocated = join(grants, inventory, self._node_state(grants))
            self.view = View(allocated, self._clock(), self._errors, self._failures())
            self._rediscover_missing(devices, allocated)
        for sentence in self.view.errors.values():
            # Numbers in a reason may change with each poll.
            self._log_once(sentence, re.sub(r"[0-9]+", "#", sentence))
        return self.view

    def _ask(self, source: str, backoff: Backoff, question: Callable[[], T]) -> T | None:
        """Return a source's answer; `None` if it has none, which is an error of this source alone."""

        def ask() -> tuple[T | None, str | None, float]:
            try:
                return question(), None, 0.0
            except (ApiServerError, Malformed, Refused) as error:
                return None, str(error), MAX_WAIT_S
            except Unanswered as error:
                return None, str(error), MAX_RESTART_WAIT_S

        broken = None, "its answer could not be read: see the log, and report it", MAX_WAIT_S
        answer, error, most_s = self._guards[source](ask) or broken
        if error is None:
            backoff.answered()
        else:
            backoff.failed(self._clock(), most_s)
            self._errors[source] = error[:MAX_SENTENCE]
        return answer

    def _failures(self) -> Mapping[str, int]:
        counts = {"kubelet": self._kubelet, "pods_api": self._pods, "api_server": self._api}
        return {name: each.failures for name, each in counts.items() if each.failures}

    def _unanswered(self, why: str) -> View:
        self._allocatable = None  # plugins register again with a new kubelet
        kept = replace(self.view, errors={**self.view.errors, "kubelet": why}, failures=self._failures())
        since = self.view.listed_at_s
        if since is None or self._clock() - since > max(RETENTION_S, 3 * self._options.interval_s):
            return replace(kept, allocated=Allocated())
        return kept

    def _node_state(self, grants: Sequence[Grant]) -> NodeState:
        claims = {
            grant.key
            for grant in grants
            if isinstance(grant, ClaimGrant) and is_wanted(grant.driver, self._options.wanted)
        }
        return NodeState(
            wanted=self._options.wanted,
            allocatable=self._read_allocatable(),
            slices=self._read_slices(claims) if claims else {},
            slices_on=self._options.slices_on,
            pods=self._read_pods() if grants else None,
        )

    def _read_allocatable(self) -> list[tuple[str, str]]:
        now = self._clock()
        if self._allocatable is None or now - self._allocatable[0] > ALLOCATABLE_RETENTION_S:
            try:
                self._allocatable = now, list_allocatable(self._options.kubelet)
            except (Unknown, Malformed):
                self._allocatable = now, []  # an older kubelet
            except Unanswered:
                return []  # retried with the next poll
        return self._allocatable[1]

    def _read_pods(self) -> list[Pod] | None:
        """Return the pods; `None` if unknown, so that pods are identified by name."""
        path = self._options.pods_api
        if not os.path.lexists(path):
            return None  # a kubelet without this interface
        if not self._pods.due(self._clock()):
            self._errors["pods_api"] = self.view.errors.get("pods_api", "it did not answer the last poll")
            return None
        return self._ask("pods_api", self._pods, lambda: list_pods(path))

    def _read_slices(self, claims: set[Key]) -> Mapping[Key, SliceDevice] | None:
        server, node = self._options.api_server, self._options.node
        if not self._options.slices_on:
            return None
        if server is None:
            self._errors["api_server"] = "resource claims need the API server, and this process does not run in a pod"
            return None
        if node is None:
            self._errors["api_server"] = "the node's name is unknown: set K8S_NODE_NAME by fieldRef spec.nodeName"
            return None
        now, kept = self._clock(), self._slices
        if not self._api.due(now):
            self._errors["api_server"] = self.view.errors.get("api_server", "it did not answer the last poll")
        elif self._api.in_a_row or kept is None or self._are_old(kept, claims, now):
            slices = self._ask("api_server", self._api, lambda: read_slices(server, node))
            if slices is not None:
                self._slices = kept = now, slices
                self._slices_retention_s = self._api.shortened(SLICES_RETENTION_S)
        if kept is not None and kept[1].malformed:
            sentence = f"{kept[1].malformed} ResourceSlices or devices in them are not what the API defines"
            self._errors.setdefault("api_server", sentence)
        return kept[1].devices if kept is not None else None

    def _are_old(self, kept: tuple[float, Slices], claims: set[Key], now_s: float) -> bool:
        age_s = now_s - kept[0]
        missing = not claims <= kept[1].devices.keys()
        return age_s > self._slices_retention_s or (missing and age_s > SLICES_MIN_INTERVAL_S)

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
