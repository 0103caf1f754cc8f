"""What Sysman tells of one GPU, and of one tile of it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

from ai_otel.gpu.intel.components import Card, Part
from ai_otel.gpu.intel.power import Power
from ai_otel.gpu.source import Device, GpuReading, Support
from ai_otel.gpu.values import Growth, counted, ratio, settled, tell, within

MHZ = 1_000_000

# By Sysman's numbers.
ON_DEVICE = 1
ENGINES = {"utilization": 0, "decoder_utilization": 6, "encoder_utilization": 7}
"""All engines together; each decoder; each encoder. The driver sums the first one up, or there is none."""
CLOCKS = {"sm": 0, "memory": 1, "video": 2}
SENSORS = {"gpu": (1, 0), "memory": (2,)}
"""The sensor of the GPU, else the one of the whole card; that of the memory."""
HEALTH = {1: "ok", 2: "degraded", 3: "degraded", 4: "failed"}
"""By `zes_mem_health_t`; the last one is a card that Intel would replace."""
ERRORS = {"corrected": 0, "uncorrected": 1}


class Unit:
    """
    One GPU, or one tile of it, which is told apart only in what a tile has without being counted twice: its engines and
    its memory. Raises `DeviceLost`.
    """

    def __init__(self, card: Card, device: Device, tile: int | None, *, processes: bool) -> None:
        self.device = device
        self._power = Power(card) if tile is None else None
        self._card = card
        self._sysman = card.sysman
        self._tile = tile
        self._processes = processes
        self._growths: dict[int, Growth] = {}
        self.read()  # the first of two samples

    def read(self) -> GpuReading:
        """Everything. Raises `DeviceLost`."""
        reading = GpuReading()
        for field, group in ENGINES.items():
            engines = self._card.all_parts("engine", self._tile, group)
            tell(reading, field, _mean([self._busy(each) for each in engines], self._card.why("engine")))
        self._memory(reading)
        if self._power is not None:
            self._of_the_whole(reading, self._power)
        return settled(reading)

    def joules(self) -> float | Support:
        """The energy counter. Raises `DeviceLost`."""
        return self._power.joules() if self._power is not None else Support.NOT_SUPPORTED

    def _busy(self, engine: Part) -> float | Support:
        """From microseconds in which it was active."""
        told = self._sysman.of(engine.handle, "zesEngineGetActivity", "zes_engine_stats_t")
        if isinstance(told, Support):
            return told
        grown = self._growth(engine).per_s({"active_us": told.activeTime}, told.timestamp)
        return ratio(grown["active_us"] / 1e6) if grown else Support.INVALID

    def _growth(self, part: Part) -> Growth:
        return self._growths.setdefault(id(part), Growth())

    def _memory(self, reading: GpuReading) -> None:
        modules = [m for m in self._card.all_parts("memory", self._tile) if m.properties.location == ON_DEVICE]
        how = ("zesMemoryGetState", "zes_mem_state_t", "ZES_STRUCTURE_TYPE_MEM_STATE")
        states = [self._sysman.of(module.handle, *how) for module in modules]
        why = _reason(states) if states else self._card.why("memory")
        if why is not None:
            for field in ("memory_total_bytes", "memory_used_bytes"):
                tell(reading, field, why)
        else:
            total, free = sum(state.size for state in states), sum(state.free for state in states)
            tell(reading, "memory_total_bytes", total or Support.INVALID)
            tell(reading, "memory_used_bytes", total - free if total and free <= total else Support.INVALID)
            if self._tile is None:
                worst = max(state.health for state in states)
                tell(reading, "status", HEALTH.get(worst, Support.NOT_SUPPORTED))
        flows = [self._traffic(module) for module in modules]
        told = _sum([flow for flow, _ in flows], self._card.why("memory"))
        limit = _sum([most for _, most in flows], Support.NOT_SUPPORTED)
        known = not isinstance(told, Support) and not isinstance(limit, Support) and limit > 0
        tell(reading, "memory_bandwidth_utilization", ratio(told / limit) if known else told)  # type: ignore[operator]

    def _traffic(self, module: Part) -> tuple[float | Support, float | Support]:
        """Bytes in a second, and the most that there could be."""
        told = self._sysman.of(module.handle, "zesMemoryGetBandwidth", "zes_mem_bandwidth_t")
        if isinstance(told, Support):
            return told, told
        grown = self._growth(module).per_s({"read": told.readCounter, "write": told.writeCounter}, told.timestamp)
        return (sum(grown.values()) if grown else Support.INVALID), float(told.maxBandwidth)

    def _hottest(self, kinds: Iterable[int]) -> float | Support:
        for kind in kinds:
            sensors = self._card.all_parts("sensor", None, kind)
            if sensors:
                return _largest([self._celsius(sensor) for sensor in sensors])
        return self._card.why("sensor")

    def _celsius(self, sensor: Part) -> float | Support:
        """Sysman answers 0 °C, with success, to whom it does not let read the sensor (intel/xpumanager #92)."""
        told = ctypes.c_double()
        why = self._sysman.ask("zesTemperatureGetState", sensor.handle, ctypes.byref(told))
        if why is not None:
            return why
        return Support.NO_PERMISSION if told.value == 0.0 else within(1.0, told.value, 150.0)

    def _clocks(self, reading: GpuReading) -> None:
        """A mean over the tiles, where there are several; and for how long something held the compute clock down."""
        why = self._card.why("clock")
        for clock, number in CLOCKS.items():
            domains = self._card.all_parts("clock", None, number)
            hertz = _mean([self._hertz(domain) for domain in domains], why)
            tell(reading, "frequency_hz", hertz if isinstance(hertz, Support) else int(hertz), clock)
        domains = self._card.all_parts("clock", None, CLOCKS["sm"])
        held = _largest([self._held_s(domain) for domain in domains]) if domains else why
        tell(reading, "throttle_s", held, "any")

    def _hertz(self, domain: Part) -> float | Support:
        how = ("zesFrequencyGetState", "zes_freq_state_t", "ZES_STRUCTURE_TYPE_FREQ_STATE")
        told = self._sysman.of(domain.handle, *how)
        if isinstance(told, Support):
            return told
        return told.actual * MHZ if 0 <= told.actual <= 20_000 else Support.NOT_SUPPORTED

    def _held_s(self, domain: Part) -> float | Support:
        told = self._sysman.of(domain.handle, "zesFrequencyGetThrottleTime", "zes_freq_throttle_time_t")
        return told if isinstance(told, Support) else told.throttleTime / 1e6

    def _of_the_whole(self, reading: GpuReading, power: Power) -> None:
        power.tell(reading)
        for location, kinds in SENSORS.items():
            tell(reading, "temperature_c", self._hottest(kinds), location)
        self._clocks(reading)
        for kind, number in ERRORS.items():
            sets = self._card.all_parts("errors", None, number)
            counts = [counted(self._sysman.errors(each.handle)) for each in sets]
            tell(reading, "errors", _sum(counts, self._card.why("errors")), kind)
        pci = self._sysman.of(self._card.handle, "zesDevicePciGetStats", "zes_pci_stats_t")
        for direction, field in (("receive", "rxCounter"), ("transmit", "txCounter")):
            count = pci if isinstance(pci, Support) else counted(int(getattr(pci, field)))
            tell(reading, "io_bytes", count, ("pcie", direction))
        if self._processes:
            self._holders(reading)

    def _holders(self, reading: GpuReading) -> None:
        kind = self._sysman.library.zes_process_state_t
        holders: Any = self._sysman.listed("zesDeviceProcessesGetState", self._card.handle, kind)
        if isinstance(holders, Support):
            tell(reading, "process_memory_bytes", holders)
            return
        for holder in holders:
            tell(reading, "process_memory_bytes", int(holder.memSize), int(holder.processId))


def _reason(answers: Iterable[Any]) -> Support | None:
    return next((answer for answer in answers if isinstance(answer, Support)), None)


def _sum(values: Sequence[float | Support], otherwise: Support) -> float | Support:
    """Of all of them: where one is not there, there is no sum."""
    told = [value for value in values if not isinstance(value, Support)]
    return sum(told) if told and len(told) == len(values) else _reason(values) or otherwise


def _mean(values: Sequence[float | Support], otherwise: Support) -> float | Support:
    """The same of their mean."""
    total = _sum(values, otherwise)
    return total if isinstance(total, Support) else total / len(values)


def _largest(values: Sequence[float | Support]) -> float | Support:
    """Of those that are there."""
    told = [value for value in values if not isinstance(value, Support)]
    return max(told) if told else _reason(values) or Support.INVALID
