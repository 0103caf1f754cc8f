"""What needs no thread; `tests/integration/test_threads.py` runs them."""

from __future__ import annotations

import threading

import pytest

from ai_otel.hooks.daemon import DaemonThread


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
