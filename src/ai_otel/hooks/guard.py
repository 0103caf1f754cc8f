"""
The boundary that protects the server from failures of hooks.

Every hook runs inside a `Guard`. It holds the only broad `except` in the library: an exception of a hook is counted,
logged once and suppressed. After ten failures in a row the hook is switched off. Cancellation, exit and interrupts are
the server's and pass through; on a thread of ai-otel there is no server above, and they are suppressed too.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any, ParamSpec, TypeVar

from ai_otel.version import __version__

log = logging.getLogger("ai_otel")

FAILURES_IN_A_ROW = 10
REPORT = "Please report this with your engine's version."

P = ParamSpec("P")
T = TypeVar("T")

errors: Counter[str] = Counter()
"""How often each hook failed in this process, by hook name."""
disabled: set[str] = set()
"""Names of the hooks that were switched off."""

# The parent of a fork reports its own failures.
os.register_at_fork(after_in_child=errors.clear)

_strict: list[BaseException] | None = None


class Guard:
    """
    Runs the hooks of one hook point and suppresses their exceptions.

    `alone` means that the hook has no caller in the server, as on the recorder's thread: `strict` then keeps a failure
    and does not raise it. A `lasting` guard is never switched off: without its hook a whole
    thread would be useless, and its caller waits longer after each failure. `advice` is the next step that the log
    message gives.
    """

    __slots__ = ("_advice", "_alone", "_in_a_row", "_lasting", "name", "off")

    def __init__(self, name: str, *, alone: bool = False, lasting: bool = False, advice: str = REPORT) -> None:
        self.name = name
        self.off = False
        self._advice = advice
        self._alone = alone
        self._lasting = lasting
        self._in_a_row = 0

    def __call__(self, hook: Callable[..., T], *arguments: Any) -> T | None:
        """Call `hook`. Returns `None` if it failed or is switched off."""
        if self.off:
            return None
        # As `finish`, without its call: a request passes here a dozen times.
        try:
            result = hook(*arguments)
        except BaseException as error:
            if not self._caught(error):
                raise
            return None
        self._in_a_row = 0
        return result

    def finish(self, hook: Callable[..., T], *arguments: Any) -> T | None:
        """Call `hook` even where the guard is off: what was opened before must be closed."""
        try:
            result = hook(*arguments)
        except BaseException as error:
            if not self._caught(error):
                raise
            return None
        self._in_a_row = 0
        return result

    def _caught(self, error: BaseException) -> bool:
        """Count and log a failure; whether it ends here."""
        if not self._suppresses(error):
            return False
        try:
            self._failed(error)
        except BaseException as second:
            # Reporting may fail too: a log handler that raises, or no stack left.
            if not self._suppresses(second):
                raise
        if _strict is not None:
            _strict.append(error)
            return self._alone
        return True

    def _suppresses(self, error: BaseException) -> bool:
        if isinstance(error, Exception) or _is_panic(error):
            return not raised_by_signal_handler(error)
        # Raised on a thread of ai-otel, an exit or an interrupt has no addressee, and would end the thread silently.
        return self._alone and threading.current_thread() is not threading.main_thread()

    def _failed(self, error: BaseException) -> None:
        errors[self.name] += 1
        self._in_a_row += 1
        if errors[self.name] == 1:
            log.warning(
                "ai-otel %s: hook %s failed; the server is not affected, its telemetry is incomplete. %s",
                __version__,
                self.name,
                self._advice,
                exc_info=error,
            )
        if self._in_a_row >= FAILURES_IN_A_ROW and not self.off and not self._lasting:
            self.off = True
            disabled.add(self.name)
            log.warning("ai-otel: hook %s is off after %d failures in a row", self.name, self._in_a_row)


def _is_panic(error: BaseException) -> bool:
    """Whether a Rust extension panicked: PyO3 derives its exception from `BaseException`, and it requests no exit."""
    return type(error).__module__ == "pyo3_runtime"


def raised_by_signal_handler(error: BaseException) -> bool:
    """
    Whether one of the application's signal handlers raised `error`.

    Python runs handlers between two instructions of the main thread, so also inside a hook: what such a handler raises
    (a deadline, a request to stop) is meant for the application's own code, as if the hook were not there.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    codes = {code for number in signal.valid_signals() if (code := _code_of(signal.getsignal(number))) is not None}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


def _code_of(handler: object) -> CodeType | None:
    """Return the code that runs when a signal handler is called; `None` where it is not written in Python."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    for function in (handler, getattr(type(handler), "__call__", None)):  # noqa: B004 - the method itself is wanted
        code = getattr(getattr(function, "__func__", function), "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None


@contextmanager
def strict() -> Iterator[list[BaseException]]:
    """Keep hook failures in a list, and let them through, so that what production swallows fails a test."""
    global _strict  # noqa: PLW0603 - one switch for the process, read on every failure only
    before, _strict = _strict, []
    try:
        yield _strict
    finally:
        _strict = before
