"""Which GPUs are present, which values they report, and why others are unavailable."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing

from ai_otel.doctor.finding import Finding, Level
from ai_otel.doctor.logs import captured_messages
from ai_otel.energy.feed import has_unknown_share
from ai_otel.gpu.metrics import states_of
from ai_otel.gpu.registry import attributable, make_sources, wanted_sources
from ai_otel.gpu.source import Device, DeviceLost, GpuReading, GpuSource, Options, Support, Unavailable
from ai_otel.hooks import guard
from ai_otel.hooks.guard import Guard
from ai_otel.settings import Settings

BETWEEN_S = 0.15
"""Seconds between two samples: some values are differences over at least 0.1 s."""

_WHY = {
    Support.NOT_SUPPORTED: ("this device or its driver has no such value", ""),
    Support.NO_PERMISSION: (
        "this user may not read it",
        "Allow profiling to all users on the node, or give the container the capability PERFMON.",
    ),
    Support.NOT_FOUND: ("the vendor's library does not have the function", "Install a newer driver and binding."),
    Support.LOST: ("the device no longer responds", "See what its driver says; it may need a reset."),
    Support.INVALID: ("the reported value is impossible", "Report it with `ai-otel doctor --json`."),
    Support.ERROR: ("its driver failed", "See what its driver says."),
}

DeviceSample = tuple[Device, "GpuReading | None"]


def check_gpus(settings: Settings) -> Iterator[Finding]:
    """Open every configured source, sample it twice, and close it."""
    with captured_messages("ai_otel") as messages:
        sources = make_sources(wanted_sources(settings.gpu), Options(processes=settings.gpu_processes))
    yield from (Finding("gpu", "AI_OTEL_GPU", Level.WRONG, _without_prefix(sentence)) for sentence in messages)
    if not sources and not messages:
        says = "off" if "none" in settings.gpu else "no GPU of a known kind"
        yield Finding("gpu", "AI_OTEL_GPU", Level.OK, f"{says}: no device is read", details={"sources": []})
        return
    found: list[DeviceSample] = []
    for vendor, source in sources.items():
        yield from _safely(vendor, source, found, asked="auto" not in settings.gpu)
    if found:
        yield _energy(settings, found)


def _safely(vendor: str, source: GpuSource, found: list[DeviceSample], *, asked: bool) -> Iterator[Finding]:
    """The findings of a source. Its log messages and an exception in it are findings too."""

    def all_of() -> list[Finding]:
        return list(_vendor(vendor, source, found, asked=asked))

    with captured_messages("ai_otel") as messages, guard.strict() as failures:
        findings = Guard(f"gpu {vendor}", alone=True)(all_of)
    if findings is None:
        says = f"its source failed: {type(failures[0]).__name__}: {failures[0]}"
        yield Finding("gpu", vendor, Level.WRONG, says, "Please report it, with the versions of driver and library.")
        return
    yield from findings
    for sentence in messages:
        says, _, next_step = _without_prefix(sentence).partition(": ")
        yield Finding("gpu", vendor, Level.NOTE, says, _sentence(next_step))


def _sentence(next_step: str) -> str:
    """Begin with a capital, unless it is a command."""
    return next_step if next_step.startswith("pip ") else next_step[:1].upper() + next_step[1:]


def _without_prefix(sentence: str) -> str:
    return sentence.removeprefix("ai-otel: ")


def _vendor(vendor: str, source: GpuSource, found: list[DeviceSample], *, asked: bool) -> Iterator[Finding]:
    try:
        devices = source.open()
    except Unavailable as trouble:
        says, _, rest = str(trouble).partition(": ")
        # A missing vendor is wrong only if its library is installed or the setting names it.
        level = Level.WRONG if trouble.installed or asked else Level.OK
        yield Finding("gpu", vendor, level, says.rstrip("."), _sentence(rest), {"installed": trouble.installed})
        return
    with closing(source):
        samples = [(device, _read(source, device)) for device in devices]
    found += samples
    divided = {device.id for device in devices if device.instance_uuid is not None}
    for device, reading in samples:
        yield from _device(device, reading, divided=device.id in divided)


def _read(source: GpuSource, device: Device) -> GpuReading | None:
    try:
        source.read(device)
        time.sleep(BETWEEN_S)
        return source.read(device)
    except DeviceLost:
        return None


def _device(device: Device, reading: GpuReading | None, *, divided: bool) -> Iterator[Finding]:
    subject = device.id if device.instance_id is None else f"{device.id} instance {device.instance_id}"
    if reading is None:
        says, next_step = _WHY[Support.LOST]
        yield Finding("gpu", subject, Level.WRONG, says, next_step, {"vendor": device.vendor})
        return
    states = states_of(reading)
    reported = sorted(name for name, state in states.items() if state is Support.OK)
    known = ", ".join(filter(None, [device.model, device.driver_version and f"driver {device.driver_version}"]))
    details = {"vendor": device.vendor, "values": reported, "status": reading.status}
    level = Level.WRONG if reading.status == "failed" else Level.OK
    yield Finding("gpu", subject, level, f"{known or device.vendor}: {len(reported)} values", details=details)
    missing: dict[Support, list[str]] = defaultdict(list)
    for name, state in states.items():
        if state is not Support.OK:
            missing[state].append(name)
    for state, names in missing.items():
        says, next_step = _WHY[state]
        if device.instance_id is not None and state is Support.NOT_SUPPORTED:
            says = "power, energy, temperature and clocks belong to the whole GPU"
        elif divided and state is Support.NOT_SUPPORTED:
            says = "most of these belong to the instances of a partitioned GPU"
        level = Level.OK if state is Support.NOT_SUPPORTED else Level.NOTE
        sentence = f"absent: {', '.join(sorted(names))}: {says}"
        yield Finding("gpu", subject, level, sentence, next_step, {"state": state.value, "absent": sorted(names)})


def _energy(settings: Settings, found: Sequence[DeviceSample]) -> Finding:
    """Whether requests get a share of the energy."""
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
        partitioned = any(device.instance_id is not None for device in counted)
        why = "a GPU instance has no energy counter of its own" if partitioned else "no energy counter"
        says = f"absent on every request: {why} ({', '.join(dict.fromkeys(without))})"
        return Finding("gpu", subject, Level.NOTE, says, details={"on": True, "without": without})
    shares = {device.id: reading.own_share for device, reading in found if reading is not None}
    shared = [name for name, share in shares.items() if share is not None and share < 1.0]
    if shared and not settings.energy_shared:
        says = f"absent on every request: other processes compute on {', '.join(shared)}"
        next_step = "Set AI_OTEL_ENERGY_SHARED=true for an estimate that is not for billing."
        return Finding("gpu", subject, Level.NOTE, says, next_step, {"on": True, "shared": shared})
    unknown = [device.id for device, reading in found if reading is not None and has_unknown_share(reading)]
    if unknown and not settings.energy_shared:
        says = f"absent on every request: it is unknown whose processes compute on {', '.join(unknown)}"
        next_step = "Update the driver; or set AI_OTEL_ENERGY_SHARED=true if the GPU is this container's alone."
        return Finding("gpu", subject, Level.NOTE, says, next_step, {"on": True, "unknown": unknown})
    return Finding("gpu", subject, Level.OK, f"on, over {len(counted)} devices", details={"on": True})
