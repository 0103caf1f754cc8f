from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wrapt

from ai_otel.hooks.arguments import Arguments
from ai_otel.hooks.guard import strict
from ai_otel.hooks.patch import Patcher, imported_version
from ai_otel.hooks.point import HookPoint, Rung
from fake_engine import MODULE, at, fresh, install


@pytest.fixture(autouse=True)
def failures_come_through() -> Iterator[None]:
    with strict():
        yield


@pytest.fixture
def engine() -> Iterator[Any]:
    with install() as module:
        yield module


@pytest.fixture
def patcher() -> Iterator[Patcher]:
    made = Patcher("fake", lambda: "1.5")
    yield made
    made.undo()


class Heard:
    """Records the calls of a hook."""

    def __init__(self) -> None:
        self.before: list[Any] = []
        self.after: list[Any] = []

    def listen(self, instance: Any, arguments: Arguments) -> object:
        self.before.append((instance, arguments.get("a"), arguments.get("b")))
        return self

    def ended(self, state: Any, result: Any, error: BaseException | None) -> None:
        assert state is self
        self.after.append((result, error))


def state_of(patcher: Patcher) -> list[str]:
    return [attachment.state for attachment in patcher.attachments]


# ---------------------------------------------------------------- arguments by name


@pytest.mark.parametrize(
    ("args", "kwargs"), [((1, 2), {}), ((1,), {"b": 2}), ((), {"b": 2, "a": 1})], ids=["places", "both", "names"]
)
def test_arguments_are_read_by_name_wherever_the_caller_put_them(
    engine: Any, patcher: Patcher, args: Any, kwargs: Any
) -> None:
    heard, server = Heard(), engine.Server()
    patcher.call(at("Server.call"), heard.listen)
    server.call(*args, **kwargs)
    engine.Server.call(server, *args, **kwargs)
    assert heard.before == [(server, 1, 2), (server, 1, 2)]


def test_what_the_caller_left_out_is_none_or_the_default() -> None:
    arguments = Arguments({"a": 0, "b": 1}, ("first",), {"c": None})
    assert arguments.get("a") == "first"
    assert arguments.get("b") is None
    assert arguments.get("b", "fallback") == "fallback"
    assert arguments.get("c", "fallback") is None
    assert arguments.get("unheard of", 7) == 7


@pytest.mark.parametrize("path", ["plain", "Server.static", "Server.of_class", "Server.inherited", "Child.call"])
def test_every_kind_of_function_is_heard_by_name(engine: Any, patcher: Patcher, path: str) -> None:
    heard = Heard()
    owner, name = engine, path
    if "." in path:
        cls, name = path.split(".")
        owner = getattr(engine, cls)()
    expected = getattr(owner, name)(1, b=2)
    patcher.call(at(path), heard.listen, heard.ended)
    assert getattr(owner, name)(1, b=2) == expected
    assert heard.before[0][1:] == (1, 2)
    assert heard.after == [(expected, None)]


def test_a_class_method_is_heard_on_class_and_instance(engine: Any, patcher: Patcher) -> None:
    heard = Heard()
    patcher.call(at("Server.of_class"), heard.listen)
    assert engine.Server.of_class(1) == (engine.Server, 1, None)
    assert engine.Child().of_class(1, 2) == (engine.Child, 1, 2)
    assert [(a, b) for _, a, b in heard.before] == [(1, None), (1, 2)]


# ---------------------------------------------------------------- kinds


def test_a_hook_without_a_state_does_not_receive_the_end(engine: Any, patcher: Patcher) -> None:
    heard = Heard()
    patcher.call(at("Server.call"), lambda *_: None, heard.ended)
    engine.Server().call(1)
    assert heard.after == []


def test_the_same_exception_comes_out(engine: Any, patcher: Patcher) -> None:
    heard, broken = Heard(), ValueError("the engine's own")

    def answer(_: Any) -> None:
        raise broken

    server = engine.Server(answer)
    patcher.call(at("Server.call"), heard.listen, heard.ended)
    patcher.coroutine(at("Server.coroutine"), heard.listen, heard.ended)
    with pytest.raises(ValueError, match="own") as raised:
        server.call(1)
    assert raised.value is broken
    with pytest.raises(ValueError, match="own") as raised:
        asyncio.run(server.coroutine(1))
    assert raised.value is broken
    assert heard.after == [(None, broken), (None, broken)]


def test_the_result_of_a_coroutine_is_reported(engine: Any, patcher: Patcher) -> None:
    heard, result = Heard(), object()
    server = engine.Server(lambda _: result)
    patcher.coroutine(at("Server.coroutine"), heard.listen, heard.ended)
    assert inspect.iscoroutinefunction(server.coroutine)
    assert asyncio.run(server.coroutine(1)) is result
    assert heard.after == [(result, None)]


def test_an_outcome_is_reported_without_a_state(engine: Any, patcher: Patcher) -> None:
    outcomes: list[Any] = []
    patcher.after_call(at("Server.call"), lambda result, error: outcomes.append((result, error)))
    server = engine.Server()
    result = server.call(1)
    with pytest.raises(TypeError, match="missing 1 required") as raised:
        server.call()
    assert outcomes == [(result, None), (None, raised.value)]


def test_the_end_of_a_call_is_reported_with_its_arguments(engine: Any, patcher: Patcher) -> None:
    ended: list[Any] = []
    patcher.call_ended(at("Server.call"), lambda *given: ended.append((given[0], given[1].get("a"), given[2])))
    server, broken = engine.Server(), ValueError()
    assert server.call(1) == (server, 1, None, (), {})

    def answer(_: Any) -> None:
        raise broken

    failing = engine.Server(answer)
    with pytest.raises(ValueError, match=r"^$"):
        failing.call(2)
    assert ended == [(server, 1, None), (failing, 2, broken)]


def test_a_coroutine_that_is_called_wrongly_is_reported(engine: Any, patcher: Patcher) -> None:
    heard = Heard()
    patcher.coroutine(at("Server.coroutine"), heard.listen, heard.ended)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        engine.Server().coroutine()
    assert [type(error) for _, error in heard.after] == [TypeError]


def test_around_serves_only_what_it_wants(engine: Any, patcher: Patcher) -> None:
    patcher.around(
        at("Server.call"),
        lambda _, arguments: arguments.get("a") == "mine",
        lambda wrapped, *args, **kwargs: ("served", wrapped(*args, **kwargs)),
    )
    server = engine.Server(lambda given: given[1])
    assert server.call("mine") == ("served", "mine")
    assert server.call("yours") == "yours"


def test_defaults_add_what_the_caller_left_out_and_nothing_else(engine: Any, patcher: Patcher) -> None:
    patcher.defaults(at("Server.call"), lambda *_: {"b": "added", "new": "added"})
    server = engine.Server(lambda given: given[1:])
    assert server.call(1) == (1, "added", (), {"new": "added"})
    assert server.call(1, b=None) == (1, None, (), {"new": "added"})
    assert server.call(1, 2, new="theirs") == (1, 2, (), {"new": "theirs"})  # by its place


def test_defaults_may_add_nothing(engine: Any, patcher: Patcher) -> None:
    patcher.defaults(at("Server.call"), lambda *_: None)
    assert engine.Server(lambda given: given[1:]).call(1, z=2) == (1, None, (), {"z": 2})


def test_an_answer_in_one_piece_is_the_one_item_of_its_stream(engine: Any, patcher: Patcher) -> None:
    reported: list[Any] = []

    class Watch:
        last: Any = None
        item = staticmethod(reported.append)

        def ended(self, error: BaseException | None, *, closed: bool) -> None:
            reported.append((self.last, error, closed))

    whole = {"text": "hello"}
    patcher.stream(at("whole_or_pieces"), lambda *_: Watch())
    assert engine.whole_or_pieces(whole) is whole
    assert reported == [whole, (whole, None, False)]
    reported.clear()
    assert list(engine.whole_or_pieces("ab", stream=True)) == ["a", "b"]
    assert reported == ["a", "b", ("b", None, False)]


# ---------------------------------------------------------------- attaching


def test_a_module_that_is_not_imported_yet_is_hooked_when_it_is(
    patcher: Patcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_engine.py").write_text("def call(a, b=None):\n    return a, b\n")
    monkeypatch.syspath_prepend(tmp_path)
    heard = Heard()
    patcher.call(HookPoint("late_engine:call", ("a",), "", Rung.PUBLIC, "Late."), heard.listen)
    assert state_of(patcher) == ["waiting"]
    late = importlib.import_module("late_engine")
    assert state_of(patcher) == ["attached"]
    assert late.call(1) == (1, None)
    assert len(heard.before) == 1


def test_a_row_out_of_range_is_left_alone(engine: Any, patcher: Patcher) -> None:
    original = vars(engine.Server)["call"]
    patcher.call(at("Server.call", versions=">=2"), Heard().listen)
    assert vars(engine.Server)["call"] is original
    assert state_of(patcher) == ["out of range"]
    assert patcher.attachments[0].detail == "fake 1.5 is not >=2"


def test_an_unknown_version_does_not_keep_hooks_away(engine: Any) -> None:
    patcher = Patcher("fake")
    patcher.call(at("Server.call", versions=">=2"), Heard().listen)
    assert state_of(patcher) == ["attached"]
    patcher.undo()


@pytest.mark.parametrize("path", ["nothing", "Server.nothing", "Absent.call"])
def test_a_missing_target_is_reported_and_the_import_goes_on(
    engine: Any, patcher: Patcher, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    patcher.call(at(path), Heard().listen)
    assert state_of(patcher) == ["missing"]
    assert caplog.messages == [f"ai-otel: fake 1.5 has no {MODULE}:{path}: it is not observed"]


def test_the_same_row_twice_is_heard_once(engine: Any, patcher: Patcher) -> None:
    heard = Heard()
    for _ in range(2):
        patcher.call(at("Server.call"), heard.listen)
        patcher.defaults(at("Server.call"), lambda *_: {"b": 2})
    assert engine.Server(lambda given: given[2]).call(1) == 2
    assert len(heard.before) == 1
    assert state_of(patcher) == ["attached", "attached"]


# ---------------------------------------------------------------- undoing

PATHS = ["plain", "Server.call", "Server.static", "Server.of_class", "Server.coroutine", "Server.async_stream"]


def resolved(engine: Any, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return vars(getattr(engine, owner) if owner else engine)[name]


@pytest.mark.parametrize("path", PATHS)
def test_undo_restores_the_very_object(engine: Any, patcher: Patcher, path: str) -> None:
    original = resolved(engine, path)
    patcher.call(at(path), Heard().listen)
    assert resolved(engine, path) is not original
    patcher.undo()
    assert resolved(engine, path) is original
    assert state_of(patcher) == ["undone"]


def test_undo_of_an_inherited_function_leaves_none_behind(engine: Any, patcher: Patcher) -> None:
    heard = Heard()
    patcher.call(at("Server.inherited"), heard.listen)
    assert "inherited" in vars(engine.Server)
    engine.Parent.inherited(engine.Server(), 1)
    assert heard.before == []  # only where we listen
    patcher.undo()
    assert "inherited" not in vars(engine.Server)
    assert engine.Server.inherited is engine.Parent.inherited


def test_a_wrapper_that_was_added_later_stays(engine: Any, patcher: Patcher) -> None:
    heard, theirs = Heard(), []

    def wrap(wrapped: Callable[..., Any], _instance: Any, args: Any, kwargs: Any) -> Any:
        theirs.append(args)
        return wrapped(*args, **kwargs)

    patcher.call(at("Server.call"), heard.listen)
    wrapt.wrap_function_wrapper(MODULE, "Server.call", wrap)
    patcher.undo()
    assert engine.Server(lambda given: given[1]).call(1) == 1
    assert theirs == [(1,)]
    assert heard.before == []


def test_two_hooks_on_one_function_are_taken_off_in_turn(engine: Any, patcher: Patcher) -> None:
    original = vars(engine.Server)["call"]
    first, second = Heard(), Heard()
    patcher.call(at("Server.call"), first.listen)
    patcher.call(at("Server.call", versions=">=1"), second.listen)
    engine.Server().call(1)
    assert len(first.before) == len(second.before) == 1
    patcher.undo()
    assert vars(engine.Server)["call"] is original


def test_what_is_imported_after_undo_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "later_engine.py").write_text("def call():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    patcher = Patcher("later")
    patcher.call(HookPoint("later_engine:call", (), "", Rung.PUBLIC, "Later."), Heard().listen)
    patcher.undo()
    later = importlib.import_module("later_engine")
    assert inspect.isfunction(later.call)


# ---------------------------------------------------------------- versions


def test_the_version_is_what_the_package_says_itself(engine: Any) -> None:
    assert imported_version(MODULE, ("pytest",)) == "1.5"


@pytest.mark.parametrize("stated", [None, "main", ("1", "2")])
def test_else_it_is_the_distributions(engine: Any, stated: Any) -> None:
    engine.__version__ = stated
    assert imported_version(MODULE, ("no-such-thing", "pytest")) == pytest.__version__
    assert imported_version(MODULE, ("no-such-thing",)) is None
    assert imported_version("never_imported_package", ()) is None


def test_the_fake_is_fresh_each_time() -> None:
    assert fresh().Server is not fresh().Server
