"""Which process samples the GPUs, and since when."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ai_otel.doctor.finding import Finding, Level
from ai_otel.doctor.server import PROC, Server
from ai_otel.gpu.leader import Leader, leaders, lock_directory

SUBJECT = "sampling"


def check_sampling(server: Server | None = None) -> Iterator[Finding]:
    """Yield each leader of this user, or of the user and the temporary directory of a running server."""
    found = leaders(_directory(server), _user(server))
    for leader in found:
        yield _finding(leader, server)
    if server is not None and found and all(leader.pid != server.pid for leader in found):
        says = f"process {server.pid} does not sample, so it exports no hw.* metric, and its requests have no energy"
        details = {"pid": server.pid, "samples": False}
        yield Finding("gpu", SUBJECT, Level.OK, says, "It takes over when the process above ends.", details)


def _directory(server: Server | None) -> Path:
    named = server.environment.get("TMPDIR") if server is not None else None
    return Path(named) if named else lock_directory()


def _user(server: Server | None) -> int:
    if server is not None:
        with suppress(OSError):  # it has just ended
            return (PROC / str(server.pid)).stat().st_uid
    return os.getuid()


def _finding(leader: Leader, server: Server | None) -> Finding:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(leader.since_s))
    details = {
        "pid": leader.pid,
        "since": leader.since_s,
        "devices": list(leader.devices),
        "sampled_ago_s": round(leader.sampled_ago_s, 1),
        "samples": not leader.lapsed,
    }
    which = "this server" if server is not None and leader.pid == server.pid else "process"
    devices = f"{len(leader.devices)} device{'s' * (len(leader.devices) != 1)}"
    says = f"{which} {leader.pid} samples {devices} since {since}: {', '.join(leader.devices)}"
    if leader.lapsed:
        says = f"{which} {leader.pid} has not sampled for {leader.sampled_ago_s:.0f} s, and leads since {since}"
        next_step = "It hangs or is stopped. The next process that can read the devices replaces it within 5 s."
        return Finding("gpu", SUBJECT, Level.NOTE, says, next_step, details)
    return Finding("gpu", SUBJECT, Level.OK, says, details=details)
