"""Flushes when an HTTP server shuts down, because the process may not reach its exit handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ai_otel.hooks.guard import Guard
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
    """
    Waits for `hand_over` when a uvicorn server has served its last request; the event loop keeps running.

    `hand_over` exports on a thread of its own, calls its argument on that thread when it is done, and returns the
    seconds that this may take.
    """

    hooks = (UVICORN,)

    def __init__(self, hand_over: Callable[[Callable[[], None]], float]) -> None:
        self._hand_over = hand_over
        self._guard = Guard(f"{UVICORN.target} waits")

    def attach(self, hooks: Patcher) -> None:
        """Register the hook; waits until uvicorn is imported."""
        hooks.around(UVICORN, lambda _server, _arguments: True, self._shutdown)

    async def _shutdown(self, shutdown: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            result = await shutdown(*arguments, **options)
        except GeneratorExit:
            raise  # the coroutine was closed: it cannot wait for anything
        except BaseException:
            await self._handed_over()
            raise
        await self._handed_over()
        return result

    async def _handed_over(self) -> None:
        begun = self._guard(self._begin)
        if begun is not None:
            done, timeout_s = begun
            await asyncio.wait({done}, timeout=timeout_s)

    def _begin(self) -> tuple[asyncio.Future[None], float]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(done.cancel)

        return done, self._hand_over(wake)
