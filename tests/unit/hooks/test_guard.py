from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pytest

from ai_otel.hooks import guard as guards
from ai_otel.hooks.guard import FAILURES_IN_A_ROW, Guard, strict


def fail(error: BaseException) -> NoReturn:
    raise error


def test_what_a_hook_returns_is_returned() -> None:
    assert Guard("g")(lambda a, b: (a, b), 1, 2) == (1, 2)


def test_a_failure_is_counted_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard("g")
    for _ in range(3):
        assert guard(fail, ValueError("boom")) is None
    assert guards.errors == {"g": 3}
    (reported,) = caplog.records
    assert "hook g failed" in reported.getMessage()
    assert "the server is not affected" in reported.getMessage()
    assert reported.exc_info is not None


@pytest.mark.fault(
    "requests", "a hook fails ten times in a row", "it is switched off, counted and logged; the server runs on"
)
def test_ten_failures_in_a_row_switch_a_hook_off(caplog: pytest.LogCaptureFixture) -> None:
    guard, calls = Guard("g"), []
    for _ in range(FAILURES_IN_A_ROW + 5):
        guard(lambda: calls.append(1) or fail(ValueError()))
    assert len(calls) == FAILURES_IN_A_ROW
    assert guard.off
    assert guards.disabled == {"g"}
    assert guards.errors == {"g": FAILURES_IN_A_ROW}
    assert "hook g is off after 10 failures in a row" in caplog.messages[-1]
    assert guard(lambda: 1) is None


def test_a_lasting_guard_is_never_switched_off() -> None:
    guard = Guard("g", lasting=True)
    for _ in range(2 * FAILURES_IN_A_ROW):
        assert guard(fail, ValueError()) is None
    assert guard(lambda: "well") == "well"
    assert guards.disabled == set()
    assert guards.errors == {"g": 2 * FAILURES_IN_A_ROW}


def test_one_success_resets_the_count() -> None:
    guard = Guard("g")
    for _ in range(3):
        for _ in range(FAILURES_IN_A_ROW - 1):
            guard(fail, ValueError())
        assert guard(lambda: "well") == "well"
    assert not guard.off
    assert guards.disabled == set()


@pytest.mark.fault(
    "requests",
    "an engine's Rust extension panics while a hook reads one of its objects (PyO3's `PanicException`)",
    "the request is served, and the failure is counted",
)
def test_a_panic_of_a_rust_extension_is_suppressed() -> None:
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    assert Guard("g")(fail, panic("called `Option::unwrap()` on a `None` value")) is None
    assert guards.errors == {"g": 1}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_on_a_thread_of_ai_otel_everything_is_suppressed(error: BaseException) -> None:
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(Guard("g", alone=True), fail, error).result() is None
        assert isinstance(thread.submit(Guard("g"), fail, error).exception(), type(error))
    assert guards.errors == {"g": 1}
    with pytest.raises(type(error)):
        Guard("g", alone=True)(fail, error)


def test_a_lasting_guard_is_never_off() -> None:
    guard = Guard("g", alone=True, lasting=True)
    for _ in range(FAILURES_IN_A_ROW + 5):
        guard(fail, ValueError())
    assert guard(lambda: "well") == "well"
    assert guards.disabled == set()
    assert guards.errors == {"g": FAILURES_IN_A_ROW + 5}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError(), GeneratorExit()])
@pytest.mark.fault("requests", "a cancellation, exit or interrupt arrives inside a hook", "it reaches the application")
def test_cancellation_exit_and_interrupts_are_the_servers(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        Guard("g")(fail, error)
    assert raised.value is error
    assert guards.errors == {}


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


def endless() -> NoReturn:
    endless()
    raise AssertionError


@pytest.mark.parametrize("hook", [lambda: fail(Mute()), endless], ids=["no words", "no stack"])
def test_a_failure_that_cannot_be_reported_is_counted(hook: object) -> None:
    assert Guard("g")(hook) is None  # type: ignore[arg-type]
    assert guards.errors == {"g": 1}


@pytest.mark.fault(
    "requests", "the log handler raises while a failure is logged", "the exception does not reach the server"
)
def test_a_log_handler_that_raises_does_not_reach_the_server() -> None:
    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise OSError(f"disk full: {record.name}")

    broken, guard = Broken(), Guard("g")
    guards.log.addFilter(broken)
    try:
        for _ in range(FAILURES_IN_A_ROW):
            assert guard(fail, ValueError()) is None
    finally:
        guards.log.removeFilter(broken)
    assert guards.errors == {"g": FAILURES_IN_A_ROW}
    assert guard.off


def test_in_tests_a_failure_is_kept_and_comes_through() -> None:
    error = ValueError("boom")
    with strict() as failures, pytest.raises(ValueError, match="boom"):
        Guard("g")(fail, error)
    assert failures == [error]
    assert Guard("g")(fail, error) is None


def test_a_failure_without_a_caller_is_only_kept() -> None:
    error = ValueError("boom")
    with strict() as failures:
        assert Guard("g", alone=True)(fail, error) is None
    assert failures == [error]


class Deadline(Exception):
    """What an application's signal handler raises."""


class Handler:
    """A handler that is an object."""

    def __call__(self, *_: object) -> None:
        raise Deadline

    def method(self, *_: object) -> None:
        deep()


def deep() -> None:
    raise Deadline


def plain(*_: object) -> None:
    deep()


@pytest.mark.parametrize(
    "handler",
    [plain, Handler(), Handler().method, functools.partial(plain, 1)],
    ids=["function", "object", "method", "partial"],
)
@pytest.mark.fault("requests", "a signal handler raises inside a hook", "the exception reaches the application")
def test_what_a_signal_handler_raises_inside_a_hook_is_the_applications(handler: Any) -> None:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        for hook in (lambda: signal.raise_signal(signal.SIGUSR1), lambda: os.kill(os.getpid(), signal.SIGUSR1)):
            with pytest.raises(Deadline):
                Guard("g")(hook)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert guards.errors == {}


def test_a_handlers_exception_comes_out_of_every_interrupted_hook() -> None:
    """In a tight loop, where the signal arrives between any two instructions."""

    def alarm(*_: object) -> None:
        raise Deadline

    def hook() -> int:
        return sum(range(50))

    before = signal.signal(signal.SIGALRM, alarm)
    guard, raised = Guard("g"), 0
    try:
        for _ in range(100):
            try:
                # Repeated: an exception raised inside a callback of the garbage collector is lost.
                signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.1)
                while True:
                    guard(hook)
            except Deadline:
                signal.setitimer(signal.ITIMER_REAL, 0)
                raised += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert raised == 100
    assert guards.errors == {}


def test_the_same_exception_raised_by_a_hook_itself_is_swallowed() -> None:
    assert Guard("g")(deep) is None
    assert guards.errors == {"g": 1}


@pytest.mark.fault("requests", "a hook is switched off while requests run", "their records are closed")
def test_a_guard_that_is_off_still_closes_what_is_open() -> None:
    guard = Guard("g")
    for _ in range(FAILURES_IN_A_ROW):
        guard(fail, ValueError())
    assert guard(lambda: 1) is None
    assert guard.finish(lambda: 1) == 1
