"""
The energy of a replica's devices, divided among its requests and posted to accounts without remainder.

Nothing here reads a device, an engine or a clock. Callers pass what they measured, in seconds of one monotonic clock
and in joules, and call `settle`. A bin is the time between two updates of the counter. Bins are settled in order, as
soon as everything that ran in them is known, or after `patience_s`.

In each bin the idle floor of the time without a request is set aside, and the rest is divided (`apportionment.py`). The
devices of a replica work together, so their energies are summed, and a request has the same share of each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ai_otel.energy.absence import GAP, OTHER_SERVER, OVERLOAD
from ai_otel.energy.accounts import Account, Bin, Busy, DeviceAccounts
from ai_otel.energy.apportionment import Division, Step, StepMember, divide, union_s
from ai_otel.energy.cost_model import StepCost
from ai_otel.energy.timeline import Activity, RequestTimeline
from ai_otel.gpu.source import Device
from ai_otel.record import Energy, Progress

DeviceKey = tuple[str, str | None]
"""`Device.key`."""


class Settled(NamedTuple):
    """The result of one ended inference."""

    key: Hashable
    energy: Energy | None
    """`None` if unknown."""
    posted_j: float
    """Joules of it in the bucket `request`, whether `energy` is known or not."""
    absence: str | None = None
    """Why `energy` is unknown."""


class _Edge(NamedTuple):
    """The end of a bin, and the container's own share of each device's time in it."""

    time_s: float
    others: str | None
    """Why no energy of the bin is attributed: others computed as well."""
    own: Mapping[DeviceKey, float | None]
    sharing: str | None
    """Why a device's own share is unknown."""


class _Opened(NamedTuple):
    """One device's activity of a bin."""

    accounts: DeviceAccounts
    energy_j: float
    own: float | None


class Ledger:
    """
    The energy accounts of one replica.

    With `shared`, devices on which other containers compute are apportioned by this container's share of their time,
    and if that is unknown, they are this container's. Without it, such devices have no accounts, and requests on them
    no energy.
    """

    def __init__(
        self, devices: Sequence[Device], *, shared: bool = False, patience_s: float = 10.0, gap_s: float = 5.0
    ) -> None:
        self._accounts: dict[DeviceKey, DeviceAccounts] = {
            each.key: DeviceAccounts(each.key, partition=each.instance_id is not None, gap_s=gap_s) for each in devices
        }
        self._shared = shared
        self._patience_s = patience_s
        self._gap_s = gap_s
        self._timelines: dict[Hashable, RequestTimeline] = {}
        self._steps: deque[Step] = deque()
        self._steps_until_s: float | None = None
        self._edges: deque[_Edge] = deque()
        self._lead: DeviceKey | None = None
        self._settled_s: float | None = None
        self._latest_s = float("-inf")
        # Of this bin and the two before: energy of a request's start may be in an earlier bin.
        self._powers_w: deque[float] = deque(maxlen=3)
        self._at_rest = False
        self.cost = StepCost()
        self.others = False
        """Whether other servers or front ends compute on the devices. Set by `EnergyAttribution`."""
        self.overflown = False
        """Whether more requests have started than are followed. Set by `EnergyAttribution`."""

    # ---------------------------------------------------------------- requests

    def begin(self, key: Hashable, start_s: float, model: str | None = None) -> None:
        """Start an inference. Bins that are settled already are unobserved time of it."""
        timeline = self._timelines.setdefault(key, RequestTimeline(key, start_s, model))
        if self._settled_s is not None:
            timeline.unobserved_s = max(0.0, self._settled_s - start_s)

    def name(self, key: Hashable, model: str) -> None:
        """Set the model of an inference, if it was unknown at the start."""
        timeline = self._timelines.get(key)
        if timeline is not None:
            timeline.model = model

    def progress(
        self,
        key: Hashable,
        time_s: float,
        progress: Progress,
        *,
        scheduled_s: float | None = None,
        first_token_s: float | None = None,
    ) -> None:
        """Set the progress of an inference at `time_s`."""
        timeline = self._timelines.get(key)
        if timeline is not None:
            timeline.progress(time_s, progress, scheduled_s, first_token_s)

    def end(
        self,
        key: Hashable,
        end_s: float,
        *,
        scheduled_s: float | None = None,
        first_token_s: float | None = None,
        tokens: Progress | None = None,
        final: bool = True,
    ) -> None:
        """Mark an inference as ended. May be called again until `final`."""
        timeline = self._timelines.get(key)
        if timeline is not None:
            timeline.end(end_s, scheduled_s, first_token_s, tokens, final=final)

    def drop(self, key: Hashable) -> None:
        """Forget an inference for which the engine did no work."""
        self._timelines.pop(key, None)

    def step(self, start_s: float, end_s: float, members: Sequence[StepMember]) -> None:
        """Add one step of an engine that reports its members, in order of the steps' ends, before the members end."""
        self._steps.append(Step(start_s, end_s, members))
        self._steps_until_s = end_s
        for member in members:
            timeline = self._timelines.get(member.key)
            if timeline is not None and timeline.scheduled_s is None:
                timeline.scheduled_s = max(timeline.start_s, start_s)

    # ---------------------------------------------------------------- devices

    def has(self, device: DeviceKey) -> bool:
        """Whether the device is one of the replica's."""
        return device in self._accounts

    def add_energy(self, device: DeviceKey, time_s: float, energy_j: float | None) -> None:
        """Add one sample of a device's counter; `None` if it has none or did not answer."""
        device_accounts = self._accounts[device]
        if energy_j is None:
            device_accounts.absent = True
            device_accounts.series.lose(time_s)
            return
        device_accounts.absent = False
        if not device_accounts.series.add(time_s, energy_j) or time_s <= self._latest_s:
            return
        # The first device sets the bins; another one does if it stops answering.
        if self._lead in {None, device} or time_s - self._latest_s > self._gap_s:
            self._lead, self._latest_s = device, time_s
            own = {key: self._own(key, time_s) for key in self._accounts}
            sharing = (self._accounts[key].sharing(time_s) for key, share in own.items() if share is None)
            others = OVERLOAD if self.overflown else OTHER_SERVER if self.others else None
            self._edges.append(_Edge(time_s, others, own, next(sharing, None)))

    def add_own_share(self, device: DeviceKey, time_s: float, share: float | None) -> None:
        """Set the share of the device's recent compute time that is this container's; `None` if it is unknown."""
        self._accounts[device].see_share(time_s, share)

    def _own(self, device: DeviceKey, time_s: float) -> float | None:
        device_accounts = self._accounts[device]
        if device_accounts.sharing(time_s) is None:
            return 1.0
        return device_accounts.estimated_share if self._shared else None

    def accounts(self) -> Sequence[Account]:
        """Return the accounts, without those of devices whose energy cannot be attributed."""
        shown = [
            device_accounts
            for key, device_accounts in self._accounts.items()
            if self._own(key, self._latest_s) is not None
        ]
        accounts = (device_accounts.account() for device_accounts in shown)
        return [account for account in accounts if account is not None]

    # ---------------------------------------------------------------- settling

    def settle(self, now_s: float) -> Sequence[Settled]:
        """Settle every bin that is complete, and return the inferences that are settled by it."""
        for timeline in self._timelines.values():
            if timeline.end_s is not None and now_s - timeline.end_s > self._patience_s:
                timeline.final = True
        unresolved = [timeline for timeline in self._timelines.values() if not timeline.resolved]
        while self._edges and self._ready(self._edges[0], now_s, unresolved):
            edge = self._edges.popleft()
            if self._settled_s is not None:
                self._settle_bin(self._settled_s, edge)
            self._settled_s = edge.time_s
        while self._steps and self._steps[0].end_s < max(self._settled_s or 0.0, now_s - 2 * self._patience_s):
            self._steps.popleft()
        return [self._close(timeline) for timeline in list(self._ended(now_s))]

    def _ready(self, edge: _Edge, now_s: float, unresolved: Sequence[RequestTimeline]) -> bool:
        if not all(
            device_accounts.ready(edge.time_s, now_s, self._gap_s) for device_accounts in self._accounts.values()
        ):
            return False
        if now_s - edge.time_s > self._patience_s:
            return True
        since_s = self._settled_s if self._settled_s is not None else edge.time_s
        if self._steps_until_s is not None:
            running = self._running(since_s, edge.time_s)
            return self._steps_until_s >= edge.time_s or all(timeline.end_s is not None for timeline in running)
        if not any(_reaches(timeline, since_s, edge.time_s) for timeline in unresolved):
            return True
        # A single request gets the whole bin.
        return sum(1 for _ in self._running(since_s, edge.time_s)) <= 1

    def _running(self, since_s: float, until_s: float) -> Iterator[RequestTimeline]:
        return (timeline for timeline in self._timelines.values() if _reaches(timeline, since_s, until_s))

    def _ended(self, now_s: float) -> Iterator[RequestTimeline]:
        for timeline in self._timelines.values():
            if timeline.end_s is not None and timeline.final:
                settled = self._settled_s is not None and self._settled_s >= timeline.end_s
                late = now_s - timeline.end_s > self._patience_s + self._gap_s
                if late and not settled:
                    timeline.unattribute(GAP)
                if settled or late:
                    yield timeline

    def _close(self, timeline: RequestTimeline) -> Settled:
        del self._timelines[timeline.key]
        quanta = [
            device_accounts.series.quantum_s
            for device_accounts in self._accounts.values()
            if device_accounts.series.quantum_s is not None
        ]
        energy = timeline.energy(max(quanta, default=None))
        return Settled(timeline.key, energy, sum(timeline.attributed_j.values()), timeline.absence)

    def _settle_bin(self, start_s: float, edge: _Edge) -> None:
        end_s, whole_s = edge.time_s, edge.time_s - start_s
        opened = [
            _Opened(device_accounts, energy_j, edge.own[key])
            for key, device_accounts in self._accounts.items()
            if (energy_j := device_accounts.open(start_s, end_s)) is not None
        ]
        activities = self._activities(start_s, end_s)
        absence = edge.others or edge.sharing or (GAP if len(opened) < len(self._accounts) else None)
        if absence is not None:
            for activity in activities:
                activity.timeline.unattribute(absence)
        busy_s = union_s(activities, whole_s) if activities else 0.0
        division = divide(activities, busy_s, list(self._steps_in(start_s, end_s)), self.cost) if activities else None
        bin_ = Bin(
            whole_s, busy_s, _claims(activities, division), others=edge.others is not None, was_idle=self._at_rest
        )
        shared = [each.accounts.post(bin_, each.energy_j, each.own) for each in opened]
        if division is not None:
            self._attribute(activities, division, shared)
            if division.work is not None and absence is None:
                self.cost.learn(division.work, sum(each.energy_j for each in shared))
        power_w = sum(each.energy_j for each in opened) / whole_s
        self._powers_w.append(power_w)
        least_w, most_w = min(self._powers_w), max(self._powers_w)
        batch = sum(each.run_s for each in activities) / busy_s if activities else 0.0
        mixed_s = whole_s if any(activity.run_s < whole_s for activity in activities) else 0.0
        for activity in activities:
            activity.timeline.ran(activity.run_s, power_w, least_w, most_w, batch, mixed_s)
            activity.timeline.forget(end_s)
        self._at_rest = not activities

    @staticmethod
    def _attribute(activities: Sequence[Activity], division: Division, shared: Sequence[Busy]) -> None:
        energy_j, time_s = sum(each.energy_j for each in shared), sum(each.time_s for each in shared)
        floors = [each.floor_j for each in shared]
        floor_j = None if None in floors else sum(each for each in floors if each is not None)
        for activity, share in zip(activities, division.shares, strict=True):
            idle_j = None if floor_j is None else floor_j * share
            activity.timeline.attribute(division.method, energy_j * share, idle_j, time_s * share)

    def _activities(self, start_s: float, end_s: float) -> list[Activity]:
        activities = [
            activity for each in self._timelines.values() if (activity := each.activity(start_s, end_s)) is not None
        ]
        waiting = [activity for activity in activities if activity.timeline.waiting]
        if not waiting or len(waiting) == len(activities):
            return activities
        # Unresolved after `patience_s`: beside requests that run, it is taken to be queued.
        for activity in waiting:
            activity.timeline.unobserved_s += activity.run_s
        return [activity for activity in activities if not activity.timeline.waiting]

    def _steps_in(self, start_s: float, end_s: float) -> Iterator[tuple[Step, float]]:
        for step in self._steps:
            inside_s = min(end_s, step.end_s) - max(start_s, step.start_s)
            if inside_s > 0:
                yield step, inside_s / (step.end_s - step.start_s)


def _claims(activities: Sequence[Activity], division: Division | None) -> Mapping[str | None, float]:
    """Return model → its share of the time with requests."""
    claims: dict[str | None, float] = {}
    for activity, share in zip(activities, division.shares if division is not None else (), strict=True):
        claims[activity.timeline.model] = claims.get(activity.timeline.model, 0.0) + share
    return claims


def _reaches(timeline: RequestTimeline, since_s: float, until_s: float) -> bool:
    """Whether the inference can have run in this time."""
    return timeline.runs_from_s < until_s and (timeline.end_s is None or timeline.end_s > since_s)
