"""The table of `ai-otel agent --once`: every device and instance, its values, and the containers that hold it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

from ai_otel.agent.allocation import Allocated
from ai_otel.agent.kubelet_poller import View
from ai_otel.agent.node import Agent
from ai_otel.gpu.snapshot import DeviceSample, Snapshot

TIMEOUT_S = 30.0
GIB = 1 << 30
HEAD = ("DEVICE", "INSTANCE", "MODEL", "BUSY", "MEMORY GIB", "POWER", "HELD BY")


def collect(agent: Agent) -> tuple[Snapshot, View]:
    """Sample the devices and poll the kubelet once. The snapshot is empty if no driver answers within 30 s."""
    agent.sampler.start()
    deadline = time.monotonic() + TIMEOUT_S
    while agent.sampler.snapshot.taken_s is None and agent.sampler.alive and time.monotonic() < deadline:
        time.sleep(0.02)
    view = agent.poller.poll()
    snapshot = agent.sampler.snapshot
    agent.sampler.stop()
    return snapshot, view


def render(snapshot: Snapshot, view: View) -> str:
    """Return the table, followed by one line for everything that is not in it and why."""
    rows = [HEAD, *_rows(snapshot.samples, view.allocated)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    if not snapshot.samples:
        lines = ["No device found."]
    lines += [line.rstrip() for line in _remarks(snapshot, view)]
    return "\n".join(line.rstrip() for line in lines)


def _rows(samples: Sequence[DeviceSample], allocated: Allocated) -> Iterator[Sequence[str]]:
    holders: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for each in allocated.allocations:
        holders[each.device.key].append(f"{'/'.join(each.container)} ({each.sharing})")
    for sample in samples:
        device, reading, _ = sample
        names = sorted(holders[device.key]) or [""]
        busy, used, total = reading.utilization, reading.memory_used_bytes, reading.memory_total_bytes
        yield (
            device.id,
            "" if device.instance_id is None else f"{device.instance_id} {device.instance_profile or ''}".strip(),
            device.model or "",
            "lost" if sample.lost else "" if busy is None else f"{busy:.0%}",
            "" if used is None or total is None else f"{used / GIB:.1f} of {total / GIB:.1f}",
            "" if reading.power_w is None else f"{reading.power_w:.0f} W",
            names[0],
        )
        yield from (("", "", "", "", "", "", name) for name in names[1:])


def _remarks(snapshot: Snapshot, view: View) -> Iterator[str]:
    remarks = [f"{vendor}: {error}" for vendor, error in snapshot.errors.items()]
    remarks += [f"{interface}: {error}" for interface, error in view.errors.items()]
    remarks += [str(each) for each in view.allocated.unmapped]
    if view.allocated.ended:
        remarks.append(f"left out because their pods have ended: {view.allocated.ended}")
    yield from (["", *remarks] if remarks else [])
