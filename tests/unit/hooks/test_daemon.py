"""What needs no thread; `tests/integration/test_threads.py` runs them."""

from __future__ import annotations

import threading

import pytest

from ai_otel.hooks.daemon import DaemonThread, at_once


def test_a_thread_that_cannot_be_started_can_be_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    daemon = DaemonThread("d", lambda: None)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert not daemon.start()
    assert not daemon.started
    assert not daemon.alive
    assert daemon.start()
    assert daemon.start()
    assert daemon.stop(5)


def test_a_thread_that_was_never_started_stops_at_once() -> None:
    assert DaemonThread("d", lambda: pytest.fail("called")).stop(0)


def test_calls_are_made_at_once_and_one_that_fails_is_counted() -> None:
    both = threading.Barrier(2)

    def meet() -> int:
        return both.wait(5)

    assert sorted(map(str, at_once("meet", [meet, meet]))) == ["0", "1"]
    assert at_once("divide", [lambda: 1 / 0, lambda: "made"]) == [None, "made"]
    assert at_once("nothing", []) == []


def test_where_no_thread_can_be_started_calls_are_made_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert at_once("one by one", [lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]
