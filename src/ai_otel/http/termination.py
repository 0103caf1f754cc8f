"""Exports what is left when SIGTERM ends a server that does not handle it: no exit handler would run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from ai_otel.hooks.arguments import Arguments
from ai_otel.hooks.guard import Guard
from ai_otel.hooks.patch import Patcher
from ai_otel.hooks.point import HookPoint, Rung

WAITRESS = tuple(
    HookPoint(
        f"waitress.server:{name}.run",
        reads=(),
        versions=">=2",
        rung=Rung.PUBLIC,
        why="waitress serves until a signal ends it.",
    )
    for name in ("BaseWSGIServer", "MultiSocketServer")
)
WERKZEUG = HookPoint(
    "werkzeug.serving:BaseWSGIServer.serve_forever",
    reads=(),
    versions=">=2.0",
    rung=Rung.PUBLIC,
    why="Werkzeug's development server serves until a signal ends it.",
)


class Termination:
    """
    While such a server runs, handles SIGTERM unless the application does.

    The process ends by the signal all the same, after at most the seconds that `hand_over` returns: see
    `UvicornShutdown`. `begin` is called when the server is about to serve.
    """

    hooks = (*WAITRESS, WERKZEUG)

    def __init__(self, hand_over: Callable[[Callable[[], None]], float], begin: Callable[[], None]) -> None:
        self._hand_over = hand_over
        self._begin = begin
        self._guard = Guard("SIGTERM", lasting=True)
        self._pid = 0

    def attach(self, patcher: Callable[[str], Patcher]) -> None:
        """Register the hooks; each waits until its server is imported. `patcher` returns that of a distribution."""
        for point in WAITRESS:
            patcher("waitress").around(point, self._wants, self._run)
        patcher("werkzeug").around(WERKZEUG, self._wants, self._run)

    def _wants(self, _server: object, _arguments: Arguments) -> bool:
        self._begin()
        # Only the main thread may set a handler, and only where the application does not handle the signal.
        main = threading.current_thread() is threading.main_thread()
        return main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def _run(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._pid = os.getpid()
        handler = self._terminated
        signal.signal(signal.SIGTERM, handler)
        try:
            return run(*args, **kwargs)
        finally:
            if signal.getsignal(signal.SIGTERM) == handler:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _terminated(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() == self._pid:  # a forked child inherits the handler, and has nothing to export by it
            self._guard(self._export)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def _export(self) -> None:
        done = threading.Event()
        done.wait(self._hand_over(done.set))
