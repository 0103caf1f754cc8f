"""The parts of an Intel GPU that have values of their own (memories, engines, sensors, …), by the tile they are on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ai_otel.gpu.intel.sysman import Sysman
from ai_otel.gpu.source import Support

KINDS = {
    "memory": ("zesDeviceEnumMemoryModules", "zes_mem_handle_t", "zesMemoryGetProperties", "mem"),
    "power": ("zesDeviceEnumPowerDomains", "zes_pwr_handle_t", "zesPowerGetProperties", "power"),
    "engine": ("zesDeviceEnumEngineGroups", "zes_engine_handle_t", "zesEngineGetProperties", "engine"),
    "clock": ("zesDeviceEnumFrequencyDomains", "zes_freq_handle_t", "zesFrequencyGetProperties", "freq"),
    "sensor": ("zesDeviceEnumTemperatureSensors", "zes_temp_handle_t", "zesTemperatureGetProperties", "temp"),
}


class Part(NamedTuple):
    """A handle, and the properties that its function told when the source was opened."""

    handle: Any
    properties: Any

    @property
    def tile(self) -> int | None:
        """Which tile it is on; `None` for what is the whole GPU's."""
        return int(self.properties.subdeviceId) if self.properties.onSubdevice else None


class Card:
    """One GPU with all its parts. Raises `DeviceLost`."""

    def __init__(self, sysman: Sysman, handle: Any) -> None:
        self.sysman = sysman
        self.handle = handle
        self._parts: dict[str, Sequence[Part] | Support] = {}
        for kind, (enumerate_, handle_type, describe, name) in KINDS.items():
            handles = sysman.handles(enumerate_, handle, handle_type)
            how = (describe, f"zes_{name}_properties_t", f"ZES_STRUCTURE_TYPE_{name.upper()}_PROPERTIES")
            self._parts[kind] = handles if isinstance(handles, Support) else list(_described(sysman, handles, how))
        sets = sysman.error_sets(handle)
        self._parts["errors"] = sets if isinstance(sets, Support) else [Part(*each) for each in sets]

    def parts(self, kind: str, tile: int | None, type_: int | None = None) -> Sequence[Part]:
        """Those of a tile, or of the whole GPU, where it has some; of one type, as Sysman numbers them."""
        listed = self._parts[kind]
        return [
            part
            for part in (() if isinstance(listed, Support) else listed)
            if part.tile == tile and (type_ is None or part.properties.type == type_)
        ]

    def all_parts(self, kind: str, tile: int | None, type_: int | None = None) -> Sequence[Part]:
        """The same; but a whole GPU that has none of its own has those of all its tiles."""
        own = self.parts(kind, tile, type_)
        if own or tile is not None:
            return own
        listed = self._parts[kind]
        tiles = {part.tile for part in (() if isinstance(listed, Support) else listed)}
        return [part for each in tiles for part in self.parts(kind, each, type_)]

    def why(self, kind: str) -> Support:
        """Why there is no part of this kind."""
        listed = self._parts[kind]
        return listed if isinstance(listed, Support) else Support.NOT_SUPPORTED


def _described(sysman: Sysman, handles: Iterable[Any], how: Sequence[str]) -> Iterable[Part]:
    for handle in handles:
        properties = sysman.of(handle, *how)
        if not isinstance(properties, Support):
            yield Part(handle, properties)
