"""A daemon thread that survives its own failures, and calls that do not wait for each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from ai_otel.hooks.guard import Guard

PAUSE_S = 0.1
"""Seconds before the loop of a thread is called again after a failure. Doubles with each failure in a row."""
MAX_PAUSE_S = 60.0


class DaemonThread:
    """
    Calls `loop` on a daemon thread until it returns.

    A loop that raises, whether an `Exception`, an exit or a panic of a Rust extension, is counted as a failure of the
    hook `thread <name>` and is called again after a pause. `stopping` cuts the pause short; the loop is then called
    once more, so that it can end in order.

    A signal handler of the application may raise inside of `start`. Whether a thread then runs is not known: the next
    `start` makes another one, and only the first that runs calls `loop`.
    """

    def __init__(self, name: str, loop: Callable[[], None]) -> None:
        self.stopping = threading.Event()
        self._name = name
        self._loop = loop
        self._guard = Guard(f"thread {name}", alone=True, lasting=True)
        self._thread: threading.Thread | None = None
        self._claim = threading.Lock()
        """Taken by the thread that calls `loop`, and never released."""

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def started(self) -> bool:
        """Whether the thread has been started."""
        return self._thread is not None

    def start(self) -> bool:
        """Start the thread, once. Returns `False` if no thread can be started, as at interpreter exit."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            if self._thread is None:
                self._thread = thread
        return True

    def stop(self, timeout_s: float) -> bool:
        """Have the loop end. Returns `False` if it still runs after `timeout_s`."""
        self.stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self.alive

    def _run(self) -> None:
        if not self._claim.acquire(blocking=False):
            return
        self._thread, pause_s = threading.current_thread(), PAUSE_S
        while True:
            last, started_s = self.stopping.is_set(), time.monotonic()
            if self._guard(self._ended) or last:
                return
            if time.monotonic() - started_s > MAX_PAUSE_S:
                pause_s = PAUSE_S
            self.stopping.wait(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    def _ended(self) -> bool:
        self._loop()
        return True


def at_once(name: str, calls: Sequence[Callable[[], object]]) -> list[object]:
    """
    Make several calls at the same time, each guarded, and return their results; `None` for one that failed.

    The first is made on this thread. Where no thread can be started, as at interpreter exit, it is the last.
    """
    results: list[object] = [None] * len(calls)

    def make(index: int) -> None:
        results[index] = Guard(name, alone=True)(calls[index])

    threads = []
    for index in range(1, len(calls)):
        thread = threading.Thread(target=make, args=[index], name=f"ai-otel {name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            make(index)
        else:
            threads.append(thread)
    if calls:
        make(0)
    for thread in threads:
        thread.join()
    return results
