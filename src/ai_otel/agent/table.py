"""What `ai-otel agent --once` shows: every device and part, its values, and who holds it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

from ai_otel.agent.allocation import Allocated
from ai_otel.agent.kubelet_poller import View
from ai_otel.agent.node import Agent
from ai_otel.gpu.snapshot import Look, Snapshot

WITHIN_S = 30.0
GIB = 1 << 30
HEAD = ("DEVICE", "PART", "MODEL", "BUSY", "MEMORY GIB", "POWER", "HELD BY")


def look(agent: Agent) -> tuple[Snapshot, View]:
    """One look at the devices and one question to the kubelet; an empty snapshot where no driver answers in time."""
    agent.sampler.start()
    deadline = time.monotonic() + WITHIN_S
    while agent.sampler.snapshot.taken_s is None and agent.sampler.alive and time.monotonic() < deadline:
        time.sleep(0.02)
    view = agent.watch.look()
    snapshot = agent.sampler.snapshot
    agent.sampler.stop()
    return snapshot, view


def render(snapshot: Snapshot, view: View) -> str:
    """A table, then everything that is not in it and why."""
    rows = [HEAD, *_rows(snapshot.looks, view.allocated)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    if not snapshot.looks:
        lines = ["No device is seen here."]
    lines += [line.rstrip() for line in _remarks(snapshot, view)]
    return "\n".join(line.rstrip() for line in lines)


def _rows(looks: Sequence[Look], allocated: Allocated) -> Iterator[Sequence[str]]:
    holders: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for each in allocated.allocations:
        holders[each.device.key].append(f"{'/'.join(each.container)} ({each.sharing})")
    for look in looks:
        device, reading, _ = look
        names = sorted(holders[device.key]) or [""]
        busy, used, total = reading.utilization, reading.memory_used_bytes, reading.memory_total_bytes
        yield (
            device.id,
            "" if device.instance_id is None else f"{device.instance_id} {device.instance_profile or ''}".strip(),
            device.model or "",
            "lost" if look.lost else "" if busy is None else f"{busy:.0%}",
            "" if used is None or total is None else f"{used / GIB:.1f} of {total / GIB:.1f}",
            "" if reading.power_w is None else f"{reading.power_w:.0f} W",
            names[0],
        )
        yield from (("", "", "", "", "", "", name) for name in names[1:])


def _remarks(snapshot: Snapshot, view: View) -> Iterator[str]:
    remarks = [f"{vendor}: {trouble}" for vendor, trouble in snapshot.troubles.items()]
    remarks += [f"{who}: {trouble}" for who, trouble in view.troubles.items()]
    remarks += [str(each) for each in view.allocated.unmapped]
    if view.allocated.ended:
        remarks.append(f"left out, because their pods have ended: {view.allocated.ended}")
    yield from (["", *remarks] if remarks else [])
