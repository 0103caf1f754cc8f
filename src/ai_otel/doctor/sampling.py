"""Which process samples the GPUs, since when, and what keeps processes that share GPUs from finding each other."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ai_otel.doctor.finding import Finding, Level
from ai_otel.doctor.server import PROC, Server
from ai_otel.gpu.sharing.leader import Leader, leaders
from ai_otel.gpu.sharing.lock_files import files, holders, lock_directory
from ai_otel.settings import Settings

SUBJECT = "sampling"
OWN_DIRECTORY = "Where its telemetry is not yours, set AI_OTEL_LOCK_DIR to a directory of your own."


def check_sampling(settings: Settings, server: Server | None = None) -> Iterator[Finding]:
    """Yield the directory of the lock files, each leader, and files that keep processes from finding each other."""
    directory, uid = lock_directory(settings.lock_dir), _user(server)
    yield _directory(directory)
    found = leaders(directory)
    for leader in found:
        yield _leader(leader, server, uid)
    if server is not None and found and all(leader.pid != server.pid for leader in found):
        says = f"process {server.pid} does not sample, so it exports no hw.* metric, and its requests have no energy"
        details = {"pid": server.pid, "samples": False}
        yield Finding("gpu", SUBJECT, Level.OK, says, "It takes over when the process above ends.", details)
    yield from _unusable(directory, uid)
    for path in files(directory, "ai-otel-serving-*.lock"):
        yield from _serving(path)


def _user(server: Server | None) -> int:
    if server is not None:
        with suppress(OSError):  # it has just ended
            return (PROC / str(server.pid)).stat().st_uid
    return os.getuid()


def _directory(directory: Path) -> Finding:
    details = {"directory": str(directory)}
    if os.path.isdir(directory) and os.access(directory, os.W_OK):  # noqa: PTH112 - raises nothing
        says = f"processes that share GPUs find each other by lock files in {directory}"
        return Finding("gpu", SUBJECT, Level.OK, says, details=details)
    says = f"no lock file can be created in {directory}: every process samples, also GPUs that another one samples"
    step = "Set AI_OTEL_LOCK_DIR to a directory that these processes share."
    return Finding("gpu", SUBJECT, Level.NOTE, says, step, details)


def _leader(leader: Leader, server: Server | None, uid: int) -> Finding:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(leader.since_s))
    details = {
        "pid": leader.pid,
        "user": leader.uid,
        "since": leader.since_s,
        "devices": list(leader.devices),
        "sampled_ago_s": round(leader.sampled_ago_s, 1),
        "samples": not leader.lapsed,
    }
    which = "this server" if server is not None and leader.pid == server.pid else "process"
    who = f"{which} {leader.pid}" + (f" of user {leader.uid}" if leader.uid != uid else "")
    devices = f"{len(leader.devices)} device{'s' * (len(leader.devices) != 1)}"
    says = f"{who} samples {devices} since {since}: {', '.join(leader.devices)}"
    if leader.lapsed:
        says = f"{who} has not sampled for {leader.sampled_ago_s:.0f} s, and leads since {since}"
        next_step = "It hangs or is stopped. The next process that can read the devices replaces it within 5 s."
        return Finding("gpu", SUBJECT, Level.NOTE, says, next_step, details)
    if leader.uid != uid:
        says += "; processes of other users on these devices export no hw.* metric"
        return Finding("gpu", SUBJECT, Level.NOTE, says, OWN_DIRECTORY, details)
    return Finding("gpu", SUBJECT, Level.OK, says, details=details)


def _unusable(directory: Path, uid: int) -> Iterator[Finding]:
    """Yield files that have the name of a lock file and cannot be one, as another user may have left them."""
    for path in [*files(directory, f"ai-otel-{uid}-gpu-*.lock"), *files(directory, "ai-otel-serving-*.lock")]:
        with suppress(OSError):
            state = path.lstat()
            theirs = state.st_uid != uid and not (path.match("ai-otel-serving-*") and state.st_mode & stat.S_IROTH)
            if not stat.S_ISREG(state.st_mode) or theirs:
                says = f"{path} cannot be locked: user {state.st_uid} owns it"
                step = "Remove it: it keeps requests from having energy, or lets several processes sample a GPU."
                yield Finding("gpu", SUBJECT, Level.NOTE, says, step, {"path": str(path), "user": state.st_uid})


def _serving(path: Path) -> Iterator[Finding]:
    processes = holders(path)
    if len(processes) > 1:
        says = f"processes {', '.join(map(str, processes))} serve on one GPU: none claims its energy for its requests"
        step = f"See them with ps. One that does not serve and holds a lock on {path} keeps the others from theirs."
        yield Finding("gpu", SUBJECT, Level.NOTE, says, step, {"serving": processes})
