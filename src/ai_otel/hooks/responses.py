"""
Functions that return a response whole, as an iterator, or piece by piece to a callback.

In each case one listener receives the pieces and the end. A hook that runs inside the call can see that it does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from ai_otel.hooks.guard import Guard
from ai_otel.hooks.streams import GeneratorStream, StreamListener, SyncStream, _Stream

if TYPE_CHECKING:
    from ai_otel.hooks.arguments import Arguments

INSIDE: ContextVar[StreamListener | None] = ContextVar("ai_otel_inside", default=None)
"""
The listener of the innermost call that runs now. Set while the function, or one step of its iterator, runs; unset while
the consumer runs.
"""


class _Inside:
    """Marks each step as inside the call."""

    __slots__ = ()

    def _self_step(self, advance: Callable[..., Any], *arguments: Any) -> Any:
        outer = INSIDE.set(self._self_listener)  # type: ignore[attr-defined]
        try:
            return super()._self_step(advance, *arguments)  # type: ignore[misc]
        finally:
            INSIDE.reset(outer)


class _SteppedStream(_Inside, SyncStream):
    """An observed iterator that sets `INSIDE` while it runs."""


class _SteppedGenerator(_Inside, GeneratorStream):
    """An observed generator that sets `INSIDE` while it runs."""

    __slots__ = ()


class _Callback(_Stream):
    """The caller's callback, observed. It stops the response if it returns true or raises."""

    def __init__(self, wrapped: Any, listener: StreamListener, guard: Guard) -> None:
        super().__init__(wrapped, listener, guard)
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


def answered(
    call: Callable[..., Any], arguments: Arguments, callback: str, listener: StreamListener, guard: Guard
) -> Any:
    """Make the call and return its result; an iterator and a callback are replaced by observed ones."""
    passed = arguments.get(callback)
    observed_callback = _Callback(passed, listener, guard) if callable(passed) else None
    args, kwargs = arguments.exchanged(callback, observed_callback)
    outer = INSIDE.set(listener)
    try:
        answer = call(*args, **kwargs)
    except BaseException as error:
        guard.finish(_ended, listener, observed_callback, None, error)
        raise
    finally:
        INSIDE.reset(outer)
    if hasattr(type(answer), "__next__"):
        return (_SteppedGenerator if type(answer) is GeneratorType else _SteppedStream)(answer, listener, guard)
    guard.finish(_ended, listener, observed_callback, answer, None)
    return answer


def _ended(listener: StreamListener, callback: _Callback | None, answer: Any, error: BaseException | None) -> None:
    if callback is not None:
        callback._self_returned(error)  # noqa: SLF001 - a proxy has no other names of its own
        return
    if error is None:
        listener.last = answer
        if listener.item is not None:
            listener.item(answer)
    listener.ended(error, closed=False)
