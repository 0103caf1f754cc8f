"""
A `service.instance.id` of this process alone.

Two processes that send one series are one stream with two sums: a backend then sees a counter that jumps. An id that a
manifest or a user gives is the same for all processes that inherit it, so only one of them has it as it stands.
"""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Iterator

from ai_otel.inputs.environ import process_variables

_held: set[str] = set()
"""The ids of this process. The kernel frees a name with its process, so a restarted server has its id again."""


def own_instance(given: str, *, forked: bool = False) -> str:
    """
    Return the id, or in all processes but one the id and what sets this process apart: its name, else its number.

    `forked`: the parent of this process may export too.
    """
    candidates = list(_candidates(given, forked=forked))
    return next((each for each in candidates if _hold(each)), candidates[-1])


def _candidates(given: str, *, forked: bool) -> Iterator[str]:
    worker = multiprocessing.current_process().name
    if worker != "MainProcess":
        yield f"{given}.{worker}"
    elif not forked:
        yield given
    yield f"{given}.{os.getpid()}"


def _hold(name: str) -> bool:
    """
    Whether no other process of this machine or pod that exports to the same place has the id, as far as can be known.

    An abstract socket is a name in the kernel that one process has at a time: no file, no privilege. Linux has them.
    """
    if name in _held or sys.platform != "linux":
        return True
    variables = process_variables()
    key = "\n".join([name, *(variables.get(each, "") for each in _DESTINATIONS)])
    try:
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError:
        return True
    try:
        holder.bind(f"\0ai-otel/instance/{hashlib.sha256(key.encode(errors='replace')).hexdigest()}")
    except OSError as error:
        holder.close()
        return error.errno != errno.EADDRINUSE
    holder.detach()  # open as long as the process is
    _held.add(name)
    return True


_DESTINATIONS = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)

# The names are the parent's. Its descriptors stay open in the child: the application may have closed and reused them.
os.register_at_fork(after_in_child=_held.clear)
