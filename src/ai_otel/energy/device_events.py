"""Device events for the spans of the requests that ran meanwhile: throttling lasts, an XID is instantaneous."""

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
"""Reasons for low clocks that slow no request down."""


@dataclass(slots=True)
class _Event:
    """One event; times are `time.perf_counter` in seconds."""

    name: str
    attributes: Mapping[str, str | int]
    since_s: float
    until_s: float


class DeviceEvents:
    """The last events. An event that started before a request is reported at the request's start."""

    def __init__(self) -> None:
        self._events: deque[_Event] = deque(maxlen=REMEMBERED)
        self._throttled: dict[tuple[str, str], tuple[float, float, _Event | None]] = {}

    def add_xid(self, event: GpuEvent) -> None:
        """Add an XID error that the driver reported."""
        attributes: dict[str, str | int] = {semconv.HW_ID: event.device.id, semconv.AI_OTEL_GPU_XID_CODE: event.code}
        self._events.append(_Event(XID, attributes, event.time_s, event.time_s))

    def add_reading(self, device: Device, time_s: float, reading: GpuReading) -> None:
        """Add a reading. A counter of throttled time that has grown means throttling since the previous reading."""
        for reason, counter_s in reading.throttle_s.items():
            if reason in NO_TROUBLE:
                continue
            before = self._throttled.get((device.id, reason))
            throttling = None
            if before is not None and counter_s > before[1]:
                throttling = before[2]
                if throttling is None:
                    attributes: dict[str, str | int] = {
                        semconv.HW_ID: device.id,
                        semconv.AI_OTEL_GPU_THROTTLE_REASON: reason,
                    }
                    throttling = _Event(THROTTLE, attributes, before[0], time_s)
                    self._events.append(throttling)
                throttling.until_s = time_s
            self._throttled[device.id, reason] = (time_s, counter_s, throttling)

    def during(self, record: RequestRecord) -> Iterator[DeviceEvent]:
        """Yield the events during a record's time, on its own time line."""
        started_s = record.started_s
        ended_s = started_s + record.duration_s
        for event in self._events:
            if event.since_s <= ended_s and event.until_s >= started_s:
                after_s = max(0.0, event.since_s - started_s)
                yield DeviceEvent(event.name, record.start_ns + int(after_s * 1e9), event.attributes)
