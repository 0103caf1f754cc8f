"""Components of an Intel GPU with values of their own (memories, engines, sensors, …), by tile."""

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


class Component(NamedTuple):
    """A component's handle, and its properties at the time the source was opened."""

    handle: Any
    properties: Any

    @property
    def tile(self) -> int | None:
        """Number of the component's tile; `None` if it belongs to the whole GPU."""
        return int(self.properties.subdeviceId) if self.properties.onSubdevice else None


class Card:
    """One GPU with all of its components. Raises `DeviceLost`."""

    def __init__(self, sysman: Sysman, handle: Any) -> None:
        self.sysman = sysman
        self.handle = handle
        self._components: dict[str, Sequence[Component] | Support] = {}
        for kind, (enumerate_, handle_type, describe, name) in KINDS.items():
            handles = sysman.handles(enumerate_, handle, handle_type)
            how = (describe, f"zes_{name}_properties_t", f"ZES_STRUCTURE_TYPE_{name.upper()}_PROPERTIES")
            self._components[kind] = handles if isinstance(handles, Support) else list(_described(sysman, handles, how))
        sets = sysman.error_sets(handle)
        self._components["errors"] = sets if isinstance(sets, Support) else [Component(*each) for each in sets]

    def components(self, kind: str, tile: int | None, type_: int | None = None) -> Sequence[Component]:
        """Return the components of a tile, or of the whole GPU for `None`, of one Sysman type."""
        listed = self._components[kind]
        return [
            component
            for component in (() if isinstance(listed, Support) else listed)
            if component.tile == tile and (type_ is None or component.properties.type == type_)
        ]

    def all_components(self, kind: str, tile: int | None, type_: int | None = None) -> Sequence[Component]:
        """Return `components`; those of all tiles if the whole GPU has none."""
        own = self.components(kind, tile, type_)
        if own or tile is not None:
            return own
        listed = self._components[kind]
        tiles = {component.tile for component in (() if isinstance(listed, Support) else listed)}
        return [component for each in tiles for component in self.components(kind, each, type_)]

    def why(self, kind: str) -> Support:
        """Return why there is no component of a kind."""
        listed = self._components[kind]
        return listed if isinstance(listed, Support) else Support.NOT_SUPPORTED


def _described(sysman: Sysman, handles: Iterable[Any], how: Sequence[str]) -> Iterable[Component]:
    for handle in handles:
        properties = sysman.of(handle, *how)
        if not isinstance(properties, Support):
            yield Component(handle, properties)
