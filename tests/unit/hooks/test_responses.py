"""The caller gets the same response from every kind of function, and one listener observes it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any

import pytest

from ai_otel.hooks.arguments import Arguments
from ai_otel.hooks.guard import Guard, strict
from ai_otel.hooks.responses import INSIDE, answered


@pytest.fixture(autouse=True)
def failures_come_through() -> Iterator[None]:
    with strict():
        yield


class Log:
    """A watch that remembers."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.ends: list[tuple[BaseException | None, bool]] = []
        self.last: Any = None
        self.item: Callable[[Any], None] | None = self.items.append

    def ended(self, error: BaseException | None, *, closed: bool) -> None:
        self.ends.append((error, closed))


class Broke(Exception):
    pass


def call(function: Callable[..., Any], watch: Log, *args: Any, **kwargs: Any) -> Any:
    arguments = Arguments({"prompt": 0, "callback": 1}, args, kwargs)
    return answered(function, arguments, "callback", watch, Guard("test"))


# ---------------------------------------------------------------- whole


def test_a_whole_answer_is_its_one_item() -> None:
    watch, answer = Log(), object()
    assert call(lambda prompt: answer, watch, "p") is answer
    assert (watch.items, watch.last, watch.ends) == ([answer], answer, [(None, False)])


def test_an_exception_comes_out_and_is_reported() -> None:
    watch, error = Log(), Broke()

    def broken(prompt: str) -> None:
        raise error

    with pytest.raises(Broke) as raised:
        call(broken, watch, "p")
    assert raised.value is error
    assert (watch.items, watch.ends) == ([], [(error, False)])


# ---------------------------------------------------------------- an iterator


@pytest.mark.parametrize("make", [lambda _: (n for n in (1, 2)), lambda _: iter([1, 2])], ids=["generator", "iterator"])
def test_an_iterator_comes_back_watched(make: Callable[[str], Any]) -> None:
    watch = Log()
    stream = call(make, watch, "p")
    assert isinstance(stream, GeneratorType) == isinstance(make("p"), GeneratorType)
    assert watch.ends == []
    assert list(stream) == watch.items == [1, 2]
    assert watch.ends == [(None, False)]


def test_a_dropped_iterator_is_a_closed_one() -> None:
    watch = Log()
    stream = call(lambda _: (n for n in (1, 2)), watch, "p")
    next(stream)
    del stream
    gc.collect()
    assert watch.ends == [(None, True)]


# ---------------------------------------------------------------- a callback


def pieces(prompt: str, callback: Callable[[Any], Any]) -> str:
    for piece in prompt:
        try:
            if callback(piece):
                return "stopped"
        except Broke:
            return "broke"
    return "all"


@pytest.mark.parametrize("by_name", [False, True])
def test_a_callback_gets_the_same_pieces_and_the_call_returns_the_same(by_name: bool) -> None:
    watch, got = Log(), []
    arguments = ((), {"prompt": "abc", "callback": got.append}) if by_name else (("abc", got.append), {})
    assert call(pieces, watch, *arguments[0], **arguments[1]) == "all"
    assert got == watch.items == ["a", "b", "c"]
    assert (watch.last, watch.ends) == ("c", [(None, False)])


def test_a_callback_that_stops_has_closed() -> None:
    watch = Log()
    assert call(pieces, watch, "abc", lambda piece: piece == "b") == "stopped"
    assert (watch.items, watch.ends) == (["a", "b"], [(None, True)])


def test_a_callback_that_raises_raises_to_its_caller_and_has_closed() -> None:
    watch = Log()

    def broken(_: str) -> None:
        raise Broke

    assert call(pieces, watch, "abc", broken) == "broke"
    assert (watch.items, watch.ends) == (["a"], [(None, True)])


def test_the_callback_passes_for_what_it_is() -> None:
    def mine(_: str) -> None:
        """Mine."""

    def answer(prompt: str, callback: Any) -> tuple[str, str]:
        return callback.__name__, callback.__doc__

    assert call(answer, Log(), "p", mine) == ("mine", "Mine.")


def test_a_callback_that_is_none_is_passed_on_as_it_is() -> None:
    watch = Log()
    assert call(lambda prompt, callback: callback, watch, "p", None) is None
    assert watch.ends == [(None, False)]


# ---------------------------------------------------------------- inside


def test_what_runs_inside_a_call_can_see_it() -> None:
    watch = Log()
    assert call(lambda prompt: INSIDE.get(), watch, "p") is watch
    assert INSIDE.get() is None


def test_the_steps_of_an_iterator_are_inside_and_its_consumer_is_not() -> None:
    watch = Log()

    def steps(prompt: str) -> Iterator[Any]:
        yield INSIDE.get()
        yield INSIDE.get()

    seen = []
    for item in call(steps, watch, "p"):
        seen += [item, INSIDE.get()]
    assert seen == [watch, None, watch, None]


def test_a_callback_runs_outside() -> None:
    seen: list[Any] = []
    call(pieces, Log(), "a", lambda _: seen.append(INSIDE.get()))
    assert seen == [None]


def test_an_inner_call_gives_way_to_the_outer_one() -> None:
    outer, inner = Log(), Log()
    seen = []

    def calls(prompt: str) -> None:
        seen.append(call(lambda prompt: INSIDE.get(), inner, "p"))
        seen.append(INSIDE.get())

    call(calls, outer, "p")
    assert seen == [inner, outer]
