"""
Keeps a fork from happening while a thread of ai-otel imports a module or calls the SDK.

The child of a fork has the forking thread only. A lock that another thread held stays locked there: an import lock, so
that the child's own import of that module hangs, or a lock inside the SDK. A fork therefore waits until the threads of
ai-otel hold none, which is a fraction of a second after the first request, and later less than a record takes.
"""

from __future__ import annotations

# Registers fork handlers of its own. While a fork waits here, an import on another thread would add the second half of
# them to that fork, and Python would print an error.
import concurrent.futures.thread  # noqa: F401
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("ai_otel")

IMPORTS_S = 10.0
"""Seconds that a fork waits at most for imports: on a cold file system they take that long."""
STEP_S = 1.0
"""Seconds that a fork waits at most for one record, which takes milliseconds unless an exporter runs inside it."""
YIELDS = 20
YIELD_S = 0.001


class ForkGate:
    """
    A lock that ai-otel's threads hold while they import or call the SDK, and that a fork takes.

    A fork from inside of `held_off`, or from a signal handler that interrupts another fork, does not wait for itself.
    """

    def __init__(self) -> None:
        self._begin_life()
        os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._begin_life)

    def _begin_life(self) -> None:
        self._lock = threading.RLock()
        self._until_s = float("inf")
        self._forking: list[int] = []
        """Threads that are about to fork, as far as they are not done with it."""
        self._acquired = threading.local()
        self._logged = False

    @contextmanager
    def held_off(self, at_most_s: float = STEP_S) -> Iterator[None]:
        """Have forks wait until the block ends, or until `at_most_s` seconds after its start."""
        # Taken at once again, the lock would never be free for a fork.
        for _ in range(YIELDS):
            if not self._forking:
                break
            time.sleep(YIELD_S)
        lock = self._lock  # in the child of a fork that is made inside, there is another one
        with lock:
            before, self._until_s = self._until_s, time.monotonic() + at_most_s
            try:
                yield
            finally:
                self._until_s = before

    def _before(self) -> None:
        self._forking.append(threading.get_ident())
        lock = self._lock
        acquired = lock.acquire(timeout=max(0.0, min(self._until_s - time.monotonic(), IMPORTS_S)))
        self._stack().append(lock if acquired else None)

    def _after(self) -> None:
        stack = self._stack()
        if not stack:
            return  # made while this fork was under way: `_before` was not called for it
        lock = stack.pop()
        if self._forking:
            self._forking.pop()
        if lock is not None:
            lock.release()
        elif not self._logged:
            self._logged = True
            log.warning(
                "ai-otel: a fork did not wait any longer for a background thread: its child may have no telemetry"
            )

    def _stack(self) -> list[threading.RLock | None]:
        """Locks that this thread's forks took; `None` for one that did not wait to the end."""
        if not hasattr(self._acquired, "stack"):
            self._acquired.stack = []
        stack: list[threading.RLock | None] = self._acquired.stack
        return stack


FORKS = ForkGate()
"""The gate of this process."""
