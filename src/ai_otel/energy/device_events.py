"""What devices went through, to be told with the requests that ran meanwhile: throttling lasts, an XID is a moment."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ai_otel import semconv
from ai_otel.gpu.source import Device, GpuEvent, GpuReading
from ai_otel.record import DeviceEvent, RequestRecord

XID = "ai_otel.gpu.xid"
THROTTLE = "ai_otel.gpu.throttle"
REMEMBERED = 512
NO_TROUBLE = frozenset({"low_utilization"})
"""Reasons for low clocks that hold nobody up."""


@dataclass(slots=True)
class _Spell:
    name: str
    attributes: Mapping[str, str | int]
    since_s: float
    until_s: float


class Spells:
    """The last of them. A spell that began before a request is told at the request's start."""

    def __init__(self) -> None:
        self._spells: deque[_Spell] = deque(maxlen=REMEMBERED)
        self._throttled: dict[tuple[str, str], tuple[float, float, _Spell | None]] = {}

    def add_xid(self, event: GpuEvent) -> None:
        """The driver reported an error."""
        attributes: dict[str, str | int] = {semconv.HW_ID: event.device.id, semconv.AI_OTEL_GPU_XID_CODE: event.code}
        self._spells.append(_Spell(XID, attributes, event.time_s, event.time_s))

    def add_reading(self, device: Device, time_s: float, reading: GpuReading) -> None:
        """A device was looked at: a counter of throttled time that has grown means that it was since the last look."""
        for reason, counter_s in reading.throttle_s.items():
            if reason in NO_TROUBLE:
                continue
            before = self._throttled.get((device.id, reason))
            spell = None
            if before is not None and counter_s > before[1]:
                spell = before[2]
                if spell is None:
                    attributes: dict[str, str | int] = {
                        semconv.HW_ID: device.id,
                        semconv.AI_OTEL_GPU_THROTTLE_REASON: reason,
                    }
                    spell = _Spell(THROTTLE, attributes, before[0], time_s)
                    self._spells.append(spell)
                spell.until_s = time_s
            self._throttled[device.id, reason] = (time_s, counter_s, spell)

    def during(self, record: RequestRecord) -> Iterator[DeviceEvent]:
        """What fell into a record's time, on its own time line."""
        started_s = record._started / 1e9  # noqa: SLF001 - the clock that `begin_clock` set
        ended_s = started_s + record.duration_s
        for spell in self._spells:
            if spell.since_s <= ended_s and spell.until_s >= started_s:
                after_s = max(0.0, spell.since_s - started_s)
                yield DeviceEvent(spell.name, record.start_ns + int(after_s * 1e9), spell.attributes)
