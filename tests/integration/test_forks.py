"""A fork and the threads of ai-otel: who waits for whom, and for how long."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import wrapt

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


# ---------------------------------------------------------------- signal handlers that raise


class Stopped(Exception):
    """What the application's signal handler raises."""


@pytest.fixture
def attached() -> Iterator[None]:
    FORKS.attach()
    yield
    FORKS.detach()


@contextmanager
def handled(number: int, exception: type[BaseException]) -> Iterator[list[int]]:
    """Have a signal's handler raise; yields the number of each signal that it got."""
    got: list[int] = []

    def handle(received: int, _frame: object) -> None:
        got.append(received)
        raise exception

    before = signal.signal(number, handle)
    try:
        yield got
    finally:
        signal.signal(number, before)


def signal_while_a_fork_waits(send: Callable[[], None]) -> threading.Thread:
    """A thread that holds the gate until a fork waits there and a signal has arrived."""
    begun = threading.Event()

    def hold() -> None:
        with FORKS.held_off(10.0):
            begun.set()
            while not FORKS._forking:
                time.sleep(0.0005)
            time.sleep(0.001)
            send()
            time.sleep(0.001)

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(10)
    return thread


def to_the_process(number: int) -> None:
    os.kill(os.getpid(), number)


def to_another_thread(number: int) -> None:
    """As the kernel does where the main thread blocks the signal: Python's handler still runs in the main thread."""
    signal.pthread_kill(threading.get_ident(), number)


@pytest.mark.fault(
    "requests",
    "a signal handler of the server raises while a fork waits for a background thread of ai-otel",
    "the exception reaches the caller of `os.fork`, and no child is made",
)
@pytest.mark.parametrize("send", [to_the_process, to_another_thread])
@pytest.mark.parametrize(
    ("number", "exception"),
    [(signal.SIGUSR1, Stopped), (signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)],
    ids=["SIGUSR1", "SIGINT", "SIGTERM"],
)
@pytest.mark.usefixtures("attached")
def test_what_a_signal_handler_raises_while_a_fork_waits_is_not_lost(
    number: int, exception: type[BaseException], send: Callable[[int], None]
) -> None:
    raised = 0
    with handled(number, exception) as got:
        for _ in range(100):
            thread = signal_while_a_fork_waits(lambda: send(number))
            child = None
            try:
                child = os.fork()
                if child == 0:
                    os._exit(0)
            except exception:
                raised += 1
            thread.join()
            if child is not None:
                os.waitpid(child, 0)
    assert (len(got), raised) == (100, 100)
    assert can_hold()
    assert FORKS._forking == []


@pytest.mark.usefixtures("attached")
def test_a_fork_that_has_waited_does_not_wait_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            with FORKS.held_off():
                time.sleep(0.005)

    took_s: list[float] = []
    before = FORKS._acquire

    def timed(lock: Any) -> None:
        started_s = time.monotonic()
        before(lock)
        took_s.append(time.monotonic() - started_s)

    monkeypatch.setattr(FORKS, "_acquire", timed)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40):
            assert in_a_child(lambda: True)[0]
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    waits, again = took_s[::2], took_s[1::2]
    assert len(waits) == len(again) == 40
    assert sorted(waits)[20] > 0.001, "the work must have been on the way"
    assert sorted(again)[30] < 0.001, "the gate stays free for the fork that has waited"


@pytest.mark.usefixtures("attached")
def test_a_fork_leaves_the_signal_mask_and_the_handlers_alone() -> None:
    def state() -> tuple[set[int], list[Any]]:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        return blocked, [signal.getsignal(number) for number in sorted(signal.valid_signals())]

    before = state()
    with holding(0.05):
        unchanged, _ = in_a_child(lambda: state() == before)
    assert unchanged
    assert state() == before


@pytest.mark.usefixtures("attached")
def test_children_of_multiprocessing_and_pseudo_terminals_wait_too() -> None:
    with holding(0.2) as ended:
        process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(7 if ended.is_set() else 1))
        process.start()
        process.join(10)
        assert process.exitcode == 7
    with holding(0.2) as ended:
        child, terminal = os.forkpty()
        if child == 0:
            os._exit(7 if ended.is_set() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        os.close(terminal)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python warns of such a fork from 3.12 on; next: run it there")
@pytest.mark.filterwarnings("default:.*multi-threaded.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("attached")
def test_pythons_warning_of_a_fork_names_the_line_of_the_application() -> None:
    with holding(0.05), pytest.warns(DeprecationWarning, match="multi-threaded") as warned:
        in_a_child(lambda: True)
    assert [each.filename for each in warned] == [__file__]


@pytest.mark.fault(
    "requests", "the application copies or pickles a function that forks", "that works as with the function itself"
)
@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("name", ["fork", "forkpty"])
def test_functions_that_fork_can_be_copied_and_pickled(name: str) -> None:
    function = getattr(os, name)
    assert copy.copy(function) is copy.deepcopy(function) is function
    assert pickle.loads(pickle.dumps(function)) == function


def test_the_functions_that_fork_are_restored() -> None:
    originals = [getattr(os, name) for name in ("fork", "forkpty")]
    FORKS.attach()
    FORKS.attach()
    assert [isinstance(getattr(os, name), wrapt.ObjectProxy) for name in ("fork", "forkpty")] == [True, True]
    FORKS.detach()
    assert [getattr(os, name) for name in ("fork", "forkpty")] == originals
    assert not isinstance(os.fork, wrapt.ObjectProxy)


def test_instrument_attaches_to_forks_and_uninstrument_detaches() -> None:
    handle = start.instrument(engines=("none",))
    try:
        assert isinstance(os.fork, wrapt.ObjectProxy)
    finally:
        handle.stop()
    assert not isinstance(os.fork, wrapt.ObjectProxy)
