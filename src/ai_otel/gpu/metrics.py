"""
Instruments of the devices: observe the last snapshot.

Callbacks read the snapshot only, because they run while the SDK holds its lock. Absent values have no point. A stale
snapshot has none at all.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.metrics import Meter, Observation

from ai_otel import semconv
from ai_otel.gpu.snapshot import DeviceSample, Snapshot
from ai_otel.gpu.source import Device, GpuReading, Support
from ai_otel.instruments import observable
from ai_otel.semconv import Metric

STALE_S = 10.0
STATES = ("ok", "degraded", "failed", "predicted_failure")

Labels = dict[str, Any]
Values = Iterator[tuple[float, Labels]]
Read = Callable[[GpuReading], Values]


def observe(
    hw: Meter,
    own: Meter,
    snapshot: Callable[[], Snapshot],
    *,
    interval_s: float = 1.0,
    running: Callable[[float], Context | None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """
    Create all device instruments. A metric that describes whole devices has no point for an instance.

    `hw` is the meter for metrics of the semantic conventions, `own` for `ai_otel.*`. `running` returns the context of a
    request that was running at a time, for exemplars.
    """

    def fresh() -> Sequence[DeviceSample]:
        present = snapshot()
        stale_s = max(3 * interval_s, 3 * present.interval_s, STALE_S)
        taken_s = present.taken_s
        return present.samples if taken_s is not None and clock() - taken_s <= stale_s else ()

    def points(metric: Metric, read: Read) -> Iterator[Observation]:
        for device, reading, taken_s in fresh():
            if device.instance_id is not None and semconv.AI_OTEL_GPU_INSTANCE_ID not in metric.attributes:
                continue
            context = running(taken_s) if metric in _WITH_EXEMPLARS else None
            for value, labels in read(reading):
                yield Observation(value, {**labels_of(metric, device), **labels}, context)

    for metric, read in READS:
        meter = own if metric.scope == semconv.SCOPE else hw
        observable(meter, metric, functools.partial(points, metric, read))
    observable(hw, semconv.HW_GPU_INFO, lambda: _constants(fresh()))
    observable(own, semconv.AI_OTEL_GPU_SUPPORT, lambda: _support(fresh()))
    observable(own, semconv.AI_OTEL_GPU_XID_EVENTS, lambda: _xids(snapshot(), running))
    observable(own, semconv.AI_OTEL_GPU_PASS_SKIPPED, lambda: _skipped(snapshot()))


def labels_of(metric: Metric, device: Device) -> Labels:
    """Return the attributes that identify a device. Its constants are attributes of `hw.gpu.info` only."""
    labels: Labels = {semconv.HW_ID: device.id}
    if semconv.HW_TYPE in metric.attributes:
        labels[semconv.HW_TYPE] = "gpu"
    if device.instance_id is not None and semconv.AI_OTEL_GPU_INSTANCE_ID in metric.attributes:
        labels[semconv.AI_OTEL_GPU_INSTANCE_ID] = device.instance_id
        if device.instance_profile is not None:
            labels[semconv.AI_OTEL_GPU_INSTANCE_PROFILE] = device.instance_profile
    return labels


# ---------------------------------------------------------------- values of a reading


def _value(name: str, **labels: str) -> Read:
    def read(reading: GpuReading) -> Values:
        value = getattr(reading, name)
        if value is not None:
            yield value, labels

    return read


def _each(name: str, *keys: str) -> Read:
    """Read a mapping field. Its keys, single or tuples, become the attributes `keys`."""

    def read(reading: GpuReading) -> Values:
        for key, value in getattr(reading, name).items():
            yield value, dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True))

    return read


def _tasks(reading: GpuReading) -> Values:
    for task, value in (
        ("general", reading.utilization),
        ("encoder", reading.encoder_utilization),
        ("decoder", reading.decoder_utilization),
    ):
        if value is not None:
            yield value, {semconv.HW_GPU_TASK: task}


def _fullness(reading: GpuReading) -> Values:
    if reading.memory_used_bytes is not None and reading.memory_total_bytes:
        yield reading.memory_used_bytes / reading.memory_total_bytes, {}


def _power(reading: GpuReading) -> Values:
    if reading.power_w is not None:
        window = {semconv.AI_OTEL_GPU_POWER_WINDOW: reading.power_window} if reading.power_window else {}
        yield reading.power_w, window


def _states(reading: GpuReading) -> Values:
    if reading.status is not None:
        for state in dict.fromkeys((*STATES, reading.status)):
            yield int(state == reading.status), {semconv.HW_STATE: state}


READS: tuple[tuple[Metric, Read], ...] = (
    (semconv.HW_GPU_UTILIZATION, _tasks),
    (semconv.HW_GPU_MEMORY_USAGE, _value("memory_used_bytes")),
    (semconv.HW_GPU_MEMORY_LIMIT, _value("memory_total_bytes")),
    (semconv.HW_GPU_MEMORY_UTILIZATION, _fullness),
    (semconv.HW_GPU_IO, _each("io_bytes", semconv.AI_OTEL_GPU_LINK, semconv.NETWORK_IO_DIRECTION)),
    (semconv.HW_ENERGY, _value("energy_j")),
    (semconv.HW_POWER, _power),
    (semconv.HW_TEMPERATURE, _each("temperature_c", semconv.HW_SENSOR_LOCATION)),
    (semconv.HW_TEMPERATURE_LIMIT, _each("temperature_limit_c", semconv.HW_SENSOR_LOCATION, semconv.HW_LIMIT_TYPE)),
    (semconv.HW_FAN_SPEED_RATIO, _each("fan_speed_ratio", semconv.HW_SENSOR_LOCATION)),
    (semconv.HW_ERRORS, _each("errors", semconv.ERROR_TYPE)),
    (semconv.HW_STATUS, _states),
    (semconv.AI_OTEL_GPU_MEMORY_RESERVED, _value("memory_reserved_bytes")),
    (semconv.AI_OTEL_GPU_MEMORY_BANDWIDTH_UTILIZATION, _value("memory_bandwidth_utilization")),
    (semconv.AI_OTEL_GPU_MEMORY_CONTROLLER_UTILIZATION, _value("memory_controller_utilization")),
    (semconv.AI_OTEL_GPU_SM_ACTIVITY, _value("sm_activity")),
    (semconv.AI_OTEL_GPU_SM_OCCUPANCY, _value("sm_occupancy")),
    (semconv.AI_OTEL_GPU_PIPE_ACTIVITY, _each("pipe_activity", semconv.AI_OTEL_GPU_PIPE)),
    (semconv.AI_OTEL_GPU_POWER_LIMIT, _each("power_limit_w", semconv.AI_OTEL_GPU_LIMIT_TYPE)),
    (semconv.AI_OTEL_GPU_FREQUENCY, _each("frequency_hz", semconv.AI_OTEL_GPU_CLOCK)),
    (semconv.AI_OTEL_GPU_THROTTLE_TIME, _each("throttle_s", semconv.AI_OTEL_GPU_THROTTLE_REASON)),
    (semconv.AI_OTEL_GPU_PROCESS_MEMORY_USAGE, _each("process_memory_bytes", semconv.PROCESS_PID)),
)
"""Metric → how its values and their attributes are read off."""

_WITH_EXEMPLARS = (semconv.HW_POWER, semconv.AI_OTEL_GPU_THROTTLE_TIME)


# ---------------------------------------------------------------- other points


def _constants(samples: Sequence[DeviceSample]) -> Iterator[Observation]:
    for device, _, _ in samples:
        constants = {
            semconv.HW_NAME: device.name,
            semconv.HW_MODEL: device.model,
            semconv.HW_VENDOR: device.vendor,
            semconv.HW_DRIVER_VERSION: device.driver_version,
            semconv.HW_FIRMWARE_VERSION: device.firmware_version,
            semconv.HW_SERIAL_NUMBER: device.serial_number,
        }
        known = {name: value for name, value in constants.items() if value is not None}
        yield Observation(1, {**labels_of(semconv.HW_GPU_INFO, device), **known})


def _support(samples: Sequence[DeviceSample]) -> Iterator[Observation]:
    metric = semconv.AI_OTEL_GPU_SUPPORT
    for device, reading, _ in samples:
        for name, state in states_of(reading).items():
            labels = {semconv.AI_OTEL_GPU_READING: name, semconv.AI_OTEL_GPU_SUPPORT_STATE: state.value}
            yield Observation(1, {**labels_of(metric, device), **labels})


def states_of(reading: GpuReading) -> dict[str, Support]:
    """Return the state of every value of a reading: `ok`, or the reason of its absence."""
    available = {name: Support.OK for name in _NAMES if getattr(reading, name) not in (None, {})}
    return {**available, **reading.absent}


_NOT_VALUES = frozenset({"absent", "power_window", "own_share", "held"})
_NAMES = tuple(name for name in GpuReading.__dataclass_fields__ if name not in _NOT_VALUES)


def _xids(snapshot: Snapshot, running: Callable[[float], Context | None]) -> Iterator[Observation]:
    context = running(snapshot.taken_s) if snapshot.taken_s is not None else None
    for (device, code), count in snapshot.xids.items():
        labels = {**labels_of(semconv.AI_OTEL_GPU_XID_EVENTS, device), semconv.AI_OTEL_GPU_XID_CODE: code}
        yield Observation(count, labels, context)


def _skipped(snapshot: Snapshot) -> Iterator[Observation]:
    for kind, count in snapshot.skipped.items():
        yield Observation(count, {semconv.AI_OTEL_GPU_PASS: kind})
