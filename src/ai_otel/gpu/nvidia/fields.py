"""
NVML fields: the field ids, their units and where each value belongs in a reading.

The ids are those of NVIDIA's `nvml.h`. They are literals because bindings of different versions define different ids
for the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ai_otel.gpu.nvidia.batch import Batch, FieldValue
from ai_otel.gpu.nvidia.calls import Calls, scaled
from ai_otel.gpu.nvidia.wraparound import FULL, WraparoundCounter
from ai_otel.gpu.source import GpuReading, Support
from ai_otel.gpu.values import set_value, within

ALL_LINKS = 0xFFFFFFFF
"""Scope of an NVLink field: the sum over all links. The default scope, 0, is link 0 only."""

ENERGY = 83
POWER_AVERAGE = 185
POWER_INSTANT = 186
PENDING, FAILURE, RECOVERY_ACTION = 144, 145, 230

SLOW = frozenset({3, 4, PENDING, FAILURE, 187, 188, 189, 190, 192, RECOVERY_ACTION})
"""Fields that change by configuration or with a fault: half of all fields, read in a separate, slower batch."""

MOST_WATTS = 100_000.0
COLDEST_C, HOTTEST_C = 1.0, 150.0
"""NVML reports whole degrees, and 0 if there is no sensor."""
NVLINK_BYTES_PER_S = 1.8e12
"""Upper bound of NVLink traffic in one direction: fifth generation, both directions added."""
LANE_BYTES_PER_S: Mapping[int, float] = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.97e9, 5: 3.94e9, 6: 7.57e9, 7: 15.13e9}
"""PCI Express generation → capacity of one lane in one direction."""


def watts(milliwatts: float) -> float | Support:
    """Return watts for milliwatts. 0 is a sentinel: a responding GPU draws power."""
    return within(1e-3, milliwatts / 1e3, MOST_WATTS)


def celsius(degrees: float) -> float | Support:
    """Return the temperature of a sensor in °C, validated."""
    return within(COLDEST_C, float(degrees), HOTTEST_C)


def seconds(nanoseconds: float) -> float:
    """Return seconds for nanoseconds."""
    return nanoseconds / 1e9


def joules(millijoules: float) -> float:
    """Return joules for millijoules."""
    return millijoules / 1e3


@dataclass(frozen=True, slots=True)
class Row:
    """One field id, and the field and key of a reading that receives its value."""

    number: int
    name: str
    key: str | None
    convert: Callable[[Any], Any]


ROWS = (
    Row(ENERGY, "energy_j", None, joules),
    Row(82, "temperature_c", "memory", celsius),
    Row(190, "power_limit_w", "enforced", watts),
    Row(192, "power_limit_w", "requested", watts),
    Row(189, "power_limit_w", "default", watts),
    Row(187, "power_limit_w", "min", watts),
    Row(188, "power_limit_w", "max", watts),
    Row(74, "throttle_s", "power_cap", seconds),
    Row(76, "throttle_s", "sync_boost", seconds),
    Row(3, "errors", "corrected", int),
    Row(4, "errors", "uncorrected", int),
)
THERMAL = (
    ("sw_thermal", 269),
    ("hw_thermal", 270),
    ("hw_power_brake", 271),
)
LINKS = (
    (197, 0, ("pcie", "transmit"), 1),
    (198, 0, ("pcie", "receive"), 1),
    (138, ALL_LINKS, ("nvlink", "transmit"), 1024),
    (139, ALL_LINKS, ("nvlink", "receive"), 1024),
)
"""Field id, scope, link and direction, bytes per count."""

_BITS = {1: 32, 5: 32, 6: 16}
"""`nvmlValueType_t` → width of the value in bits, if below 64."""


def throttle_rows(driver: str | None) -> tuple[Row, ...]:
    """
    Return the throttle counters of a driver version.

    575 has them at 251 to 253, where 570 and 580 have power smoothing; 580 moved them to 269. Before 575 there is one
    counter for all thermal reasons.
    """
    major = driver_major(driver)
    if major is not None and major < 575:
        return (Row(75, "throttle_s", "thermal", seconds),)
    moved = 18 if major is not None and major < 580 else 0
    return tuple(Row(number - moved, "throttle_s", reason, seconds) for reason, number in THERMAL)


def smoothing_number(driver: str | None) -> int | None:
    """Return the field id of power smoothing in a driver version; `None` before 570."""
    major = driver_major(driver)
    if major is None or major < 570:
        return None
    return 256 if 575 <= major < 580 else 251


def driver_major(driver: str | None) -> int | None:
    """Return the major version: 580 for `580.159.03`; `None` if it cannot be parsed."""
    major = (driver or "").partition(".")[0]
    return int(major) if major.isdecimal() else None


class Fields:
    """The fields of one physical GPU."""

    def __init__(self, calls: Calls, handle: Any, driver: str | None) -> None:
        self._clock = calls.clock
        self._links = {ends: WraparoundCounter(unit) for _number, _scope, ends, unit in LINKS}
        rows = ROWS + throttle_rows(driver)
        self._rows = [row for row in rows if row.number not in SLOW]
        self._slow_rows = [row for row in rows if row.number in SLOW]
        scopes = {number: scope for number, scope, *_rest in LINKS}
        fast = [*(row.number for row in self._rows), *scopes, POWER_AVERAGE]

        def batch(*numbers: int) -> Batch:
            return Batch(calls, handle, numbers, scopes)

        self._fast, self._slow = batch(*fast), batch(*SLOW)
        self._energy, self._instant = batch(ENERGY), batch(POWER_INSTANT)
        number = smoothing_number(driver)
        self._smoothing = None if number is None else (number, batch(number))

    def read_slow(self, reading: GpuReading) -> None:
        """Read the slow batch, and let all batches select their fields again."""
        for each in (self._slow, self._fast, self._energy, self._instant):
            each.replan()
        values = self._slow.ask()
        for row in self._slow_rows:
            set_value(reading, row.name, scaled(values[row.number][0], row.convert), row.key)
        set_value(reading, "status", status_of(*(values[number][0] for number in (PENDING, FAILURE, RECOVERY_ACTION))))

    def read(self, reading: GpuReading, pcie_bytes_per_s: Mapping[str, float], slot: float | None) -> None:
        """
        Read the fast batch.

        `pcie_bytes_per_s` is the host link's traffic by direction since the last sample, from the performance metrics.
        `slot` is the link's capacity in bytes per second. Both determine how often a 32-bit counter wrapped.
        """
        values = self._fast.ask()
        for row in self._rows:
            set_value(reading, row.name, scaled(values[row.number][0], row.convert), row.key)
        average = instant = values[POWER_AVERAGE][0]
        if isinstance(average, Support):
            # The 1 s average matches the sampling interval; instantaneous power is the fallback.
            instant = self._instant.ask()[POWER_INSTANT][0]
        power(reading, average, instant)
        self._io(reading, values, pcie_bytes_per_s, slot)

    def energy_j(self) -> float | Support:
        """Read the energy counter in joules."""
        answer: float | Support = scaled(self._energy.ask()[ENERGY][0], joules)
        return answer

    def power_smoothing(self) -> bool:
        """Return whether power smoothing is on (Blackwell): it keeps the power draw up between bursts."""
        if self._smoothing is None:
            return False
        number, batch = self._smoothing
        return batch.ask()[number][0] == 1

    def _io(
        self, reading: GpuReading, values: Mapping[int, FieldValue], rates: Mapping[str, float], slot: float | None
    ) -> None:
        now_s = self._clock()
        for number, _scope, ends, _unit in LINKS:
            link, direction = ends
            value, kind = values[number]
            rate, most = (rates.get(direction), slot) if link == "pcie" else (None, NVLINK_BYTES_PER_S)
            bits = _BITS.get(kind, FULL)
            total = (
                value if isinstance(value, Support) else self._links[ends].total(int(value), bits, now_s, rate, most)
            )
            if total is not None:
                set_value(reading, "io_bytes", total, ends)


def power(reading: GpuReading, average: Any, instant: Any) -> None:
    """Set the 1 s average power, else the instantaneous one, and which of them it is."""
    window = "instant" if isinstance(average, Support) and not isinstance(instant, Support) else "average"
    answer = scaled(instant if window == "instant" else average, watts)
    set_value(reading, "power_w", answer)
    set_value(reading, "power_window", answer if isinstance(answer, Support) else window)


# Recovery actions: GPU reset, node reboot, drain and reset, bus reset, system reboot.
_NEEDS_RESET = frozenset({1, 2, 4, 6, 7})


def status_of(pending: Any, failure: Any, action: Any) -> str | Support:
    """
    Return `hw.state`.

    `failed`: the GPU needs a reset, or a row remapping failed. `degraded`: a remapping is pending, or the driver
    recommends another action.
    """
    answers = (pending, failure, action)
    if all(isinstance(answer, Support) for answer in answers):
        return next((why for why in answers if why is not Support.NOT_SUPPORTED), Support.NOT_SUPPORTED)
    if failure == 1 or (not isinstance(action, Support) and action in _NEEDS_RESET):
        return "failed"
    return "degraded" if pending == 1 or (not isinstance(action, Support) and action != 0) else "ok"
