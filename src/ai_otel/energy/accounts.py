"""One device's energy and time, booked to what they were used for: the books always come to what the counter said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ai_otel.energy.counter_series import EnergyRing, IdleFloor

REQUEST, IDLE, OVERHEAD, OTHER = "request", "idle", "overhead", "other"

AT_REST = 1.5
"""Time without a request counts as idle while the power is below so many times the floor."""
SHARED_FOR_S = 60.0
"""How long a device counts as shared after another process was last seen to compute on it."""

_ROUNDING = 1e-6
_UNCLAIMED = 1e-12

Entry = tuple[str, str | None]
"""Bucket, and the model where the bucket is `request`."""


@dataclass(frozen=True, slots=True)
class Account:
    """The state of one device's books at one moment. Sums only grow."""

    key: tuple[str, str | None]
    energy_j: Mapping[Entry, float]
    time_s: Mapping[Entry, float]
    device_energy_j: float
    """What the counter said for the same time."""
    device_time_s: float
    idle_power_w: float | None

    @property
    def conservation_error(self) -> float:
        """How far the sum of the buckets is from the device's own energy, as a share of it."""
        if self.device_energy_j == 0:
            return 0.0
        return (sum(self.energy_j.values()) - self.device_energy_j) / self.device_energy_j


class Bin(NamedTuple):
    """What there is to say of one bin, the same for every device of a replica."""

    whole_s: float
    busy_s: float
    """For how long of it requests ran."""
    claims: Mapping[str | None, float]
    """Model → its requests' share of what was used meanwhile; less than 1 in all where some of it was overhead."""
    others: bool
    """Whether other servers computed, too."""
    settled_down: bool
    """Whether there was no request in the bin before, either."""


class Busy(NamedTuple):
    """What requests share of one device's part of a bin."""

    energy_j: float
    time_s: float
    floor_j: float | None
    """The idle floor of that time."""


class Books:
    """The books of one device, with its counter and its idle floor."""

    def __init__(self, key: tuple[str, str | None], *, part: bool, gap_s: float) -> None:
        self.key = key
        self.ring = EnergyRing(gap_s=gap_s)
        self.floor = IdleFloor()
        self.own_share: float | None = None
        self._part = part
        self._shared_until_s = float("-inf")
        self._energy_j: dict[Entry, float] = {}
        self._time_s: dict[Entry, float] = {}
        self._begun: tuple[float, float] | None = None
        self._booked: tuple[float, float] | None = None
        self.absent = True
        """It does not answer, so nobody waits for it."""

    def see_share(self, time_s: float, share: float | None) -> None:
        """Which part of the device's time is ours, as far as anyone can tell."""
        self.own_share = share
        if share is not None and share < 1:
            self._shared_until_s = time_s + SHARED_FOR_S

    def shared(self, time_s: float) -> bool:
        """Whether others compute on it, or it is a part of a device only."""
        return self._part or time_s < self._shared_until_s

    def ready(self, time_s: float, now_s: float, gap_s: float) -> bool:
        """Whether it need not be waited for to know its energy until `time_s`."""
        last_s = self.ring.last_s
        return self.absent or (last_s is not None and last_s >= time_s) or now_s - time_s > gap_s

    def open(self, start_s: float, end_s: float) -> float | None:
        """
        The energy of the next bin; `None` where it is not known. Bins come in order.

        What went by since the last one, in a gap, was nobody's.
        """
        energy_j = self.ring.between(start_s, end_s)
        if energy_j is None:
            return None
        started_j, ended_j = self.ring.until(start_s), self.ring.until(end_s)
        assert started_j is not None and ended_j is not None  # noqa: S101, PT018 - as `between` has found
        if self._booked is None:
            self._begun = self._booked = (start_s, started_j)
        missed_s, missed_j = start_s - self._booked[0], started_j - self._booked[1]
        if missed_s > 0:
            self.put(OTHER, None, missed_j, missed_s)
        self._booked = (end_s, ended_j)
        return energy_j

    def put(self, bucket: str, model: str | None, energy_j: float, time_s: float) -> None:
        """Book some of an open bin."""
        if not energy_j and not time_s:
            return  # a bucket that nothing ever went into is absent
        entry = bucket, model
        self._energy_j[entry] = self._energy_j.get(entry, 0.0) + energy_j
        self._time_s[entry] = self._time_s.get(entry, 0.0) + time_s

    def book(self, bin_: Bin, energy_j: float, own: float | None) -> Busy:
        """Book an open bin, of which the part `own` is ours; `None` where that is not known."""
        whole_s = bin_.whole_s
        if own is None:
            self.put(OTHER, None, energy_j, whole_s)
            return Busy(0.0, 0.0, None)
        own_j = energy_j * own
        idle = bin_.busy_s == 0
        if own < 1:
            self.put(OTHER, None, energy_j - own_j, whole_s * (1 - own))
        elif idle and bin_.settled_down and not bin_.others:
            self.floor.add(energy_j / whole_s)
        floor_w = self.floor.power_w
        rest_s = whole_s - bin_.busy_s
        rest_j = own_j * rest_s / whole_s
        if floor_w is not None and not idle:
            rest_j = min(own_j, floor_w * own * rest_s)
        self._put_at_rest(rest_j, rest_s * own, alone=not bin_.others)
        if idle:
            return Busy(0.0, 0.0, 0.0)
        busy = Busy(own_j - rest_j, bin_.busy_s * own, None if floor_w is None else floor_w * bin_.busy_s * own)
        return self._put_busy(busy, bin_)

    def _put_busy(self, busy: Busy, bin_: Bin) -> Busy:
        if bin_.others:
            self.put(OTHER, None, busy.energy_j, busy.time_s)
            return Busy(0.0, 0.0, 0.0)
        for model, share in bin_.claims.items():
            self.put(REQUEST, model, busy.energy_j * share, busy.time_s * share)
        unclaimed = 1 - sum(bin_.claims.values())
        if unclaimed > _UNCLAIMED:
            self.put(OVERHEAD, None, busy.energy_j * unclaimed, busy.time_s * unclaimed)
        return busy

    def _put_at_rest(self, energy_j: float, time_s: float, *, alone: bool) -> None:
        """Book time without a request of ours; not `alone`, what is above the floor may be others' work."""
        if time_s <= 0:
            return
        power_w = energy_j / time_s
        floor_w = self.floor.power_w
        if floor_w is None:
            self.put(IDLE if alone else OTHER, None, energy_j, time_s)
            return
        floor_j = floor_w * time_s
        if energy_j <= floor_j * (1 + _ROUNDING):
            floor_j = energy_j
        above = OVERHEAD if alone else OTHER
        working = power_w > AT_REST * floor_w
        self.put(IDLE, None, floor_j, 0.0 if working else time_s)
        self.put(above, None, energy_j - floor_j, time_s if working else 0.0)

    def account(self) -> Account | None:
        """The present state; `None` before the first bin."""
        if self._begun is None or self._booked is None:
            return None
        return Account(
            key=self.key,
            energy_j=dict(self._energy_j),
            time_s=dict(self._time_s),
            device_energy_j=self._booked[1] - self._begun[1],
            device_time_s=self._booked[0] - self._begun[0],
            idle_power_w=self.floor.power_w,
        )
