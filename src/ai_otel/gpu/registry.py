"""Which GPU sources a process uses: the setting `AI_OTEL_GPU`, the vendors of `SOURCES`, and those of third parties."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from ai_otel.gpu import SOURCES, TRACES
from ai_otel.gpu.source import Device, GpuSource, Options
from ai_otel.inputs.shown import shown

log = logging.getLogger("ai_otel")

GROUP = "ai_otel.gpu_sources"
"""The entry point group of third-party sources."""


def wanted_sources(names: Sequence[str]) -> dict[str, str]:
    """Return vendor → `module:class` of the sources that `AI_OTEL_GPU` names. Unknown names are logged."""
    known = {**SOURCES, **{entry.name: entry.value for entry in entry_points(group=GROUP)}}
    if "none" in names or not names:
        return {}
    if "auto" in names:
        return {vendor: place for vendor, place in known.items() if is_present(vendor)}
    for name in names:
        if name not in known:
            log.warning(
                "ai-otel: AI_OTEL_GPU names %s; known are auto, none, %s", shown(name), ", ".join(sorted(known))
            )
    return {name: known[name] for name in names if name in known}


def is_present(vendor: str) -> bool:
    """Whether the vendor's device node exists, or its source needs none."""
    traces = TRACES.get(vendor)
    return traces is None or any(Path(trace).exists() for trace in traces)


def make_sources(places: Mapping[str, str], options: Options) -> dict[str, GpuSource]:
    """Import and create the sources at these places, not yet opened. One that cannot be imported is logged."""
    made: dict[str, GpuSource] = {}
    for vendor, place in places.items():
        module, _, name = place.partition(":")
        try:
            made[vendor] = getattr(importlib.import_module(module), name)(options)
        except (ImportError, AttributeError) as error:
            log.warning("ai-otel: GPU source %s (%s) cannot be used: %s", vendor, place, shown(error))
    return made


def attributable(devices: Sequence[Device]) -> list[Device]:
    """
    Return the devices whose energy can be attributed to requests.

    A partitioned GPU cannot be attributed as a whole device. A partition that is allocated on its own (MIG) has a UUID;
    the tiles of one card have none and stay with their card.
    """
    divided = {device.id for device in devices if device.instance_uuid is not None}
    return [
        device
        for device in devices
        if device.instance_uuid is not None or (device.instance_id is None and device.id not in divided)
    ]
