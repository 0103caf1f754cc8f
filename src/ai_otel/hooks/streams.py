"""
Proxies that observe an iterator on its way to the caller.

They forward everything (`send`, `throw`, `close`, attributes, `isinstance`) to the real one and deliver the very
objects it yields. Nothing is attached to the context while the consumer runs.

Each kind of stream has two proxies. Python's own generators are what engines return, and have nothing but their methods
and attributes: a plain class forwards these at half of what `wrapt` costs. `wrapt` proxies any other iterator.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from types import AsyncGeneratorType, GeneratorType, GetSetDescriptorType, MemberDescriptorType, MethodType
from typing import Any, Protocol

import wrapt

from ai_otel.hooks.guard import Guard

_OF_GENERATORS = frozenset({"send", "throw", "close", "asend", "athrow", "aclose"})


class StreamListener(Protocol):
    """Receives stream events. Each method runs inside a guard."""

    item: Callable[[Any], None] | None
    """Called for each item; `None` if only the last one is needed, which is kept as `last`."""
    last: Any

    def ended(self, error: BaseException | None, *, closed: bool) -> None:
        """Called once. `error` is the exception raised; `closed` means that the consumer closed or dropped it."""


_new = object.__new__


def observed(stream: Any, listener: StreamListener, guard: Guard) -> Any:
    """The proxy of an iterator; `None` where it is none."""
    kind = type(stream)
    if kind is GeneratorType:
        return GeneratorStream(stream, listener, guard)
    return SyncStream(stream, listener, guard) if hasattr(kind, "__next__") else None


def async_observed(stream: Any, listener: StreamListener, guard: Guard) -> Any:
    """The proxy of an asynchronous iterator; `None` where it is none."""
    kind = type(stream)
    if kind is AsyncGeneratorType:
        # As the constructor, which takes twice as long: each request to an asynchronous server passes here.
        made = _new(AsyncGeneratorStream)
        made.__wrapped__ = stream
        made.__qualname__ = stream.__qualname__
        made._self_listener = listener  # noqa: SLF001
        made._self_guard = guard  # noqa: SLF001
        return made
    return AsyncStream(stream, listener, guard) if hasattr(kind, "__anext__") else None


def _end(listener: StreamListener, error: BaseException | None, closed: bool) -> None:
    listener.ended(error, closed=closed)


class _Observed:
    """Common base: reports the end to its listener once, then drops it."""

    __slots__ = ()

    __wrapped__: Any
    _self_listener: StreamListener | None
    _self_guard: Guard

    def _self_end(self, error: BaseException | None, closed: bool = False) -> None:
        listener = self._self_listener
        if listener is not None:
            self._self_listener = None  # type: ignore[misc]
            self._self_guard.finish(_end, listener, error, closed)

    def _self_saw(self, item: Any) -> None:
        listener = self._self_listener
        if listener is not None:
            listener.last = item
            if listener.item is not None:
                self._self_guard(listener.item, item)

    def __del__(self) -> None:
        # Without an attribute only where __init__ failed.
        if getattr(self, "_self_listener", None) is not None:
            self._self_end(None, closed=True)


class _Steps(_Observed):
    """The steps of an iterator."""

    __slots__ = ()

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self._self_step(self.__wrapped__.__next__)

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


class _GeneratorSteps(_Steps):
    """The steps of a generator."""

    __slots__ = ()

    def send(self, value: Any) -> Any:
        return self._self_step(self.__wrapped__.send, value)

    def throw(self, *error: Any) -> Any:
        return self._self_step(self.__wrapped__.throw, *error)

    def close(self) -> Any:
        try:
            return self.__wrapped__.close()
        finally:
            self._self_end(None, closed=True)


class _AsyncSteps(_Observed):
    """The steps of an asynchronous iterator."""

    __slots__ = ()

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        # As `_self_step`, `_self_saw` and `_self_end`, without their calls: it runs once for each chunk.
        try:
            item = await self.__wrapped__.__anext__()
        except StopAsyncIteration:
            listener = self._self_listener
            if listener is not None:
                self._self_listener = None  # type: ignore[misc]
                self._self_guard.finish(_end, listener, None, False)
            raise
        except BaseException as error:
            self._self_end(error)
            raise
        listener = self._self_listener
        if listener is not None:
            listener.last = item
            if listener.item is not None:
                self._self_guard(listener.item, item)
        return item

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


class _AsyncGeneratorSteps(_AsyncSteps):
    """The steps of an asynchronous generator."""

    __slots__ = ()

    def asend(self, value: Any) -> Awaitable[Any]:
        return self._self_step(self.__wrapped__.asend(value))

    def athrow(self, *error: Any) -> Awaitable[Any]:
        return self._self_step(self.__wrapped__.athrow(*error))

    async def aclose(self) -> Any:
        try:
            return await self.__wrapped__.aclose()
        finally:
            self._self_end(None, closed=True)


class _Stream(_Observed, wrapt.ObjectProxy):  # type: ignore[type-arg]
    """
    Proxy of any object. A copy or a pickle is one of the real iterator, if that supports it.

    Of a generator's methods it has those that the real iterator has: `yield from` calls `close` and `throw` where they
    exist, and `isinstance` finds a generator by them.
    """

    _self_steps: type[_Observed] = _GeneratorSteps

    def __init__(self, wrapped: Any, listener: StreamListener, guard: Guard) -> None:
        super().__init__(wrapped)
        self._self_listener = listener
        self._self_guard = guard

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.__wrapped__, name)
        method = vars(self._self_steps).get(name) if name in _OF_GENERATORS else None
        return attribute if method is None else MethodType(method, self)

    def __copy__(self) -> Any:
        return copy.copy(self.__wrapped__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.__wrapped__, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__wrapped__.__reduce_ex__(protocol)


def _attributes_of(kind: type) -> dict[str, Any]:
    """
    Properties that read the attributes of a generator.

    `__getattr__` would do, but where a class has it, Python 3.11 reads every attribute at three times the cost.
    """

    def forwarded(name: str) -> property:
        return property(lambda proxy: getattr(proxy.__wrapped__, name))

    attributes = (GetSetDescriptorType, MemberDescriptorType)
    names = [name for name, value in vars(kind).items() if isinstance(value, attributes)]
    return {name: forwarded(name) for name in names if name != "__qualname__"}


class _Generator(_Observed):
    """Proxy of a generator: attributes can be read, not set."""

    # A class cannot have a property `__qualname__`, but instances can have a slot of this name.
    __slots__ = ("__qualname__", "__weakref__", "__wrapped__", "_self_guard", "_self_listener")

    def __init__(self, wrapped: Any, listener: StreamListener, guard: Guard) -> None:
        self.__wrapped__ = wrapped
        self.__qualname__ = wrapped.__qualname__
        self._self_listener = listener
        self._self_guard = guard

    def __del__(self) -> None:
        if self._self_listener is not None:
            self._self_end(None, closed=True)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self.__wrapped__.__class__

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Raises, as every generator does: `copy` and `pickle` would else make an empty proxy.
        return self.__wrapped__.__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)


class SyncStream(_Steps, _Stream):
    """An observed iterator."""


class GeneratorStream(_GeneratorSteps, _Generator):
    """An observed generator."""

    __slots__ = ()
    locals().update(_attributes_of(GeneratorType))


class AsyncStream(_AsyncSteps, _Stream):
    """An observed asynchronous iterator."""

    _self_steps = _AsyncGeneratorSteps


class AsyncGeneratorStream(_AsyncGeneratorSteps, _Generator):
    """An observed asynchronous generator."""

    __slots__ = ()
    locals().update(_attributes_of(AsyncGeneratorType))
