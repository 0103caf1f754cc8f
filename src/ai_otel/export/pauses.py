"""
Pauses in long work on a thread of the SDK: there the interpreter lock is given away.

A thread that computes keeps the lock for up to 5 ms, and the server's event loop waits for it. Collecting and encoding
metrics takes tens of milliseconds once a minute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HOLD_S = 0.00015
"""For so long a thread computes without a pause."""
PAUSE_S = 0.00005
"""Long enough for a waiting thread to wake up and take the lock."""
MAX_PAUSES_S = 1.0
"""Of one collection, the time until the lock comes back included. After that it is only offered: a server that computes
without end must not keep the last values from being exported in time."""


class _Held(threading.local):
    until_s: float | None = None
    left_s = 0.0


_held = _Held()


@contextmanager
def pausing() -> Iterator[None]:
    """Have `pause` pause on this thread, until the block ends."""
    _held.until_s, _held.left_s = time.perf_counter() + HOLD_S, MAX_PAUSES_S
    try:
        yield
    finally:
        _held.until_s = None


def pause() -> None:
    """Give the interpreter lock away, if this thread is `pausing` and the last pause was long enough ago."""
    until_s = _held.until_s
    if until_s is None:
        return
    began_s = time.perf_counter()
    if began_s > until_s:
        time.sleep(PAUSE_S if _held.left_s > 0 else 0)
        ended_s = time.perf_counter()
        _held.left_s -= ended_s - began_s
        _held.until_s = ended_s + HOLD_S


def pause_between_instruments(reader: Any) -> None:
    """Have the SDK pause while it collects for a reader, whose temporality it looks up for each instrument."""
    temporality = getattr(reader, "_instrument_class_temporality", None)
    if temporality is not None:
        reader._instrument_class_temporality = PausedLookup(temporality)  # noqa: SLF001


class PausedLookup(dict[Any, Any]):
    """A dictionary with a pause before each look-up."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        pause()
        return super().__getitem__(key)


class Paused(list[Any]):
    """A list with pauses between its items for who iterates over it."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            yield item
            pause()
