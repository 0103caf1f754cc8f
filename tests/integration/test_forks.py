"""A fork and the threads of ai-otel: who waits for whom, and for how long."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ai_otel import start
from ai_otel.hooks.forks import FORKS, STEP_S
from isolated import python

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


@contextmanager
def holding(held_s: float, at_most_s: float = 10.0) -> Iterator[threading.Event]:
    """A thread of ai-otel that holds forks off for `held_s` seconds, and an event that is set when it is done."""
    begun, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with FORKS.held_off(at_most_s):
            begun.set()
            time.sleep(held_s)
            ended.set()

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(10)
    yield ended
    thread.join()


def in_a_child(work: Callable[[], Any]) -> tuple[bool, float]:
    """Whether `work` was true in a forked child, and the seconds that the fork took."""
    started_s = time.monotonic()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        try:
            held = bool(work())
        finally:
            os._exit(0 if held else 1)
    took_s = time.monotonic() - started_s
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, took_s


def can_hold() -> bool:
    """Whether the gate is free, also for another thread."""
    with holding(0) as ended:
        return ended.wait(5)


def test_a_fork_waits_until_the_work_is_done() -> None:
    with holding(0.3) as ended:
        right, _ = in_a_child(lambda: ended.is_set() and can_hold())
    assert right
    assert can_hold()


def test_a_fork_does_not_wait_for_work_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    with holding(2.0, 0.2) as ended:
        for _ in range(2):  # the second does not wait at all
            right, took_s = in_a_child(lambda: not ended.is_set() and can_hold())
            assert right
            assert took_s < 1.5
        assert not ended.is_set()
    assert can_hold()
    assert len(caplog.messages) == 1
    FORKS._logged = False


@pytest.mark.fault(
    "requests",
    "the application forks at the instant when the first engine is imported on another thread",
    "neither the fork nor a later one waits or logs",
)
def test_a_gate_that_is_made_during_a_fork_leaves_that_fork_alone() -> None:
    code = """
import concurrent.futures.thread, os, sys

def before():
    if "ai_otel.hooks.forks" not in sys.modules:
        import ai_otel.hooks.forks

os.register_at_fork(before=before)
for _ in range(2):
    child = os.fork()
    if child == 0:
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert python(code, limit_s=30).split() == ["0", "0"]


def test_a_fork_from_inside_the_work_does_not_wait_for_itself() -> None:
    with FORKS.held_off():
        right, took_s = in_a_child(can_hold)
    assert right
    assert took_s < STEP_S
    assert can_hold()


def test_the_child_of_a_fork_inside_the_work_ends_the_block() -> None:
    child = 0
    with FORKS.held_off():
        child = os.fork()
    if child == 0:
        os._exit(0 if can_hold() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_fork_in_a_signal_handler_that_interrupts_another_fork() -> None:
    inner: list[tuple[bool, float]] = []
    before = signal.signal(signal.SIGALRM, lambda *_: inner.append(in_a_child(can_hold)))
    try:
        with holding(0.5) as ended:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            outer, _ = in_a_child(lambda: ended.is_set() and can_hold())
    finally:
        signal.signal(signal.SIGALRM, before)
    assert outer
    assert [right for right, _ in inner] == [True]
    assert can_hold()


def test_work_without_a_pause_does_not_starve_a_fork() -> None:
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            with FORKS.held_off():
                time.sleep(0.001)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            right, took_s = in_a_child(can_hold)
            assert right
            assert took_s < STEP_S
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def test_a_fork_while_another_thread_instruments_leaves_no_lock_in_the_child() -> None:
    with start._lock:
        right, _ = in_a_child(lambda: start.instrument(engines=("none",)).active)
    assert right


def test_a_fork_whose_beginning_was_interrupted_frees_the_gate() -> None:
    FORKS._before()
    FORKS._after()
    FORKS._after()
    assert can_hold()
    FORKS._logged = False
