"""
Functions that answer in one of three ways: whole, as an iterator, or piece by piece to a callback.

Whichever it is, one watch is told of the pieces and of the end; and while the function runs, a hook further in can see
that it is part of another call.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from ai_otel.hooks.guard import Guard
from ai_otel.hooks.streams import GeneratorStream, SyncStream, Watch, _Stream

if TYPE_CHECKING:
    from ai_otel.hooks.arguments import Arguments

INSIDE: ContextVar[Watch | None] = ContextVar("ai_otel_inside", default=None)
"""
The watch of the innermost call that runs now. Set while the function, or one step of its iterator, runs; never while
the consumer does.
"""


class _Inside:
    """Steps that are known to be inside the call."""

    __slots__ = ()

    def _self_step(self, advance: Callable[..., Any], *arguments: Any) -> Any:
        outer = INSIDE.set(self._self_watch)  # type: ignore[attr-defined]
        try:
            return super()._self_step(advance, *arguments)  # type: ignore[misc]
        finally:
            INSIDE.reset(outer)


class _SteppedStream(_Inside, SyncStream):
    """A watched iterator that says when it runs."""


class _SteppedGenerator(_Inside, GeneratorStream):
    """A watched generator that says when it runs."""

    __slots__ = ()


class _Listener(_Stream):
    """The caller's callback, watched. A piece to which it answers true, or raises, is the last one that it wants."""

    def __init__(self, wrapped: Any, watch: Watch, guard: Guard) -> None:
        super().__init__(wrapped, watch, guard)
        self._self_stopped = False

    def __call__(self, piece: Any) -> Any:
        self._self_saw(piece)
        outer = INSIDE.set(None)
        try:
            stop = self.__wrapped__(piece)
        except BaseException:
            self._self_stopped = True
            raise
        finally:
            INSIDE.reset(outer)
        if stop:
            self._self_stopped = True
        return stop

    def _self_returned(self, error: BaseException | None) -> None:
        self._self_end(error, closed=self._self_stopped)


def answered(call: Callable[..., Any], arguments: Arguments, callback: str, watch: Watch, guard: Guard) -> Any:
    """Make the call, and return what it returns; an iterator comes back watched, and a callback goes in watched."""
    passed = arguments.get(callback)
    listener = _Listener(passed, watch, guard) if callable(passed) else None
    args, kwargs = arguments.exchanged(callback, listener)
    outer = INSIDE.set(watch)
    try:
        answer = call(*args, **kwargs)
    except BaseException as error:
        guard.finish(_ended, watch, listener, None, error)
        raise
    finally:
        INSIDE.reset(outer)
    if hasattr(type(answer), "__next__"):
        return (_SteppedGenerator if type(answer) is GeneratorType else _SteppedStream)(answer, watch, guard)
    guard.finish(_ended, watch, listener, answer, None)
    return answer


def _ended(watch: Watch, listener: _Listener | None, answer: Any, error: BaseException | None) -> None:
    if listener is not None:
        listener._self_returned(error)  # noqa: SLF001 - a proxy has no other names of its own
        return
    if error is None:
        watch.last = answer
        if watch.item is not None:
            watch.item(answer)
    watch.ended(error, closed=False)
