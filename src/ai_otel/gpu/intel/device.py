"""Reads one GPU, or one tile of it, by Sysman."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

from ai_otel.gpu.intel.components import Card, Component
from ai_otel.gpu.intel.power import Power
from ai_otel.gpu.source import Device, GpuReading, Support
from ai_otel.gpu.values import Growth, fill_reasons, ratio, set_value, valid_count, within

MHZ = 1_000_000

# Sysman's enumerators.
ON_DEVICE = 1
ENGINES = {"utilization": 0, "decoder_utilization": 6, "encoder_utilization": 7}
"""Engine groups: all engines, each decoder, each encoder."""
CLOCKS = {"sm": 0, "memory": 1, "video": 2}
SENSORS = {"gpu": (1, 0), "memory": (2,)}
"""Sensor types by preference: GPU, else the whole card; memory."""
HEALTH = {1: "ok", 2: "degraded", 3: "degraded", 4: "failed"}
"""`zes_mem_health_t` → `hw.state`; 4 is a card that Intel replaces."""
ERRORS = {"corrected": 0, "uncorrected": 1}


class Unit:
    """
    One GPU, or one tile of it. Raises `DeviceLost`.

    A tile has only the values that its GPU's do not include twice: those of its engines and its memory.
    """

    def __init__(self, card: Card, device: Device, tile: int | None, *, processes: bool) -> None:
        self.device = device
        self._power = Power(card) if tile is None else None
        self._card = card
        self._sysman = card.sysman
        self._tile = tile
        self._processes = processes
        self._growths: dict[int, Growth] = {}
        self.read()  # the first of the two samples that rates need

    def read(self) -> GpuReading:
        """Read all values. Raises `DeviceLost`."""
        reading = GpuReading()
        for field, group in ENGINES.items():
            engines = self._card.all_components("engine", self._tile, group)
            set_value(reading, field, _mean([self._busy(each) for each in engines], self._card.why("engine")))
        self._memory(reading)
        if self._power is not None:
            self._read_card(reading, self._power)
        return fill_reasons(reading)

    def read_energy(self) -> float | None:
        """Read the energy counter in joules; `None` for a tile or if unavailable. Raises `DeviceLost`."""
        joules = self._power.joules() if self._power is not None else Support.NOT_SUPPORTED
        return None if isinstance(joules, Support) else joules

    def _busy(self, engine: Component) -> float | Support:
        """Return an engine's utilization from its active time in microseconds."""
        result = self._sysman.of(engine.handle, "zesEngineGetActivity", "zes_engine_stats_t")
        if isinstance(result, Support):
            return result
        grown = self._growth(engine).per_s({"active_us": result.activeTime}, result.timestamp)
        return ratio(grown["active_us"] / 1e6) if grown else Support.INVALID

    def _growth(self, component: Component) -> Growth:
        return self._growths.setdefault(id(component), Growth())

    def _memory(self, reading: GpuReading) -> None:
        modules = [m for m in self._card.all_components("memory", self._tile) if m.properties.location == ON_DEVICE]
        how = ("zesMemoryGetState", "zes_mem_state_t", "ZES_STRUCTURE_TYPE_MEM_STATE")
        states = [self._sysman.of(module.handle, *how) for module in modules]
        why = _reason(states) if states else self._card.why("memory")
        if why is not None:
            for field in ("memory_total_bytes", "memory_used_bytes"):
                set_value(reading, field, why)
        else:
            total, free = sum(state.size for state in states), sum(state.free for state in states)
            set_value(reading, "memory_total_bytes", total or Support.INVALID)
            set_value(reading, "memory_used_bytes", total - free if total and free <= total else Support.INVALID)
            if self._tile is None:
                worst = max(state.health for state in states)
                set_value(reading, "status", HEALTH.get(worst, Support.NOT_SUPPORTED))
        flows = [self._traffic(module) for module in modules]
        result = _sum([flow for flow, _ in flows], self._card.why("memory"))
        limit = _sum([most for _, most in flows], Support.NOT_SUPPORTED)
        known = not isinstance(result, Support) and not isinstance(limit, Support) and limit > 0
        set_value(reading, "memory_bandwidth_utilization", ratio(result / limit) if known else result)  # type: ignore[operator]

    def _traffic(self, module: Component) -> tuple[float | Support, float | Support]:
        """Return bytes per second and their maximum."""
        result = self._sysman.of(module.handle, "zesMemoryGetBandwidth", "zes_mem_bandwidth_t")
        if isinstance(result, Support):
            return result, result
        grown = self._growth(module).per_s({"read": result.readCounter, "write": result.writeCounter}, result.timestamp)
        return (sum(grown.values()) if grown else Support.INVALID), float(result.maxBandwidth)

    def _hottest(self, kinds: Iterable[int]) -> float | Support:
        for kind in kinds:
            sensors = self._card.all_components("sensor", None, kind)
            if sensors:
                return _largest([self._celsius(sensor) for sensor in sensors])
        return self._card.why("sensor")

    def _celsius(self, sensor: Component) -> float | Support:
        """Read a sensor in °C. Sysman returns 0 with success if permission is missing (intel/xpumanager #92)."""
        result = ctypes.c_double()
        why = self._sysman.ask("zesTemperatureGetState", sensor.handle, ctypes.byref(result))
        if why is not None:
            return why
        return Support.NO_PERMISSION if result.value == 0.0 else within(1.0, result.value, 150.0)

    def _clocks(self, reading: GpuReading) -> None:
        """Set frequencies as means over the tiles, and the throttled time of the compute clock."""
        why = self._card.why("clock")
        for clock, number in CLOCKS.items():
            domains = self._card.all_components("clock", None, number)
            hertz = _mean([self._hertz(domain) for domain in domains], why)
            set_value(reading, "frequency_hz", hertz if isinstance(hertz, Support) else int(hertz), clock)
        domains = self._card.all_components("clock", None, CLOCKS["sm"])
        held = _largest([self._held_s(domain) for domain in domains]) if domains else why
        set_value(reading, "throttle_s", held, "any")

    def _hertz(self, domain: Component) -> float | Support:
        how = ("zesFrequencyGetState", "zes_freq_state_t", "ZES_STRUCTURE_TYPE_FREQ_STATE")
        result = self._sysman.of(domain.handle, *how)
        if isinstance(result, Support):
            return result
        return result.actual * MHZ if 0 <= result.actual <= 20_000 else Support.NOT_SUPPORTED

    def _held_s(self, domain: Component) -> float | Support:
        result = self._sysman.of(domain.handle, "zesFrequencyGetThrottleTime", "zes_freq_throttle_time_t")
        return result if isinstance(result, Support) else result.throttleTime / 1e6

    def _read_card(self, reading: GpuReading, power: Power) -> None:
        power.read(reading)
        for location, kinds in SENSORS.items():
            set_value(reading, "temperature_c", self._hottest(kinds), location)
        self._clocks(reading)
        for kind, number in ERRORS.items():
            sets = self._card.all_components("errors", None, number)
            counts = [valid_count(self._sysman.errors(each.handle)) for each in sets]
            set_value(reading, "errors", _sum(counts, self._card.why("errors")), kind)
        pci = self._sysman.of(self._card.handle, "zesDevicePciGetStats", "zes_pci_stats_t")
        for direction, field in (("receive", "rxCounter"), ("transmit", "txCounter")):
            count = pci if isinstance(pci, Support) else valid_count(int(getattr(pci, field)))
            set_value(reading, "io_bytes", count, ("pcie", direction))
        if self._processes:
            self._holders(reading)

    def _holders(self, reading: GpuReading) -> None:
        kind = self._sysman.library.zes_process_state_t
        holders: Any = self._sysman.listed("zesDeviceProcessesGetState", self._card.handle, kind)
        if isinstance(holders, Support):
            set_value(reading, "process_memory_bytes", holders)
            return
        for holder in holders:
            set_value(reading, "process_memory_bytes", int(holder.memSize), int(holder.processId))


def _reason(answers: Iterable[Any]) -> Support | None:
    return next((answer for answer in answers if isinstance(answer, Support)), None)


def _sum(values: Sequence[float | Support], otherwise: Support) -> float | Support:
    """Return the sum, or the reason of an absent value, or `otherwise` if there is none."""
    result = [value for value in values if not isinstance(value, Support)]
    return sum(result) if result and len(result) == len(values) else _reason(values) or otherwise


def _mean(values: Sequence[float | Support], otherwise: Support) -> float | Support:
    """Return the mean under the same rules."""
    total = _sum(values, otherwise)
    return total if isinstance(total, Support) else total / len(values)


def _largest(values: Sequence[float | Support]) -> float | Support:
    """Return the largest available value."""
    result = [value for value in values if not isinstance(value, Support)]
    return max(result) if result else _reason(values) or Support.INVALID
