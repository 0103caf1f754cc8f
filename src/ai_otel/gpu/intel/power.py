"""Energy, power and power limits of one Intel GPU."""

from __future__ import annotations

import ctypes
from typing import Any

from ai_otel.gpu.intel.components import Card, Component
from ai_otel.gpu.source import GpuReading, Support
from ai_otel.gpu.values import Growth, set_value, within

MOST_WATTS = 10_000.0
CARD, PACKAGE = 1, 2
SUSTAINED, IN_POWER = 1, 2
LIMITS = {"default": "defaultLimit", "min": "minLimit", "max": "maxLimit"}


class Power:
    """The widest power domain: the card, else the package. Domains overlap and are never added."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._domain = min(card.components("power", None), key=self._narrowness, default=None)
        self._growth = Growth()
        self._watts()  # the first of two samples

    def joules(self) -> float | Support:
        """Return the energy counter in joules. Raises `DeviceLost`."""
        result = self._counter()
        return result if isinstance(result, Support) else result.energy / 1e6

    def _watts(self) -> float | Support:
        """Return the average power since the last sample, from the energy counter. Raises `DeviceLost`."""
        result = self._counter()
        if isinstance(result, Support):
            return result
        grown = self._growth.per_s({"energy_uj": result.energy}, result.timestamp)
        return within(0.0, grown["energy_uj"] / 1e6, MOST_WATTS) if grown else Support.INVALID

    def read(self, reading: GpuReading) -> None:
        """Set energy, power and limits of a reading. Raises `DeviceLost`."""
        set_value(reading, "energy_j", self.joules())
        set_value(reading, "power_w", self._watts())
        reading.power_window = "average" if reading.power_w is not None else None
        self._limits(reading)

    def _limits(self, reading: GpuReading) -> None:
        """Set the limits from milliwatts; -1 means unknown."""
        if self._domain is None:
            set_value(reading, "power_limit_w", self._card.why("power"))
            return
        set_value(reading, "power_limit_w", self._sustained(self._domain), "enforced")
        for limit, field in LIMITS.items():
            milliwatts = getattr(self._domain.properties, field)
            watts = within(0.0, milliwatts / 1e3, MOST_WATTS) if milliwatts > 0 else Support.NOT_SUPPORTED
            set_value(reading, "power_limit_w", watts, limit)

    def _counter(self) -> Any:
        if self._domain is None:
            return self._card.why("power")
        return self._card.sysman.of(self._domain.handle, "zesPowerGetEnergyCounter", "zes_power_energy_counter_t")

    def _narrowness(self, domain: Component) -> int:
        library = self._card.sysman.library
        more = library.zes_power_ext_properties_t(stype=library.ZES_STRUCTURE_TYPE_POWER_EXT_PROPERTIES)
        result = library.zes_power_properties_t(stype=library.ZES_STRUCTURE_TYPE_POWER_PROPERTIES)
        result.pNext = ctypes.cast(ctypes.pointer(more), ctypes.c_void_p)
        why = self._card.sysman.ask("zesPowerGetProperties", domain.handle, ctypes.byref(result))
        return {CARD: 0, PACKAGE: 1}.get(more.domain, 2) if why is None else 2

    def _sustained(self, domain: Component) -> float | Support:
        kind = self._card.sysman.library.zes_power_limit_ext_desc_t
        limits = self._card.sysman.listed("zesPowerGetLimitsExt", domain.handle, kind)
        for limit in () if isinstance(limits, Support) else limits:
            if limit.level == SUSTAINED and limit.limitUnit == IN_POWER and limit.enabled and limit.limit > 0:
                return within(0.0, limit.limit / 1e3, MOST_WATTS)
        return limits if isinstance(limits, Support) else Support.NOT_SUPPORTED
