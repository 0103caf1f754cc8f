"""
What NVML tells by number, and what each number means.

The numbers are those of NVIDIA's `nvml.h`, written out because bindings of different ages give different numbers for
one name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ai_otel.gpu.nvidia.batch import Batch, Told
from ai_otel.gpu.nvidia.calls import Calls, scaled
from ai_otel.gpu.nvidia.wraparound import FULL, Unwrapped
from ai_otel.gpu.source import GpuReading, Support
from ai_otel.gpu.values import tell, within

ALL_LINKS = 0xFFFFFFFF
"""Scope of a NVLink field: the sum over all links. The default, 0, is link 0 alone."""

ENERGY = 83
POWER_AVERAGE = 185
POWER_INSTANT = 186
PENDING, FAILURE, RECOVERY_ACTION = 144, 145, 230

SELDOM = frozenset({3, 4, PENDING, FAILURE, 187, 188, 189, 190, 192, RECOVERY_ACTION})
"""What changes by a person's hand or with a fault, and is half of the numbers: in a batch of its own, read seldom."""

MOST_WATTS = 100_000.0
COLDEST_C, HOTTEST_C = 1.0, 150.0
"""NVML tells whole degrees, and 0 where there is no sensor."""
NVLINK_BYTES_PER_S = 1.8e12
"""More than any link group carries in one direction: fifth generation, both directions counted."""
LANE_BYTES_PER_S: Mapping[int, float] = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.97e9, 5: 3.94e9, 6: 7.57e9, 7: 15.13e9}
"""PCI Express generation → what one lane carries in one direction."""


def watts(milliwatts: float) -> float | Support:
    """No GPU that answers draws nothing: 0 is a sentinel."""
    return within(1e-3, milliwatts / 1e3, MOST_WATTS)


def celsius(degrees: float) -> float | Support:
    """Degrees of a sensor."""
    return within(COLDEST_C, float(degrees), HOTTEST_C)


def seconds(nanoseconds: float) -> float:
    """From nanoseconds."""
    return nanoseconds / 1e9


def joules(millijoules: float) -> float:
    """From millijoules."""
    return millijoules / 1e3


@dataclass(frozen=True, slots=True)
class Row:
    """One number, and where its value belongs."""

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
"""Number, scope, link and direction, bytes of one count."""

_BITS = {1: 32, 5: 32, 6: 16}
"""`nvmlValueType_t` → how wide the value is, where it is narrower than a counter should be."""


def throttle_rows(driver: str | None) -> tuple[Row, ...]:
    """
    Which numbers this driver counts throttling under.

    Not by the bindings' constants: 575 had them at 251 to 253, where 570 and 580 have power smoothing, and 580 moved
    them to 269. Before 575 there is one counter for all that is thermal.
    """
    major = driver_major(driver)
    if major is not None and major < 575:
        return (Row(75, "throttle_s", "thermal", seconds),)
    moved = 18 if major is not None and major < 580 else 0
    return tuple(Row(number - moved, "throttle_s", reason, seconds) for reason, number in THERMAL)


def smoothing_number(driver: str | None) -> int | None:
    """Under which number this driver tells of power smoothing; it came with 570."""
    major = driver_major(driver)
    if major is None or major < 570:
        return None
    return 256 if 575 <= major < 580 else 251


def driver_major(driver: str | None) -> int | None:
    """`580.159.03` → 580; `None` where it has no such form."""
    major = (driver or "").partition(".")[0]
    return int(major) if major.isdecimal() else None


class Fields:
    """The numbered values of one physical GPU."""

    def __init__(self, calls: Calls, handle: Any, driver: str | None) -> None:
        self._clock = calls.clock
        self._links = {ends: Unwrapped(unit) for _number, _scope, ends, unit in LINKS}
        rows = ROWS + throttle_rows(driver)
        self._rows = [row for row in rows if row.number not in SELDOM]
        self._seldom_rows = [row for row in rows if row.number in SELDOM]
        scopes = {number: scope for number, scope, *_rest in LINKS}
        often = [*(row.number for row in self._rows), *scopes, POWER_AVERAGE]

        def batch(*numbers: int) -> Batch:
            return Batch(calls, handle, numbers, scopes)

        self._often, self._seldom = batch(*often), batch(*SELDOM)
        self._energy, self._instant = batch(ENERGY), batch(POWER_INSTANT)
        number = smoothing_number(driver)
        self._smoothing = None if number is None else (number, batch(number))

    def read_seldom(self, reading: GpuReading) -> None:
        """What changes by a person's hand or with a fault."""
        for each in (self._seldom, self._often, self._energy, self._instant):
            each.plan_anew()
        told = self._seldom.ask()
        for row in self._seldom_rows:
            tell(reading, row.name, scaled(told[row.number][0], row.convert), row.key)
        tell(reading, "status", status_of(*(told[number][0] for number in (PENDING, FAILURE, RECOVERY_ACTION))))

    def read(self, reading: GpuReading, pcie_bytes_per_s: Mapping[str, float], slot: float | None) -> None:
        """
        Ask for all the others at once, and write them.

        `pcie_bytes_per_s` by direction is what the performance metrics say went over the host link since the last look;
        `slot` is the most that it carries, in bytes per second. Both tell how often a 32-bit counter wrapped.
        """
        told = self._often.ask()
        for row in self._rows:
            tell(reading, row.name, scaled(told[row.number][0], row.convert), row.key)
        average = instant = told[POWER_AVERAGE][0]
        if isinstance(average, Support):
            # The mean over a second is what one look a second should see; the instant only where there is no mean.
            instant = self._instant.ask()[POWER_INSTANT][0]
        power(reading, average, instant)
        self._io(reading, told, pcie_bytes_per_s, slot)

    def energy_j(self) -> float | Support:
        """The energy counter alone."""
        answer: float | Support = scaled(self._energy.ask()[ENERGY][0], joules)
        return answer

    def power_smoothing(self) -> bool:
        """Whether the GPU keeps drawing power between two bursts (Blackwell): idle watts are then a setting."""
        if self._smoothing is None:
            return False
        number, batch = self._smoothing
        return batch.ask()[number][0] == 1

    def _io(
        self, reading: GpuReading, told: Mapping[int, Told], rates: Mapping[str, float], slot: float | None
    ) -> None:
        now_s = self._clock()
        for number, _scope, ends, _unit in LINKS:
            link, direction = ends
            value, kind = told[number]
            rate, most = (rates.get(direction), slot) if link == "pcie" else (None, NVLINK_BYTES_PER_S)
            bits = _BITS.get(kind, FULL)
            total = (
                value if isinstance(value, Support) else self._links[ends].total(int(value), bits, now_s, rate, most)
            )
            if total is not None:
                tell(reading, "io_bytes", total, ends)


def power(reading: GpuReading, average: Any, instant: Any) -> None:
    """The mean over a second where there is one, else the instant; which of them is told too."""
    window = "instant" if isinstance(average, Support) and not isinstance(instant, Support) else "average"
    answer = scaled(instant if window == "instant" else average, watts)
    tell(reading, "power_w", answer)
    tell(reading, "power_window", answer if isinstance(answer, Support) else window)


# What NVIDIA's driver asks for: reset, reboot, reset after draining, reset of the bus, reboot of the system.
_NEEDS_RESET = frozenset({1, 2, 4, 6, 7})


def status_of(pending: Any, failure: Any, action: Any) -> str | Support:
    """
    `hw.state` from what the driver says: that it needs a reset or could not set bad rows of memory aside is `failed`;
    that rows wait for the next reset, or that it asks for any other action, is `degraded`.
    """
    answers = (pending, failure, action)
    if all(isinstance(answer, Support) for answer in answers):
        return next((why for why in answers if why is not Support.NOT_SUPPORTED), Support.NOT_SUPPORTED)
    if failure == 1 or (not isinstance(action, Support) and action in _NEEDS_RESET):
        return "failed"
    return "degraded" if pending == 1 or (not isinstance(action, Support) and action != 0) else "ok"
