"""Which GPUs are here, what they tell, and why not the rest."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing

from ai_otel.doctor.finding import Finding, Level
from ai_otel.doctor.logs import overheard
from ai_otel.gpu.metrics import states_of
from ai_otel.gpu.registry import attributable, make_sources, wanted_sources
from ai_otel.gpu.source import Device, DeviceLost, GpuReading, GpuSource, Options, Support, Unavailable
from ai_otel.hooks import guard
from ai_otel.hooks.guard import Guard
from ai_otel.settings import Settings

BETWEEN_S = 0.15
"""Some values are the difference of two looks, a tenth of a second apart at least."""

_WHY = {
    Support.NOT_SUPPORTED: ("this device or its driver has no such value", ""),
    Support.NO_PERMISSION: (
        "it is kept from this user",
        "Ask whoever runs the node to allow profiling to all users, or give the container the capability PERFMON.",
    ),
    Support.NOT_FOUND: ("the vendor's library does not have the function", "Install a newer driver and binding."),
    Support.LOST: ("the device does not answer any more", "See what its driver says; it may need a reset."),
    Support.INVALID: ("what it told cannot be", "Report it with `ai-otel doctor --json`."),
    Support.ERROR: ("its driver failed", "See what its driver says."),
}

Look = tuple[Device, "GpuReading | None"]


def check_gpus(settings: Settings) -> Iterator[Finding]:
    """Open every source that would be opened, look twice, and close it again."""
    with overheard("ai_otel") as told:
        sources = make_sources(wanted_sources(settings.gpu), Options(processes=settings.gpu_processes))
    yield from (Finding("gpu", "AI_OTEL_GPU", Level.WRONG, _ours(sentence)) for sentence in told)
    if not sources and not told:
        says = "off" if "none" in settings.gpu else "no GPU of a kind that we know"
        yield Finding("gpu", "AI_OTEL_GPU", Level.OK, f"{says}: no device is read", details={"sources": []})
        return
    found: list[Look] = []
    for vendor, source in sources.items():
        yield from _safely(vendor, source, found, asked="auto" not in settings.gpu)
    if found:
        yield _energy(settings, found)


def _safely(vendor: str, source: GpuSource, found: list[Look], *, asked: bool) -> Iterator[Finding]:
    """A source's findings, what it said in the log among them, and a bug of its own as one more."""

    def all_of() -> list[Finding]:
        return list(_vendor(vendor, source, found, asked=asked))

    with overheard("ai_otel") as told, guard.strict() as failures:
        findings = Guard(f"gpu {vendor}", alone=True)(all_of)
    if findings is None:
        says = f"its source failed: {type(failures[0]).__name__}: {failures[0]}"
        yield Finding("gpu", vendor, Level.WRONG, says, "Please report it, with the versions of driver and library.")
        return
    yield from findings
    for sentence in told:
        says, _, next_step = _ours(sentence).partition(": ")
        yield Finding("gpu", vendor, Level.NOTE, says, next_step[:1].upper() + next_step[1:])


def _ours(sentence: str) -> str:
    return sentence.removeprefix("ai-otel: ")


def _vendor(vendor: str, source: GpuSource, found: list[Look], *, asked: bool) -> Iterator[Finding]:
    try:
        devices = source.open()
    except Unavailable as trouble:
        says, _, rest = str(trouble).partition(": ")
        next_step = rest[:1].upper() + rest[1:]
        # Of what nobody has asked for, and is not here, there is nothing wrong.
        level = Level.WRONG if trouble.installed or asked else Level.OK
        yield Finding("gpu", vendor, level, says.rstrip("."), next_step, {"installed": trouble.installed})
        return
    with closing(source):
        looks = [(device, _read(source, device)) for device in devices]
    found += looks
    divided = {device.id for device in devices if device.instance_uuid is not None}
    for device, reading in looks:
        yield from _device(device, reading, divided=device.id in divided)


def _read(source: GpuSource, device: Device) -> GpuReading | None:
    try:
        source.read(device)
        time.sleep(BETWEEN_S)
        return source.read(device)
    except DeviceLost:
        return None


def _device(device: Device, reading: GpuReading | None, *, divided: bool) -> Iterator[Finding]:
    subject = device.id if device.instance_id is None else f"{device.id} part {device.instance_id}"
    if reading is None:
        says, next_step = _WHY[Support.LOST]
        yield Finding("gpu", subject, Level.WRONG, says, next_step, {"vendor": device.vendor})
        return
    states = states_of(reading)
    told = sorted(name for name, state in states.items() if state is Support.OK)
    known = ", ".join(filter(None, [device.model, device.driver_version and f"driver {device.driver_version}"]))
    details = {"vendor": device.vendor, "told": told, "status": reading.status}
    level = Level.WRONG if reading.status == "failed" else Level.OK
    yield Finding("gpu", subject, level, f"{known or device.vendor}: tells {len(told)} values", details=details)
    missing: dict[Support, list[str]] = defaultdict(list)
    for name, state in states.items():
        if state is not Support.OK:
            missing[state].append(name)
    for state, names in missing.items():
        says, next_step = _WHY[state]
        if device.instance_id is not None and state is Support.NOT_SUPPORTED:
            says = "power, energy, temperature and clocks belong to the whole GPU"
        elif divided and state is Support.NOT_SUPPORTED:
            says = "a GPU that is divided leaves most of these to its parts"
        level = Level.OK if state is Support.NOT_SUPPORTED else Level.NOTE
        sentence = f"absent: {', '.join(sorted(names))}: {says}"
        yield Finding("gpu", subject, level, sentence, next_step, {"state": state.value, "absent": sorted(names)})


def _energy(settings: Settings, found: Sequence[Look]) -> Finding:
    """Would requests get their share of the energy?"""
    subject = "AI_OTEL_ENERGY"
    if not settings.energy:
        says = "off: requests carry the GPUs they ran on, and no energy"
        return Finding(
            "gpu", subject, Level.NOTE, says, "Set AI_OTEL_ENERGY=true to share it among them.", {"on": False}
        )
    readings = {device.key: reading for device, reading in found}
    counted = attributable([device for device, _ in found])
    without = [device.id for device in counted if (reading := readings[device.key]) is None or reading.energy_j is None]
    if without:
        parts = any(device.instance_id is not None for device in counted)
        why = "a part of a GPU has no energy counter of its own" if parts else "no energy counter"
        says = f"absent on every request: {why} ({', '.join(dict.fromkeys(without))})"
        return Finding("gpu", subject, Level.NOTE, says, details={"on": True, "without": without})
    shares = {device.id: reading.own_share for device, reading in found if reading is not None}
    shared = [name for name, share in shares.items() if share is not None and share < 1.0]
    if shared and not settings.energy_shared:
        says = f"absent on every request: others compute on {', '.join(shared)}"
        next_step = "Set AI_OTEL_ENERGY_SHARED=true for an estimate that is not for billing."
        return Finding("gpu", subject, Level.NOTE, says, next_step, {"on": True, "shared": shared})
    return Finding("gpu", subject, Level.OK, f"on, over {len(counted)} devices", details={"on": True})
