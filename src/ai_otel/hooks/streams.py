"""
Proxies that watch an iterator on its way to the caller.

They forward everything (`send`, `throw`, `close`, attributes, `isinstance`) to the real one and deliver the very
objects it yields. Nothing is attached to the context while the consumer runs.

Each kind of stream has two proxies. Python's own generators are what engines return, and have nothing but their methods
and attributes: a plain class forwards these at half of what `wrapt` costs. `wrapt` stands for any other iterator.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from types import AsyncGeneratorType, GeneratorType
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


def watched(stream: Any, watch: Watch, guard: Guard) -> Any:
    """The proxy of an iterator."""
    return (GeneratorStream if type(stream) is GeneratorType else SyncStream)(stream, watch, guard)


def async_watched(stream: Any, watch: Watch, guard: Guard) -> Any:
    """The proxy of an asynchronous iterator."""
    return (AsyncGeneratorStream if type(stream) is AsyncGeneratorType else AsyncStream)(stream, watch, guard)


class _Watched:
    """What all share: one watch, told about the end once; a proxy without a watch has told it."""

    __slots__ = ()

    __wrapped__: Any
    _self_watch: Watch | None
    _self_guard: Guard

    def _self_end(self, error: BaseException | None, closed: bool = False) -> None:
        watch = self._self_watch
        if watch is not None:
            self._self_watch = None  # type: ignore[misc]
            self._self_guard.finish(lambda: watch.ended(error, closed=closed))

    def _self_saw(self, item: Any) -> None:
        watch = self._self_watch
        if watch is not None:
            watch.last = item
            if watch.item is not None:
                self._self_guard(watch.item, item)

    def __del__(self) -> None:
        # Without an attribute only where __init__ failed.
        if getattr(self, "_self_watch", None) is not None:
            self._self_end(None, closed=True)


class _Steps(_Watched):
    """The steps of an iterator or generator."""

    __slots__ = ()

    def __iter__(self) -> Any:
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


class _AsyncSteps(_Watched):
    """The steps of an asynchronous iterator or generator."""

    __slots__ = ()

    def __aiter__(self) -> Any:
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


class _Stream(_Watched, wrapt.ObjectProxy):  # type: ignore[type-arg]
    """Stands for anything. A copy or a pickle is one of the real iterator, where that allows it."""

    def __init__(self, wrapped: Any, watch: Watch, guard: Guard) -> None:
        super().__init__(wrapped)
        self._self_watch = watch
        self._self_guard = guard

    def __copy__(self) -> Any:
        return copy.copy(self.__wrapped__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.__wrapped__, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__wrapped__.__reduce_ex__(protocol)


class _Generator(_Watched):
    """Stands for a generator: its attributes can be read and none can be set."""

    __slots__ = ("__weakref__", "__wrapped__", "_self_guard", "_self_watch")

    def __init__(self, wrapped: Any, watch: Watch, guard: Guard) -> None:
        self.__wrapped__ = wrapped
        self._self_watch = watch
        self._self_guard = guard

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self.__wrapped__.__class__

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Raises, as every generator does: `copy` and `pickle` would else make an empty proxy.
        return self.__wrapped__.__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)


class SyncStream(_Steps, _Stream):
    """A watched iterator."""


class GeneratorStream(_Steps, _Generator):
    """A watched generator."""

    __slots__ = ()


class AsyncStream(_AsyncSteps, _Stream):
    """A watched asynchronous iterator."""


class AsyncGeneratorStream(_AsyncSteps, _Generator):
    """A watched asynchronous generator."""

    __slots__ = ()
