"""
Attaches hooks to functions of other packages, after these are imported, and takes them off again.

A hook never decides anything: the wrapped function is called exactly once, with the caller's arguments, and what it
returns or raises goes to the caller.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakMethod

import wrapt

from ai_otel.hooks.arguments import Arguments
from ai_otel.hooks.guard import Guard
from ai_otel.hooks.hooked import Wrapper, hooked
from ai_otel.hooks.imports import IMPORTS
from ai_otel.hooks.point import HookPoint
from ai_otel.hooks.responses import answered
from ai_otel.hooks.streams import StreamListener, async_observed, observed

log = logging.getLogger("ai_otel")

Before = Callable[[Any, Arguments], Any]
After = Callable[[Any, Any, BaseException | None], None]
Ended = Callable[[Any, Arguments, BaseException | None], None]
AfterOnly = Callable[[Any, BaseException | None], None]
OpenListener = Callable[[Any, Arguments], StreamListener | None]


@dataclass(slots=True)
class Attachment:
    """What became of one row of the table."""

    point: HookPoint
    state: str
    """`waiting` for the import, `attached`, `missing` in this version, or `out of range`."""
    detail: str = ""


class Patcher:
    """
    Attaches the hook points of one adapter.

    `version` returns the engine's version once the engine is imported, or `None` if it is unknown. Rows that do not
    cover the version are skipped.
    """

    def __init__(self, engine: str, version: Callable[[], str | None] = lambda: None) -> None:
        self.engine = engine
        self.version = version
        self.attachments: list[Attachment] = []
        self._makers: list[Callable[[Guard, Mapping[str, int]], Wrapper]] = []
        """For each attachment what makes its wrapper."""
        self._registered: set[tuple[HookPoint, str]] = set()
        self._guards: list[Guard] = []
        self._undo: list[Callable[[], None]] = []
        self._active = True

    # How a hook listens, by the kind of function.

    def call(self, point: HookPoint, before: Before, after: After | None = None) -> None:
        """
        Listen to a plain function.

        `before(instance, arguments)` returns a state; unless it is `None`, `after(state, result, error)` is called with
        the outcome.
        """

        def make(guard: Guard, positions: Mapping[str, int]) -> Wrapper:
            def wrapper(wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any) -> Any:
                state = guard(before, instance, Arguments(positions, args, kwargs))
                if state is None or after is None:
                    return wrapped(*args, **kwargs)
                try:
                    result = wrapped(*args, **kwargs)
                except BaseException as error:
                    guard.finish(after, state, None, error)
                    raise
                guard.finish(after, state, result, None)
                return result

            return wrapper

        self._when_imported(point, make, "call")

    def call_ended(self, point: HookPoint, ended: Ended) -> None:
        """Listen to the outcome of a plain function that returns nothing: `ended(instance, arguments, error)`."""

        def make(guard: Guard, positions: Mapping[str, int]) -> Wrapper:
            def wrapper(wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any) -> Any:
                if guard.off:
                    return wrapped(*args, **kwargs)
                try:
                    result = wrapped(*args, **kwargs)
                except BaseException as error:
                    guard.finish(ended, instance, Arguments(positions, args, kwargs), error)
                    raise
                guard.finish(ended, instance, Arguments(positions, args, kwargs), None)
                return result

            return wrapper

        self._when_imported(point, make, "call")

    def after_call(self, point: HookPoint, after: AfterOnly) -> None:
        """Listen to the outcome of a plain function: `after(result, error)`."""

        def make(guard: Guard, _: Mapping[str, int]) -> Wrapper:
            def wrapper(wrapped: Callable[..., Any], _instance: Any, args: Any, kwargs: Any) -> Any:
                if guard.off:
                    return wrapped(*args, **kwargs)
                try:
                    result = wrapped(*args, **kwargs)
                except BaseException as error:
                    guard.finish(after, None, error)
                    raise
                guard.finish(after, result, None)
                return result

            return wrapper

        self._when_imported(point, make, "call")

    def coroutine(self, point: HookPoint, before: Before, after: After) -> None:
        """Listen to an `async def` function; like `call`."""

        def make(guard: Guard, positions: Mapping[str, int]) -> Wrapper:
            def wrapper(wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any) -> Any:
                state = guard(before, instance, Arguments(positions, args, kwargs))
                if state is None:
                    return wrapped(*args, **kwargs)
                return _start(functools.partial(wrapped, *args, **kwargs), functools.partial(after, state), guard)

            return wrapper

        self._when_imported(point, make, "call")

    def async_stream(self, point: HookPoint, listener: OpenListener) -> None:
        """
        Listen to a function that returns an asynchronous iterator; `listener` may decline with `None`.

        A result that is none is an answer in one piece: the one item of its stream.
        """
        self._stream(point, listener, async_observed)

    def stream(self, point: HookPoint, listener: OpenListener) -> None:
        """Listen to a function that returns an iterator; like `async_stream`."""
        self._stream(point, listener, observed)

    def _stream(
        self, point: HookPoint, listener: OpenListener, proxy: Callable[[Any, StreamListener, Guard], Any]
    ) -> None:
        def make(guard: Guard, positions: Mapping[str, int]) -> Wrapper:
            def wrapper(wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any) -> Any:
                listening = guard(listener, instance, Arguments(positions, args, kwargs))
                try:
                    stream = wrapped(*args, **kwargs)
                except BaseException as error:
                    if listening is not None:
                        guard.finish(_failed_at_once, listening, error)
                    raise
                if listening is None:
                    return stream
                observing = proxy(stream, listening, guard)
                if observing is not None:
                    return observing
                guard.finish(_ended_at_once, listening, stream)
                return stream

            return wrapper

        self._when_imported(point, make, "stream")

    def answer(self, point: HookPoint, listener: OpenListener, callback: str = "") -> None:
        """
        Listen to a function that returns its answer, whole or as an iterator, or gives it in pieces to the function
        that the caller passes as `callback`; `listener` may decline with `None`.
        """

        def make(guard: Guard, positions: Mapping[str, int]) -> Wrapper:
            def wrapper(wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any) -> Any:
                arguments = Arguments(positions, args, kwargs)
                listening = guard(listener, instance, arguments)
                if listening is None:
                    return wrapped(*args, **kwargs)
                return answered(wrapped, arguments, callback, listening, guard)

            return wrapper

        self._when_imported(point, make, "answer")

    def around(self, point: HookPoint, wants: Callable[[Any, Arguments], bool], serve: Callable[..., Any]) -> None:
        """
        Let `serve(call, *args, **kwargs)` make the call when `wants(instance, arguments)`; for layers that must see
        every message of an ASGI application. `serve` must call `call(*args, **kwargs)` exactly once itself; of a method
        the first of `args` is the instance.
        """

        def make(guard: Guard, positions: Mapping[str, int]) -> Wrapper:
            def wrapper(wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any) -> Any:
                if guard(wants, instance, Arguments(positions, args, kwargs)):
                    return serve(wrapped, *args, **kwargs)
                return wrapped(*args, **kwargs)

            return wrapper

        self._when_imported(point, make, "around")

    def defaults(self, point: HookPoint, defaults: Callable[[Any, Arguments], Mapping[str, Any] | None]) -> None:
        """Add keyword arguments that the caller left out; what the caller passed always stands."""

        def with_added(instance: Any, arguments: Arguments) -> dict[str, Any]:
            return arguments.with_keywords(defaults(instance, arguments) or {})

        def make(guard: Guard, positions: Mapping[str, int]) -> Wrapper:
            def wrapper(wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any) -> Any:
                keywords = guard(with_added, instance, Arguments(positions, args, kwargs))
                return wrapped(*args, **(kwargs if keywords is None else keywords))

            return wrapper

        self._when_imported(point, make, "defaults")

    # Attaching and undoing.

    def _when_imported(self, point: HookPoint, make: Callable[[Guard, Mapping[str, int]], Wrapper], kind: str) -> None:
        if (point, kind) in self._registered:
            return
        self._registered.add((point, kind))
        attachment = Attachment(point, "waiting")
        self.attachments.append(attachment)
        guard = Guard(f"attach {point.target}")
        # The finder keeps a call whose module is never imported: it must not keep the hook.
        own, index = WeakMethod(self._attach_at), len(self._makers)
        self._makers.append(make)

        def attach(_module: Any) -> None:
            # What raises here would fail the engine's own import.
            if (attach_at := own()) is not None:
                guard(attach_at, index)

        IMPORTS.when_imported(point.module, attach)

    def _attach_at(self, index: int) -> None:
        self._attach(self.attachments[index], self._makers[index])

    def _attach(self, attachment: Attachment, make: Callable[[Guard, Mapping[str, int]], Wrapper]) -> None:
        point = attachment.point
        if not self._active or attachment.state == "attached":
            return
        version = self.version()
        if version is not None and not point.covers(version):
            attachment.state, attachment.detail = "out of range", f"{self.engine} {version} is not {point.versions}"
            return
        try:
            parent, name, original = wrapt.resolve_path(sys.modules[point.module], point.path)
        except AttributeError as error:
            attachment.state, attachment.detail = "missing", str(error)
            log.warning("ai-otel: %s %s has no %s: it is not observed", self.engine, version, point.target)
            return
        guard, own = Guard(point.target), name in vars(parent)
        replacement = hooked(original, make(guard, _positions(original)), in_class=isinstance(parent, type))
        setattr(parent, name, replacement)
        attachment.state, attachment.detail = "attached", version or ""
        self._guards.append(guard)
        self._undo.append(functools.partial(_restore, parent, name, original, replacement, own))

    def undo(self) -> None:
        """Restore the originals. A hooked function that was wrapped meanwhile stays, and passes every call through."""
        self._active = False
        for guard in self._guards:
            guard.off = True
        for restore in reversed(self._undo):
            restore()
        self._undo.clear()
        for attachment in self.attachments:
            attachment.state = "undone"


def _start(call: Callable[[], Any], after: AfterOnly, guard: Guard) -> Any:
    try:
        awaitable = call()
    except BaseException as error:
        guard.finish(after, None, error)
        raise
    return _await(awaitable, after, guard)


async def _await(awaitable: Any, after: AfterOnly, guard: Guard) -> Any:
    try:
        result = await awaitable
    except BaseException as error:
        guard.finish(after, None, error)
        raise
    guard.finish(after, result, None)
    return result


def _failed_at_once(listener: StreamListener, error: BaseException) -> None:
    listener.ended(error, closed=False)


def _ended_at_once(listener: StreamListener, result: Any) -> None:
    listener.last = result
    if listener.item is not None:
        listener.item(result)
    listener.ended(None, closed=False)


def _restore(parent: Any, name: str, original: Any, replacement: Any, own: bool) -> None:
    if vars(parent).get(name) is not replacement:
        return
    if own:
        setattr(parent, name, original)
    else:
        delattr(parent, name)


def _positions(function: Any) -> dict[str, int]:
    """Index of each positional parameter."""
    if isinstance(function, (staticmethod, classmethod)):
        function = function.__func__
    parameters = inspect.signature(function).parameters.values()
    placed = (p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    return {parameter.name: index for index, parameter in enumerate(placed)}


def imported_version(package: str, distributions: tuple[str, ...]) -> str | None:
    """The version of an imported package: what it says itself, else what its distribution says."""
    module = sys.modules.get(package)
    stated = getattr(module, "__version__", None)
    if isinstance(stated, str) and stated[:1].isdigit():
        return stated
    metadata = importlib.import_module("importlib.metadata")
    for distribution in distributions:
        try:
            return str(metadata.version(distribution))
        except metadata.PackageNotFoundError:
            continue
    return None
