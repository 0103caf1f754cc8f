"""Hooked functions and watched streams are copied and pickled as they would be without a hook."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import pytest
import wrapt

from ai_otel.hooks.guard import Guard
from ai_otel.hooks.hooked import HookedFunction, hooked
from ai_otel.hooks.patch import Patcher
from ai_otel.hooks.point import HookPoint, Rung
from ai_otel.hooks.streams import async_observed, observed


class Engine:
    """Stands for an engine's class, in a module that a spawned process can import."""

    def __init__(self, factor: int = 2) -> None:
        self.factor = factor

    def generate(self, number: int) -> int:
        return self.factor * number

    @classmethod
    def create(cls, factor: int) -> Engine:
        return cls(factor)

    @staticmethod
    def double(number: int) -> int:
        return 2 * number


def function(number: int) -> int:
    return 3 * number


PATHS = ("Engine.generate", "Engine.create", "Engine.double", "function")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module = ModuleType("hooked_engine")
    for name in ("Engine", "function"):
        setattr(module, name, globals()[name])
    monkeypatch.setitem(sys.modules, "hooked_engine", module)
    for item in (Engine, Engine.generate, Engine.create.__func__, Engine.double, function):  # type: ignore[attr-defined]
        monkeypatch.setattr(item, "__module__", "hooked_engine")
    patcher = Patcher("fake")
    for path in PATHS:
        point = HookPoint(f"hooked_engine:{path}", reads=(), versions=">=0", rung=Rung.PUBLIC, why="a test")
        patcher.call(point, lambda *_: None)
    assert {attachment.state for attachment in patcher.attachments} == {"attached"}
    yield module
    patcher.undo()


def test_functions_and_methods_pickle_by_name(engine: Any) -> None:
    instance = engine.Engine(5)
    for callable_, expected in (
        (engine.function, 6),
        (engine.Engine.double, 4),
        (instance.generate, 10),
        (instance.double, 4),
    ):
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(callable_, protocol))(2) == expected
    assert pickle.loads(pickle.dumps(engine.Engine.create))(7).factor == 7
    assert pickle.loads(pickle.dumps(engine.Engine.generate))(instance, 2) == 10


def test_a_pickle_needs_nothing_of_ai_otel(engine: Any) -> None:
    for callable_ in (engine.function, engine.Engine.generate, engine.Engine(5).generate, engine.Engine.create):
        assert b"ai_otel" not in pickle.dumps(callable_)


def test_a_copied_function_is_the_function(engine: Any) -> None:
    assert copy.copy(engine.function) is engine.function
    assert copy.deepcopy(engine.function) is engine.function
    assert copy.deepcopy(engine.Engine.generate)(engine.Engine(4), 2) == 8


def test_a_deep_copied_method_has_its_own_instance(engine: Any) -> None:
    instance = engine.Engine(5)
    copied = copy.deepcopy({"engine": instance, "call": instance.generate})
    instance.factor = 0
    assert copied["call"](2) == 10
    copied["engine"].factor = 7
    assert copied["call"](2) == 14
    assert copy.copy(instance.generate)(2) == 0


# ---------------------------------------------------------------- as the original


def passing(call: Callable[..., Any], _instance: Any, args: Any, kwargs: Any) -> Any:
    return call(*args, **kwargs)


class Kinds:
    """A function of each kind that a server asks for."""

    def method(self, a: int, b: int = 2, *, c: Kinds | None = None) -> int:
        """Documented."""
        return a + b

    async def coroutine(self, scope: dict[str, Any]) -> None: ...

    async def asynchronous(self) -> AsyncIterator[int]:
        yield 1

    def generator(self) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize("name", ["method", "coroutine", "asynchronous", "generator"])
def test_a_hooked_function_says_of_itself_what_the_original_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = vars(Kinds)[name]
    seen: list[Any] = []
    for ask in (
        inspect.iscoroutinefunction,
        inspect.isasyncgenfunction,
        inspect.isgeneratorfunction,
        inspect.isfunction,
        inspect.signature,
        inspect.getfullargspec,
        inspect.getsource,
        typing.get_type_hints,
        lambda function: (function.__name__, function.__qualname__, function.__module__, function.__doc__),
        lambda function: function.__globals__ is globals(),
    ):
        monkeypatch.setattr(Kinds, name, original)
        of_function, of_method = ask(getattr(Kinds, name)), ask(getattr(Kinds(), name))
        monkeypatch.setattr(Kinds, name, hooked(original, passing, in_class=True))
        if ask in (inspect.getfullargspec, typing.get_type_hints) and type(vars(Kinds)[name]) is not FunctionType:
            continue  # on 3.10 a proxy of wrapt, of which these read no annotations
        assert ask(getattr(Kinds, name)) == of_function
        assert ask(getattr(Kinds(), name)) == of_method
        seen.append(of_function)
    assert any(seen[:3]) == (name != "method")
    assert getattr(Kinds, name).__wrapped__ is original
    assert type(getattr(Kinds(), name)) is MethodType or isinstance(getattr(Kinds(), name), wrapt.BoundFunctionWrapper)


@pytest.mark.fault(
    "requests",
    "an application calls a hooked method with its instance passed by name, or without any",
    "it gets what the method returns, or Python's own error",
)
def test_a_method_without_positional_arguments_is_the_originals_business(engine: Any) -> None:
    instance = engine.Engine(5)
    assert engine.Engine.generate(self=instance, number=2) == 10
    with pytest.raises(TypeError, match=r"generate\(\) missing 2 required positional arguments"):
        engine.Engine.generate()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="flags make the kind of a function there")
def test_a_python_function_is_replaced_by_one() -> None:
    for name, function in inspect.getmembers(Kinds, inspect.isfunction):
        assert type(hooked(function, passing, in_class=True)) is FunctionType, name


@pytest.mark.fault(
    "requests",
    "another library has wrapped a function that ai-otel hooks",
    "its wrapper gets instance and arguments as without ai-otel",
)
def test_what_is_no_python_function_gets_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    below: list[Any] = []
    heard: list[Any] = []

    def theirs(wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any) -> Any:
        below.append((instance, args, kwargs))
        return wrapped(*args, **kwargs)

    def listening(call: Callable[..., Any], instance: Any, args: Any, kwargs: Any) -> Any:
        heard.append((instance, args, kwargs))
        return call(*args, **kwargs)

    monkeypatch.setattr(Kinds, "method", wrapt.FunctionWrapper(vars(Kinds)["method"], theirs))
    monkeypatch.setattr(Kinds, "method", hooked(vars(Kinds)["method"], listening, in_class=True))
    assert isinstance(vars(Kinds)["method"], HookedFunction)
    kinds = Kinds()
    assert kinds.method(1, b=4) == Kinds.method(kinds, 1, b=4) == 5
    assert below == [(kinds, (1,), {"b": 4})] * 2
    assert heard == [(kinds, (kinds, 1), {"b": 4})] * 2
    assert hooked(len, listening, in_class=False)([1, 2]) == 2
    assert heard[-1][1:] == (([1, 2],), {})  # older wrapt passes its module as the instance


class Listener:
    """Notes that the stream has ended."""

    item = None
    last: Any = None

    def ended(self, error: BaseException | None, *, closed: bool) -> None:
        pass


def numbers() -> Iterator[int]:
    yield from range(3)


async def later() -> Any:
    yield 1


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_watched_generator_refuses_like_a_bare_one(copying: Any) -> None:
    for bare, proxy in ((numbers(), observed), (later(), async_observed)):
        with pytest.raises(TypeError) as expected:
            copying(bare)
        with pytest.raises(TypeError, match="generator") as raised:
            copying(proxy(bare, Listener(), Guard("t")))
        assert str(raised.value) == str(expected.value)


def test_a_watched_iterator_copies_like_a_bare_one() -> None:
    stream = observed(iter([1, 2, 3]), Listener(), Guard("t"))
    assert next(stream) == 1
    assert list(copy.copy(stream)) == [2, 3]
    assert list(copy.deepcopy(stream)) == [2, 3]
    assert list(pickle.loads(pickle.dumps(stream))) == [2, 3]
    assert list(stream) == [2, 3]
