"""
Proxies that watch an iterator on its way to the caller.

They forward everything (`send`, `throw`, `close`, attributes, `isinstance`) to the real one and deliver the very objects
it yields. Nothing is attached to the context while the consumer runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import wrapt

from ai_otel.hooks.guard import Guard


class Watch(Protocol):
    """Is told what happens on a stream. Each method runs inside a guard."""

    item: Callable[[Any], None] | None
    """Called for each item, or `None` when the last one is all that is needed (it is kept as `last`)."""
    last: Any

    def ended(self, error: BaseException | None, *, closed: bool) -> None:
        """Called once: `error` is what came out, `closed` says that the consumer closed or dropped the stream."""


class _Stream(wrapt.ObjectProxy):
    """What both kinds of stream share: one watch, told about the end once."""

    def __init__(self, wrapped: Any, watch: Watch, guard: Guard) -> None:
        super().__init__(wrapped)
        self._self_watch = watch
        self._self_guard = guard
        self._self_over = False

    def _self_end(self, error: BaseException | None, closed: bool = False) -> None:
        if not self._self_over:
            self._self_over = True
            watch = self._self_watch
            self._self_guard(lambda: watch.ended(error, closed=closed))

    def _self_saw(self, item: Any) -> None:
        watch = self._self_watch
        watch.last = item
        if watch.item is not None:
            self._self_guard(watch.item, item)

    def __del__(self) -> None:
        if not getattr(self, "_self_over", True):
            self._self_end(None, closed=True)


class SyncStream(_Stream):
    """A watched iterator or generator."""

    def __iter__(self) -> SyncStream:
        return self

    def __next__(self) -> Any:
        return self._self_step(self.__wrapped__.__next__)

    def send(self, value: Any) -> Any:
        return self._self_step(self.__wrapped__.send, value)

    def throw(self, *error: Any) -> Any:
        return self._self_step(self.__wrapped__.throw, *error)

    def close(self) -> Any:
        try:
            return self.__wrapped__.close()
        finally:
            self._self_end(None, closed=True)

    def _self_step(self, advance: Callable[..., Any], *arguments: Any) -> Any:
        try:
            item = advance(*arguments)
        except StopIteration:
            self._self_end(None)
            raise
        except BaseException as error:
            self._self_end(error)
            raise
        self._self_saw(item)
        return item


class AsyncStream(_Stream):
    """A watched asynchronous iterator or generator."""

    def __aiter__(self) -> AsyncStream:
        return self

    def __anext__(self) -> Awaitable[Any]:
        return self._self_step(self.__wrapped__.__anext__())

    def asend(self, value: Any) -> Awaitable[Any]:
        return self._self_step(self.__wrapped__.asend(value))

    def athrow(self, *error: Any) -> Awaitable[Any]:
        return self._self_step(self.__wrapped__.athrow(*error))

    async def aclose(self) -> Any:
        try:
            return await self.__wrapped__.aclose()
        finally:
            self._self_end(None, closed=True)

    async def _self_step(self, advance: Awaitable[Any]) -> Any:
        try:
            item = await advance
        except StopAsyncIteration:
            self._self_end(None)
            raise
        except BaseException as error:
            self._self_end(error)
            raise
        self._self_saw(item)
        return item
