"""
The first law: the app's result passes through untouched.

For anything a hook does, at any of its calls, for every way of listening: the wrapped function is called exactly once
with the very arguments, and what comes out of it is what the caller gets, item by item and exception by exception.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings, strategies as st

from ai_otel.hooks import guard
from ai_otel.hooks.arguments import Arguments
from ai_otel.hooks.guard import FAILURES_IN_A_ROW
from ai_otel.hooks.patch import Patcher
from ai_otel.hooks.point import HookPoint, Rung

MODULE = "fragile_app"


# ---------------------------------------------------------------- everything that may be raised


class Mute(Exception):
    """Cannot be put into words."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Clinging(Exception):
    """Cannot be compared with itself, nor have attributes set."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not compare me")

    def __hash__(self) -> int:
        raise RuntimeError("do not hash me")

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError("do not touch me")


def endless() -> NoReturn:
    endless()
    raise AssertionError


def chained() -> NoReturn:
    raise KeyError("second") from ValueError("first")


def undecodable() -> NoReturn:
    b"\xff".decode()
    raise AssertionError("no such byte is valid")


HOOK_FAILURES: list[Callable[[], NoReturn] | type[Exception]] = [
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    OSError,
    TimeoutError,
    ImportError,
    StopIteration,
    StopAsyncIteration,
    UserWarning,
    undecodable,
    Mute,
    Clinging,
    endless,
    chained,
]

# What the app raises is its own business, also when it ends the process.
APP_FAILURES: list[type[BaseException]] = [
    ValueError,
    Mute,
    Clinging,
    StopAsyncIteration,
    KeyboardInterrupt,
    SystemExit,
    asyncio.CancelledError,
    GeneratorExit,
]


def fail(how: Any) -> NoReturn:
    if callable(how) and not isinstance(how, type):
        how()
    raise how


# ---------------------------------------------------------------- an app, and a hook that may fail at any call


@dataclass
class App:
    """One function that notes its calls, and answers or raises what it was given."""

    items: list[Any] = field(default_factory=list)
    error: BaseException | None = None
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    closed: int = 0

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.calls.append((args, kwargs))
        if self.error is not None:
            raise self.error
        return self

    def install(self) -> ModuleType:
        module = ModuleType(MODULE)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.answer(args, kwargs)

        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            return self.answer(args, kwargs)

        def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
            self.calls.append((args, kwargs))
            try:
                yield from self.items
                if self.error is not None:
                    raise self.error
            finally:
                self.closed += 1

        async def async_stream(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((args, kwargs))
            try:
                for item in self.items:
                    await asyncio.sleep(0)
                    yield item
                if self.error is not None:
                    raise self.error
            finally:
                self.closed += 1

        for function in (call, coroutine, stream, async_stream):
            setattr(module, function.__name__, function)
        return module


class Fragile:
    """Hooks whose calls fail where `plan` says so, whichever they are; the plan goes round and round."""

    def __init__(self, plan: list[Any], *, silent: bool = False) -> None:
        self.plan, self.calls, self.silent = plan, 0, silent
        self.last: Any = None
        self.item = self.step

    def step(self, *_: Any) -> Any:
        how = self.plan[self.calls % len(self.plan)] if self.plan else None
        self.calls += 1
        if how is not None:
            fail(how)
        return None if self.silent else self

    before = step

    def after(self, *_: Any) -> None:
        self.step()

    def ended(self, error: BaseException | None, *, closed: bool) -> None:
        self.step()

    def defaults(self, *_: Any) -> Any:
        self.step()
        return {"added": 1}

    def broken_defaults(self, _: Any, arguments: Arguments) -> Any:
        return [3, {1: 2}, {"ok": 1, 3: 4}, "text", self, object()][self.calls % 6]

    def wants(self, *_: Any) -> Any:
        return self.step() is not None


@contextmanager
def listening(app: App, attach: Callable[[Patcher], None]) -> Iterator[ModuleType]:
    module = app.install()
    sys.modules[MODULE] = module
    patcher = Patcher("app")
    try:
        attach(patcher)
        assert [each.state for each in patcher.attachments] == ["attached"]
        yield module
    finally:
        patcher.undo()
        del sys.modules[MODULE]


def at(name: str) -> HookPoint:
    return HookPoint(f"{MODULE}:{name}", reads=("a",), versions="", rung=Rung.PUBLIC, why="Anything may pass here.")


def outcome_of(run: Callable[[], Any]) -> Any:
    """What came out: the result, or the exception."""
    try:
        return run()
    except BaseException as error:  # noqa: BLE001 - that is the question
        return error


# ---------------------------------------------------------------- strategies

objects = st.one_of(
    st.integers(), st.text(max_size=3), st.builds(object), st.none(), st.lists(st.integers(), max_size=2)
)
plans = st.lists(st.one_of(st.none(), st.sampled_from(HOOK_FAILURES)), max_size=6)
arguments = st.tuples(
    st.lists(objects, max_size=3).map(tuple),
    st.dictionaries(st.sampled_from(["a", "b", "self", "wrapped", "instance", "args", "kwargs"]), objects, max_size=3),
)
app_errors = st.one_of(st.none(), st.sampled_from(APP_FAILURES).map(lambda kind: kind()))

PLAIN = {
    "call": lambda patcher, hook: patcher.call(at("call"), hook.before, hook.after),
    "call without end": lambda patcher, hook: patcher.call(at("call"), hook.before),
    "after_call": lambda patcher, hook: patcher.after_call(at("call"), hook.after),
    "call_ended": lambda patcher, hook: patcher.call_ended(at("call"), hook.after),
    "around": lambda patcher, hook: patcher.around(
        at("call"), hook.wants, lambda wrapped, /, *a, **k: wrapped(*a, **k)
    ),
    "defaults": lambda patcher, hook: patcher.defaults(at("call"), lambda *_: hook.step() and None),
    "answer": lambda patcher, hook: patcher.answer(at("call"), hook.before),
    "stream of one piece": lambda patcher, hook: patcher.stream(at("call"), hook.before),
    "async stream of one piece": lambda patcher, hook: patcher.async_stream(at("call"), hook.before),
}


def same(given: Any, arrived: Any) -> bool:
    (args, kwargs), (got_args, got_kwargs) = given, arrived
    return (
        len(args) == len(got_args)
        and all(a is b for a, b in zip(args, got_args, strict=True))
        and list(kwargs) == list(got_kwargs)
        and all(kwargs[name] is got_kwargs[name] for name in kwargs)
    )


# ---------------------------------------------------------------- plain functions and coroutines


@pytest.mark.parametrize("kind", PLAIN)
@settings(max_examples=60)
@given(plan=plans, given_arguments=arguments, error=app_errors, silent=st.booleans())
def test_a_plain_function_is_untouched(
    kind: str, plan: list[Any], given_arguments: Any, error: BaseException | None, silent: bool
) -> None:
    app, hook = App(error=error), Fragile(plan, silent=silent)
    args, kwargs = given_arguments
    with listening(app, lambda patcher: PLAIN[kind](patcher, hook)) as module:
        came_out = outcome_of(lambda: module.call(*args, **kwargs))
    assert came_out is (app if error is None else error)
    (arrived,) = app.calls
    assert same(given_arguments, arrived)


@settings(max_examples=60)
@given(plan=plans, given_arguments=arguments, error=app_errors, silent=st.booleans())
def test_a_coroutine_is_untouched(
    plan: list[Any], given_arguments: Any, error: BaseException | None, silent: bool
) -> None:
    app, hook = App(error=error), Fragile(plan, silent=silent)
    args, kwargs = given_arguments

    def step(coroutine: Any) -> Any:
        """As an event loop does it, without one that would interpret what comes out."""
        try:
            while True:
                coroutine.send(None)
        except StopIteration as stop:
            return stop.value

    with listening(app, lambda patcher: patcher.coroutine(at("coroutine"), hook.before, hook.after)) as module:
        came_out = outcome_of(lambda: step(module.coroutine(*args, **kwargs)))
    if isinstance(error, (StopIteration, StopAsyncIteration)) and isinstance(came_out, RuntimeError):
        came_out = came_out.__cause__  # Python itself does not let these out of a coroutine
    assert came_out is (app if error is None else error)
    (arrived,) = app.calls
    assert same(given_arguments, arrived)


@settings(max_examples=60)
@given(plan=plans, given_arguments=arguments)
def test_defaults_add_only_what_the_caller_left_out(plan: list[Any], given_arguments: Any) -> None:
    app, hook = App(), Fragile(plan)
    args, kwargs = given_arguments
    with listening(app, lambda patcher: patcher.defaults(at("call"), hook.defaults)) as module:
        assert module.call(*args, **kwargs) is app
    ((got_args, got_kwargs),) = app.calls
    got_kwargs.pop("added", None)
    assert same(given_arguments, (got_args, got_kwargs)) or got_kwargs.keys() == kwargs.keys()


@pytest.mark.parametrize("number", range(6))
def test_defaults_that_are_no_arguments_at_all_are_ignored(number: int) -> None:
    app, hook = App(), Fragile([])
    hook.calls = number
    with listening(app, lambda patcher: patcher.defaults(at("call"), hook.broken_defaults)) as module:
        assert module.call(1, a=2) is app
    ((args, kwargs),) = app.calls
    assert args == (1,)
    assert kwargs["a"] == 2
    assert all(isinstance(name, str) for name in kwargs)


# ---------------------------------------------------------------- streams


@dataclass
class Seen:
    """What a consumer got: the items, and what came out at the end."""

    items: list[Any] = field(default_factory=list)
    end: Any = None


ENDINGS = ["exhaust", "close", "throw", "drop"]


def consume(stream: Any, take: int, ending: str, thrown: BaseException) -> Seen:
    seen = Seen()
    try:
        for _ in range(take):
            seen.items.append(next(stream))
        if ending == "exhaust":
            seen.items.extend(stream)
        elif ending == "close":
            stream.close()
        elif ending == "throw":
            seen.items.append(stream.throw(thrown))
    except BaseException as error:  # noqa: BLE001 - that is the question
        seen.end = error
    return seen


async def async_consume(stream: Any, take: int, ending: str, thrown: BaseException) -> Seen:
    seen = Seen()
    try:
        for _ in range(take):
            seen.items.append(await stream.__anext__())
        if ending == "exhaust":
            async for item in stream:
                seen.items.append(item)
        elif ending == "close":
            await stream.aclose()
        elif ending == "throw":
            seen.items.append(await stream.athrow(thrown))
    except BaseException as error:  # noqa: BLE001 - that is the question
        seen.end = error
    await stream.aclose()
    return seen


def drive(work: Awaitable[Any]) -> Any:
    """Run a coroutine without an event loop, which would interpret what comes out."""
    steps = work.__await__()
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        return stop.value


def both(plain: Seen, watched: Seen) -> None:
    """The consumer of a watched stream sees what that of a plain one does."""
    assert len(plain.items) == len(watched.items)
    assert all(a is b for a, b in zip(plain.items, watched.items, strict=True))
    if isinstance(plain.end, RuntimeError) and plain.end.__cause__ is not None:
        # Python turns an iteration's end that escapes from a generator into this, again each time.
        assert type(watched.end) is RuntimeError
        assert watched.end.__cause__ is plain.end.__cause__
    elif isinstance(plain.end, (StopIteration, StopAsyncIteration)):
        assert type(watched.end) is type(plain.end)
        assert getattr(watched.end, "value", None) is getattr(plain.end, "value", None)
    else:
        assert watched.end is plain.end


# An end that the app raises must not be one that unwinds pytest, where nothing but we would catch it.
stream_errors = st.one_of(st.none(), st.sampled_from(APP_FAILURES).map(lambda kind: kind()))
LISTEN_SYNC = {
    "stream": lambda patcher, hook: patcher.stream(at("stream"), hook.before),
    "answer": lambda patcher, hook: patcher.answer(at("stream"), hook.before),
}


@pytest.mark.parametrize("kind", LISTEN_SYNC)
@settings(max_examples=120)
@given(
    plan=plans,
    items=st.lists(st.builds(object), max_size=4),
    error=stream_errors,
    take=st.integers(0, 5),
    ending=st.sampled_from(ENDINGS),
    thrown=st.sampled_from(APP_FAILURES).map(lambda kind: kind()),
    every_item=st.booleans(),
)
def test_a_stream_is_untouched(
    kind: str,
    plan: list[Any],
    items: list[Any],
    error: BaseException | None,
    take: int,
    ending: str,
    thrown: BaseException,
    every_item: bool,
) -> None:
    app, hook = App(items, error), Fragile(plan)
    if not every_item:
        hook.item = None  # type: ignore[assignment]
    plain = consume(app.install().stream(1), take, ending, thrown)
    app.calls.clear()
    with listening(app, lambda patcher: LISTEN_SYNC[kind](patcher, hook)) as module:
        argument = object()
        watched = consume(module.stream(argument, a=2), take, ending, thrown)
    both(plain, watched)
    if app.calls:  # a generator that is not advanced does not begin
        assert app.calls == [((argument,), {"a": 2})]


@settings(max_examples=120)
@given(
    plan=plans,
    items=st.lists(st.builds(object), max_size=4),
    error=stream_errors,
    take=st.integers(0, 5),
    ending=st.sampled_from(ENDINGS),
    thrown=st.sampled_from(APP_FAILURES).map(lambda kind: kind()),
    every_item=st.booleans(),
)
def test_an_asynchronous_stream_is_untouched(
    plan: list[Any],
    items: list[Any],
    error: BaseException | None,
    take: int,
    ending: str,
    thrown: BaseException,
    every_item: bool,
) -> None:
    app, hook = App(items, error), Fragile(plan)
    if not every_item:
        hook.item = None  # type: ignore[assignment]
    plain = drive(async_consume(app.install().async_stream(1), take, ending, thrown))
    app.calls.clear()
    with listening(app, lambda patcher: patcher.async_stream(at("async_stream"), hook.before)) as module:
        argument = object()
        watched = drive(async_consume(module.async_stream(argument, a=2), take, ending, thrown))
    both(plain, watched)
    if app.calls:
        assert app.calls == [((argument,), {"a": 2})]


@settings(max_examples=60)
@given(plan=plans, items=st.lists(st.builds(object), max_size=4), ended_with=st.sampled_from(ENDINGS))
def test_a_watch_sees_the_end_exactly_once(plan: list[Any], items: list[Any], ended_with: str) -> None:
    ends: list[Any] = []

    class Watch(Fragile):
        def ended(self, error: BaseException | None, *, closed: bool) -> None:
            ends.append(error)
            self.step()

    app = App(items)
    # pytest keeps log records. The frames of a logged traceback keep the callers' variables, and so a dropped stream.
    guard.log.disabled = True
    try:
        with listening(app, lambda patcher: patcher.stream(at("stream"), lambda *_: Watch(plan))) as module:
            for _ in range(2):
                consume(module.stream(), 1, ended_with, ValueError())
    finally:
        guard.log.disabled = False
    always = plan and all(how is not None for how in plan)
    assert len(ends) == 2 or always  # a hook that always fails may be off by then
    assert len(ends) <= 2


# ---------------------------------------------------------------- ten in a row


@pytest.mark.parametrize("kind", ["call", "call without end", "after_call", "call_ended", "around", "defaults"])
@settings(max_examples=20)
@given(calls=st.integers(0, 25), how=st.sampled_from(HOOK_FAILURES))
def test_after_ten_failures_in_a_row_a_hook_is_off_and_counted(kind: str, calls: int, how: Any) -> None:
    guard.errors.clear()
    guard.disabled.clear()
    app, hook = App(), Fragile([how])
    with listening(app, lambda patcher: PLAIN[kind](patcher, hook)) as module:
        for _ in range(calls):
            assert module.call() is app
    assert len(app.calls) == calls
    failures = min(calls, FAILURES_IN_A_ROW)
    assert hook.calls == failures
    assert guard.errors[f"{MODULE}:call"] == failures
    assert guard.disabled == ({f"{MODULE}:call"} if calls >= FAILURES_IN_A_ROW else set())


def test_a_hook_that_fails_now_and_then_stays_on() -> None:
    app, hook = App(), Fragile([ValueError] * 9 + [None], silent=True)
    with listening(app, lambda patcher: patcher.call(at("call"), hook.before)) as module:
        for _ in range(100):
            assert module.call() is app
    assert hook.calls == 100
    assert guard.disabled == set()


# ---------------------------------------------------------------- exceptions of the application


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
def test_what_is_no_exception_is_the_servers_also_when_it_strikes_a_hook(error: type[BaseException]) -> None:
    """Ctrl-C may arrive in the middle of our code: it is still Ctrl-C."""
    app, strikes = App(), error()

    def struck(*_: Any) -> None:
        raise strikes

    with listening(app, lambda patcher: patcher.call(at("call"), struck)) as module:
        assert outcome_of(module.call) is strikes
    assert guard.errors == {}
