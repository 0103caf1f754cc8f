"""One device's energy and time by what they were used for. The sums always equal the device's counter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ai_otel.energy.absence import SHARED, UNKNOWN_SHARING
from ai_otel.energy.counter_series import EnergyCounterSeries, IdleFloor

REQUEST, IDLE, OVERHEAD, OTHER = "request", "idle", "overhead", "other"

IDLE_POWER_RATIO = 1.5
"""Time without a request counts as idle while the power is below so many times the floor."""
SHARED_FOR_S = 60.0
"""Seconds for which a device counts as shared after another process last computed on it."""

_ROUNDING = 1e-6
_UNCLAIMED = 1e-12

Entry = tuple[str, str | None]
"""Bucket, and the model where the bucket is `request`."""


@dataclass(frozen=True, slots=True)
class Account:
    """The accounts of one device at one time. Sums only grow."""

    key: tuple[str, str | None]
    energy_j: Mapping[Entry, float]
    time_s: Mapping[Entry, float]
    device_energy_j: float
    """Joules of the device's counter over the same time."""
    device_time_s: float
    idle_power_w: float | None

    @property
    def conservation_error(self) -> float:
        """Difference between the sum of the buckets and the device's own energy, as a share of the latter."""
        if self.device_energy_j == 0:
            return 0.0
        return (sum(self.energy_j.values()) - self.device_energy_j) / self.device_energy_j


class Bin(NamedTuple):
    """One bin, the same for every device of a replica."""

    whole_s: float
    busy_s: float
    """Seconds in which requests ran."""
    claims: Mapping[str | None, float]
    """Model → its requests' share of the busy time's energy. The sum is less than 1 if some of it was overhead."""
    others: bool
    """Whether other servers computed as well."""
    was_idle: bool
    """Whether the previous bin had no request either."""


class Busy(NamedTuple):
    """What requests share of one device's energy and time in a bin."""

    energy_j: float
    time_s: float
    floor_j: float | None
    """The idle floor of that time."""


class DeviceAccounts:
    """The accounts of one device, with its counter and its idle floor."""

    def __init__(self, key: tuple[str, str | None], *, partition: bool, gap_s: float) -> None:
        self.key = key
        self.series = EnergyCounterSeries(gap_s=gap_s)
        self.floor = IdleFloor()
        self.own_share: float | None = None
        self._partition = partition
        self._shared_until_s = self._unknown_until_s = float("-inf")
        self._energy_j: dict[Entry, float] = {}
        self._time_s: dict[Entry, float] = {}
        self._first: tuple[float, float] | None = None
        self._last: tuple[float, float] | None = None
        self.absent = True
        """The device does not answer, so settling does not wait for it."""

    def see_share(self, time_s: float, share: float | None) -> None:
        """Set the share of the device's compute time that is this container's; `None` if unknown."""
        self.own_share = share
        if share is None:
            self._unknown_until_s = time_s + SHARED_FOR_S
        elif share < 1:
            self._shared_until_s = time_s + SHARED_FOR_S

    def sharing(self, time_s: float) -> str | None:
        """Return why it is not exclusive: others compute on it, it is a partition, or the others are unknown."""
        if self._partition or time_s < self._shared_until_s:
            return SHARED
        return UNKNOWN_SHARING if time_s < self._unknown_until_s else None

    @property
    def estimated_share(self) -> float | None:
        """This container's share of a device that is not exclusive. Of a partition, nothing is assumed."""
        return self.own_share if self.own_share is not None or self._partition else 1.0

    def ready(self, time_s: float, now_s: float, gap_s: float) -> bool:
        """Whether its energy until `time_s` is known, or no longer waited for."""
        last_s = self.series.last_s
        return self.absent or (last_s is not None and last_s >= time_s) or now_s - time_s > gap_s

    def open(self, start_s: float, end_s: float) -> float | None:
        """
        Return the joules of the next bin; `None` if unknown. Bins come in order.

        Energy used in a gap since the previous bin is unattributed.
        """
        energy_j = self.series.between(start_s, end_s)
        if energy_j is None:
            return None
        started_j, ended_j = self.series.until(start_s), self.series.until(end_s)
        assert started_j is not None and ended_j is not None  # noqa: S101, PT018 - as `between` has found
        if self._last is None:
            self._first = self._last = (start_s, started_j)
        missed_s, missed_j = start_s - self._last[0], started_j - self._last[1]
        if missed_s > 0:
            self.add(OTHER, None, missed_j, missed_s)
        self._last = (end_s, ended_j)
        return energy_j

    def add(self, bucket: str, model: str | None, energy_j: float, time_s: float) -> None:
        """Add energy and time of an open bin to a bucket."""
        if not energy_j and not time_s:
            return  # an unused bucket is absent
        entry = bucket, model
        self._energy_j[entry] = self._energy_j.get(entry, 0.0) + energy_j
        self._time_s[entry] = self._time_s.get(entry, 0.0) + time_s

    def post(self, bin_: Bin, energy_j: float, own: float | None) -> Busy:
        """Post an open bin. `own` is the share of the device's time that is this container's; `None` if unknown."""
        whole_s = bin_.whole_s
        if own is None:
            self.add(OTHER, None, energy_j, whole_s)
            return Busy(0.0, 0.0, None)
        own_j = energy_j * own
        idle = bin_.busy_s == 0
        if own < 1:
            self.add(OTHER, None, energy_j - own_j, whole_s * (1 - own))
        elif idle and bin_.was_idle and not bin_.others:
            self.floor.add(energy_j / whole_s)
        floor_w = self.floor.power_w
        rest_s = whole_s - bin_.busy_s
        rest_j = own_j * rest_s / whole_s
        if floor_w is not None and not idle:
            rest_j = min(own_j, floor_w * own * rest_s)
        self._post_idle(rest_j, rest_s * own, alone=not bin_.others)
        if idle:
            return Busy(0.0, 0.0, 0.0)
        busy = Busy(own_j - rest_j, bin_.busy_s * own, None if floor_w is None else floor_w * bin_.busy_s * own)
        return self._post_busy(busy, bin_)

    def _post_busy(self, busy: Busy, bin_: Bin) -> Busy:
        if bin_.others:
            self.add(OTHER, None, busy.energy_j, busy.time_s)
            return Busy(0.0, 0.0, 0.0)
        for model, share in bin_.claims.items():
            self.add(REQUEST, model, busy.energy_j * share, busy.time_s * share)
        unclaimed = 1 - sum(bin_.claims.values())
        if unclaimed > _UNCLAIMED:
            self.add(OVERHEAD, None, busy.energy_j * unclaimed, busy.time_s * unclaimed)
        return busy

    def _post_idle(self, energy_j: float, time_s: float, *, alone: bool) -> None:
        """Post time without a request. Unless `alone`, energy above the floor may be other servers' work."""
        if time_s <= 0:
            return
        power_w = energy_j / time_s
        floor_w = self.floor.power_w
        if floor_w is None:
            self.add(IDLE if alone else OTHER, None, energy_j, time_s)
            return
        floor_j = floor_w * time_s
        if energy_j <= floor_j * (1 + _ROUNDING):
            floor_j = energy_j
        above = OVERHEAD if alone else OTHER
        working = power_w > IDLE_POWER_RATIO * floor_w
        self.add(IDLE, None, floor_j, 0.0 if working else time_s)
        self.add(above, None, energy_j - floor_j, time_s if working else 0.0)

    def account(self) -> Account | None:
        """Return the present state; `None` before the first bin."""
        if self._first is None or self._last is None:
            return None
        return Account(
            key=self.key,
            energy_j=dict(self._energy_j),
            time_s=dict(self._time_s),
            device_energy_j=self._last[1] - self._first[1],
            device_time_s=self._last[0] - self._first[0],
            idle_power_w=self.floor.power_w,
        )
