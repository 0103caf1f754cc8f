"""One suite for all engines: what the rest of the library, and every user, relies on."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

from ai_otel.engines import ENGINES
from ai_otel.engines.adapter import EngineAdapter
from ai_otel.hooks import guard
from ai_otel.hooks.patch import Patcher
from ai_otel.hooks.point import HookPoint, Rung, in_range, release_numbers
from ai_otel.recorder import Recorder
from ai_otel.settings import Environment, Settings
from ai_otel.start import Handle
from fake_engine import forget
from isolated import python

ANCIENT = "0.0.1"


def adapter_of(engine: str) -> EngineAdapter:
    module, _, cls = ENGINES[engine].adapter.partition(":")
    made: EngineAdapter = getattr(importlib.import_module(module), cls)()
    return made


ROWS = [
    pytest.param(point, adapter_of(name), id=f"{name}-{point.path}-{point.versions}")
    for name in ENGINES
    for point in adapter_of(name).hooks
]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def adapter(engine: str) -> EngineAdapter:
    return adapter_of(engine)


@pytest.fixture(autouse=True)
def no_failures_so_far() -> Iterator[None]:
    yield
    guard.errors.clear()
    guard.disabled.clear()


# ---------------------------------------------------------------- the interface


def test_an_adapter_says_who_it_is(engine: str, adapter: EngineAdapter) -> None:
    assert adapter.name == engine
    assert tuple(adapter.packages) == tuple(ENGINES[engine].packages)
    assert all(name.isidentifier() for name in adapter.packages)
    assert adapter.distributions
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) for name in adapter.distributions)
    assert list(inspect.signature(adapter.attach).parameters) == ["recorder", "hooks"]


def test_the_tested_versions_are_a_range_that_its_rows_hold_for(adapter: EngineAdapter) -> None:
    oldest, newest = adapter.tested
    assert release_numbers(oldest) <= release_numbers(newest)
    for version in (oldest, newest):
        assert any(point.covers(version) for point in adapter.hooks), version


def test_the_rows_are_unique(adapter: EngineAdapter) -> None:
    assert len({(point.target, point.versions) for point in adapter.hooks}) == len(adapter.hooks)


@pytest.mark.parametrize(("point", "adapter"), ROWS)
def test_a_row_can_be_read(point: HookPoint, adapter: EngineAdapter) -> None:
    assert re.fullmatch(r"[\w.]+:\w+(\.\w+)*", point.target)
    assert point.module.partition(".")[0] in adapter.packages
    assert all(name.isidentifier() for name in point.reads)
    assert len(set(point.reads)) == len(point.reads)
    assert point.versions, "a row needs version bounds"
    in_range("1.0", point.versions)
    assert isinstance(point.rung, Rung)
    assert re.fullmatch(r"[A-Z].*\.", point.why)


def test_loading_an_adapter_loads_neither_the_engine_nor_opentelemetry(engine: str) -> None:
    """It runs while the engine is imported: its own imports would happen in every process of the engine."""
    module = ENGINES[engine].adapter.partition(":")[0]
    unwanted = (*ENGINES[engine].packages, "opentelemetry", "prometheus_client", "torch", "numpy")
    loaded = python(f"import {module}, sys; print(*[n for n in {unwanted!r} if n in sys.modules])")
    assert loaded.split() == []


# ---------------------------------------------------------------- a stand-in of the engine, made from the rows


class StandIn:
    """Modules with the functions that the rows name, each of which notes its calls and answers the same object."""

    def __init__(self, adapter: EngineAdapter, version: str) -> None:
        self.adapter, self.version = adapter, version
        self.points = [point for point in adapter.hooks if point.covers(version)]
        self.modules: dict[str, ModuleType] = {}
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.answer: Any = object()
        for package in adapter.packages:
            self._module(package).__version__ = version  # type: ignore[attr-defined]
        for point in self.points:
            self._define(point)

    def _module(self, name: str) -> ModuleType:
        if name not in self.modules:
            self.modules[name] = ModuleType(name)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(self._module(parent), child, self.modules[name])
        return self.modules[name]

    def _define(self, point: HookPoint) -> None:
        owner: Any = self._module(point.module)
        *classes, name = point.path.split(".")
        for cls in classes:
            if not hasattr(owner, cls):
                setattr(owner, cls, type(cls, (), {"__init__": lambda *_, **__: None}))
            owner = getattr(owner, cls)
        setattr(owner, name, self._function(["self"] * bool(classes) + list(point.reads)))

    def _function(self, parameters: list[str]) -> Callable[..., Any]:
        listed = ", ".join([*(f"{name}=None" if name != "self" else name for name in parameters), "*rest", "**more"])
        scope = {"note": self._note}
        exec(f"def function({listed}):\n    return note(locals())", scope)
        function: Callable[..., Any] = scope["function"]  # type: ignore[assignment]
        return function

    def _note(self, given: dict[str, Any]) -> Any:
        self.calls.append((given.pop("rest"), {**given.pop("more"), **given}))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def resolved(self, point: HookPoint) -> Any:
        owner: Any = self.modules[point.module]
        *classes, name = point.path.split(".")
        for cls in classes:
            owner = getattr(owner, cls)
        return vars(owner)[name]


@contextmanager
def standing_in(adapter: EngineAdapter, version: str) -> Iterator[StandIn]:
    made = StandIn(adapter, version)
    before = {name: sys.modules.get(name) for name in made.modules}
    forget(*made.modules)
    sys.modules.update(made.modules)
    try:
        yield made
    finally:
        forget(*made.modules)
        sys.modules.update({name: module for name, module in before.items() if module is not None})


@pytest.fixture(params=["oldest", "newest"])
def stand_in(request: pytest.FixtureRequest, adapter: EngineAdapter) -> Iterator[StandIn]:
    with standing_in(adapter, adapter.tested[request.param == "newest"]) as made:
        yield made


@pytest.fixture
def patcher(stand_in: StandIn) -> Iterator[Patcher]:
    made = Patcher(stand_in.adapter.name, lambda: stand_in.version)
    yield made
    made.undo()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder(lambda _: None, interval_s=0.001)
    yield made
    made.stop()


# ---------------------------------------------------------------- attach and undo


def test_the_table_is_all_that_is_attached(stand_in: StandIn, patcher: Patcher, recorder: Recorder) -> None:
    stand_in.adapter.attach(recorder, patcher)
    assert {attachment.point for attachment in patcher.attachments} == set(stand_in.adapter.hooks)
    states = {attachment.point: attachment.state for attachment in patcher.attachments}
    assert {states[point] for point in stand_in.points} == {"attached"}
    assert {states[point] for point in stand_in.adapter.hooks if point not in stand_in.points} <= {
        "out of range",
        "waiting",
    }


def test_attaching_twice_is_attaching_once(stand_in: StandIn, patcher: Patcher, recorder: Recorder) -> None:
    originals = {point: stand_in.resolved(point) for point in stand_in.points}
    stand_in.adapter.attach(recorder, patcher)
    once = {point: stand_in.resolved(point) for point in stand_in.points}
    stand_in.adapter.attach(recorder, patcher)
    for point, original in originals.items():
        hooked = stand_in.resolved(point)
        assert hooked is once[point]
        while hooked is not original:  # one row may be heard in two kinds
            hooked = hooked.__wrapped__


def test_undo_restores_the_very_objects(stand_in: StandIn, patcher: Patcher, recorder: Recorder) -> None:
    originals = {point: stand_in.resolved(point) for point in stand_in.points}
    stand_in.adapter.attach(recorder, patcher)
    assert all(stand_in.resolved(point) is not original for point, original in originals.items())
    patcher.undo()
    assert all(stand_in.resolved(point) is original for point, original in originals.items())


def test_out_of_range_nothing_is_touched_and_one_message_says_so(
    engine: str, adapter: EngineAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    if any(point.covers(ANCIENT) for point in adapter.hooks):
        pytest.fail(f"{engine} claims to hold for {ANCIENT}")
    handle = Handle(Settings(edge=False), Environment.read({}))
    with standing_in(adapter, adapter.tested[1]) as made:
        for package in adapter.packages:
            made.modules[package].__version__ = ANCIENT  # type: ignore[attr-defined]
        originals = {point: made.resolved(point) for point in made.points}
        handle.watch({engine: ENGINES[engine]})
        handle.watch({engine: ENGINES[engine]})
        assert all(made.resolved(point) is original for point, original in originals.items())
    handle.stop()
    (reported,) = caplog.messages
    assert reported.startswith(f"ai-otel: {engine} {ANCIENT} is not observed: the hooks cover >=")
    assert reported.endswith("Use such a version, or upgrade ai-otel.")


# ---------------------------------------------------------------- any arguments


class Odd:
    """Nothing like what the engine passes."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"there is no {name}")


GIVEN: list[Any] = [None, 0, "text", {}, [], object(), Odd()]


@pytest.mark.parametrize("given", GIVEN, ids=lambda given: type(given).__name__)
def test_the_engine_is_called_once_with_any_arguments(
    stand_in: StandIn, patcher: Patcher, recorder: Recorder, given: Any
) -> None:
    originals = {point: stand_in.resolved(point) for point in stand_in.points}
    stand_in.adapter.attach(recorder, patcher)
    broken = RuntimeError("the engine's own")
    for point in originals:
        hooked, arguments = stand_in.resolved(point), dict.fromkeys(point.reads, given)
        # As a plain call of the class's function: the instance is as odd as the rest.
        instance = (given,) if "." in point.path else ()
        bound = hooked.__get__(None, type) if instance else hooked
        for stand_in.answer in (object(), broken):
            stand_in.calls.clear()
            result: Any = None
            try:
                result = bound(*instance, **arguments)
            except RuntimeError as error:
                result = error
            assert result is stand_in.answer, point.target
            ((rest, named),) = stand_in.calls
            assert rest == ()
            named.pop("self", None)
            assert named.keys() == arguments.keys()
            assert all(value is given for value in named.values())
