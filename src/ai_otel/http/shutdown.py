"""Flushes when an HTTP server shuts down, because the process may not reach its exit handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ai_otel.hooks.patch import Patcher
from ai_otel.hooks.point import HookPoint, Rung

UVICORN = HookPoint(
    "uvicorn.server:Server.shutdown",
    reads=(),
    versions=">=0.20",
    rung=Rung.PUBLIC,
    why="uvicorn raises the SIGTERM that stopped it once more, now with the default handler: no exit handler runs.",
)


class UvicornShutdown:
    """Calls `hand_over` when a uvicorn server has served its last request."""

    hooks = (UVICORN,)

    def __init__(self, hand_over: Callable[[], None]) -> None:
        self._hand_over = hand_over

    def attach(self, hooks: Patcher) -> None:
        """Register the hook; waits until uvicorn is imported."""
        hooks.after_coroutine(UVICORN, self._ended)

    def _ended(self, _result: Any, _error: BaseException | None) -> None:
        self._hand_over()
