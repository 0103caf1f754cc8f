"""
Keeps a fork from happening while a thread of ai-otel imports a module or calls the SDK.

The child of a fork has the forking thread only. A lock that another thread held stays locked there: an import lock, so
that the child's own import of that module hangs, or a lock inside the SDK. A fork therefore waits until the threads of
ai-otel hold none, which is a fraction of a second after the first request, and later less than a record takes.

Python runs signal handlers during that wait, and what they raise is meant for the application. A fork handler
(`os.register_at_fork`) cannot raise: Python prints the exception and goes on. Blocking signals would not help: another
thread may receive one, and the main thread then runs its handler in whichever fork handler comes next. `os.fork`
and `os.forkpty` are therefore replaced by proxies that wait before the fork begins. What a handler raises there reaches
the caller, as if the signal had arrived just before the call, and no child is made. The fork handler waits for other
forks (`subprocess` with `preexec_fn`, extension modules).
"""

from __future__ import annotations

# Registers fork handlers of its own. While a fork waits here, an import on another thread would add the second half of
# them to that fork, and Python would print an error.
import concurrent.futures.thread  # noqa: F401
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import wrapt

from ai_otel.hooks.hooked import Importable

log = logging.getLogger("ai_otel")

IMPORTS_S = 10.0
"""Seconds that a fork waits at most for imports: on a cold file system they take that long."""
STEP_S = 1.0
"""Seconds that a fork waits at most for one record, which takes milliseconds unless an exporter runs inside it."""
TURN_S = 0.00015
PAUSE_S = 0.00005
"""Long enough for a waiting thread to wake up and take the interpreter lock."""
YIELDS = 20
YIELD_S = 0.001
PROXIED = ("fork", "forkpty")
"""Functions of `os`."""


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
        self._free_until_s = float("-inf")
        """Until then the gate is left free for a fork that has waited and now begins."""

    # ---------------------------------------------------------------- the threads of ai-otel

    @contextmanager
    def held_off(self, at_most_s: float = STEP_S) -> Iterator[None]:
        """Have forks wait until the block ends, or until `at_most_s` seconds after its start."""
        lock = self._lock  # in the child of a fork that is made inside, there is another one
        # Taken at once again, the lock would never be free for a fork.
        for _ in range(YIELDS):
            with lock:
                if not self._forks_wait():
                    with self._held(at_most_s):
                        yield
                    return
            time.sleep(YIELD_S)
        with lock, self._held(at_most_s):
            yield

    @contextmanager
    def turns(self, hurry: Callable[[], bool], at_most_s: float = STEP_S) -> Iterator[Callable[[], None]]:
        """
        Hold off forks while many short steps are done; call what this yields between them.

        It lets forks and the server's threads go first, when the last time was `TURN_S` ago. A thread that computes
        keeps the interpreter lock for up to 5 ms, and the server's event loop waits for it. With `hurry()`, the lock
        changes hands at the interpreter's own interval only: the work must not fall behind because of the pauses.
        """
        stack = ExitStack()
        until_s = time.perf_counter() + TURN_S

        def between() -> None:
            nonlocal until_s
            if time.perf_counter() > until_s:
                stack.close()
                if not hurry():
                    time.sleep(PAUSE_S)
                stack.enter_context(self.held_off(at_most_s))
                until_s = time.perf_counter() + TURN_S

        with stack:
            stack.enter_context(self.held_off(at_most_s))
            yield between

    def _forks_wait(self) -> bool:
        return bool(self._forking) or time.monotonic() < self._free_until_s

    @contextmanager
    def _held(self, at_most_s: float) -> Iterator[None]:
        before, self._until_s = self._until_s, time.monotonic() + at_most_s
        try:
            yield
        finally:
            self._until_s = before

    # ---------------------------------------------------------------- forks

    def attach(self) -> None:
        """Have the application's forks wait where a signal handler may raise."""
        for name in PROXIED:
            if not isinstance(function := getattr(os, name), _WaitingFork):
                setattr(os, name, _WaitingFork(function, self))

    def detach(self) -> None:
        """Undo `attach`. A proxy that another library has wrapped meanwhile stays, and still waits."""
        for name in PROXIED:
            if isinstance(function := getattr(os, name), _WaitingFork):
                setattr(os, name, function.__wrapped__)

    def wait(self) -> None:
        """Wait until a fork can begin; the caller forks at once. Raises what a signal handler raises meanwhile."""
        lock = self._lock
        if _owns(lock):
            return
        self._forking.append(threading.get_ident())
        try:
            self._acquire(lock)
            self._free_until_s = time.monotonic() + YIELDS * YIELD_S
        finally:
            # Not by what `acquire` returned: the handler may have raised just after that.
            if _owns(lock):
                lock.release()
            if self._forking:
                self._forking.pop()

    def _acquire(self, lock: threading.RLock) -> None:
        lock.acquire(timeout=max(0.0, min(self._until_s - time.monotonic(), IMPORTS_S)))

    def _before(self) -> None:
        lock = self._lock
        self._forking.append(threading.get_ident())
        self._stack().append(lock)
        self._acquire(lock)

    def _after(self) -> None:
        stack = self._stack()
        if not stack:
            return  # made while this fork was under way: `_before` was not called for it
        lock = stack.pop()
        if self._forking:
            self._forking.pop()
        self._free_until_s = float("-inf")
        if _owns(lock):
            lock.release()
        elif not self._logged:
            self._logged = True
            log.warning(
                "ai-otel: a fork did not wait any longer for a background thread: its child may have no telemetry"
            )

    def _stack(self) -> list[threading.RLock]:
        """Locks of this thread's forks; one that did not wait to the end does not own its lock."""
        if not hasattr(self._acquired, "stack"):
            self._acquired.stack = []
        stack: list[threading.RLock] = self._acquired.stack
        return stack


def _owns(lock: threading.RLock) -> bool:
    """Return whether this thread has the lock; `threading.Condition` asks so, too."""
    owns: bool = lock._is_owned()  # type: ignore[attr-defined]  # noqa: SLF001
    return owns


class _WaitingFork(Importable, wrapt.ObjectProxy):  # type: ignore[type-arg]
    """
    A function that forks, after a wait. A copy or a pickle is one of the original.

    `__call__` is a property, so that the interpreter calls the original for the application: Python's warning of a
    fork in a process with threads names the application's line.
    """

    def __init__(self, original: Any, gate: ForkGate) -> None:
        super().__init__(original)
        self._self_gate = gate

    @property
    def __call__(self) -> Any:
        self._self_gate.wait()
        return self.__wrapped__


FORKS = ForkGate()
"""The gate of this process."""
