"""Work that a request gives to threads belongs to the request; everything else is as without ai-otel."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from ai_otel.hooks.guard import strict
from ai_otel.hooks.patch import Patcher
from ai_otel.http.workers import START, SUBMIT, WorkerInstrumentation
from ai_otel.record import RequestRecord
from ai_otel.recorder import CURRENT


@pytest.fixture
def record() -> Iterator[RequestRecord]:
    """The record of a request that is being served."""
    hooks = Patcher("python")
    WorkerInstrumentation().attach(hooks)
    made = RequestRecord("chat")
    token = CURRENT.set(made)
    with strict():
        yield made
    CURRENT.reset(token)
    hooks.undo()


def seen() -> RequestRecord | None:
    return CURRENT.get()


def named(value: int, *, more: int = 0) -> int:
    """A function of a module."""
    return value + more


@pytest.mark.fault(
    "requests",
    "a handler computes the answer in a thread pool, in `run_in_executor` or in a thread of its own",
    "what is reported there belongs to the request: one span, one duration",
)
def test_a_pool_takes_the_record_along(record: RequestRecord) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(seen).result() is record
        assert list(pool.map(lambda _: seen(), range(3))) == [record] * 3

        async def run() -> RequestRecord | None:
            return await asyncio.get_running_loop().run_in_executor(pool, seen)

        assert asyncio.run(run()) is record
        token = CURRENT.set(None)
        assert pool.submit(seen).result() is None
        CURRENT.reset(token)
        record.closed = True
        assert pool.submit(seen).result() is None


def test_a_thread_takes_the_record_along(record: RequestRecord) -> None:
    found: list[Any] = []
    for target in (lambda: found.append(seen()), Appending(found).run):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    sub = Appending(found)
    sub.start()
    sub.join()
    assert found == [record] * 3
    assert "run" not in vars(sub)


class Appending(threading.Thread):
    """A thread with a `run` of its own."""

    def __init__(self, found: list[Any]) -> None:
        super().__init__(name="appending")
        self.found = found

    def run(self) -> None:
        self.found.append(seen())


def test_a_daemon_that_a_request_starts_serves_all_requests(record: RequestRecord) -> None:
    found: list[Any] = []
    inner = threading.Thread(target=lambda: found.append(seen()), daemon=True)

    def serve() -> None:
        CURRENT.set(record)
        child = threading.Thread(target=lambda: found.append(seen()))
        child.start()
        child.join()

    outer = threading.Thread(target=serve, daemon=True)
    for thread in (inner, outer):
        thread.start()
        thread.join()
    assert found == [None, record]
    assert record.closed is False


def test_a_thread_that_a_pool_starts_belongs_to_no_request(record: RequestRecord) -> None:
    begun: list[Any] = []
    with ThreadPoolExecutor(1, initializer=lambda: begun.append(seen())) as pool:
        assert pool.submit(seen).result() is record
    assert begun == [None]


class Noting(ThreadPoolExecutor):
    """A pool that keeps what it is given."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.given = fn
        return super().submit(fn, *args, **kwargs)


def test_functions_arguments_errors_and_names_are_unchanged(record: RequestRecord) -> None:
    with Noting(1, thread_name_prefix="mine") as pool:
        assert pool.submit(named, 1, more=2).result() == 3
        assert pool.given is named
        assert pickle.loads(pickle.dumps(pool.given)) is named
        assert pool.submit(lambda: threading.current_thread().name).result().startswith("mine")
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 // 0).result()
        with pytest.raises(TypeError):
            pool.submit()  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            pool.submit(3).result()  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        pool.submit(named, 1)
    assert seen() is record


def test_a_thread_that_cannot_start_is_left_as_it_was(record: RequestRecord) -> None:
    thread = threading.Thread(target=seen)
    thread.start()
    thread.join()
    with pytest.raises(RuntimeError, match="once"):
        thread.start()
    assert "run" not in vars(thread)


def test_a_thread_with_an_exception_reports_it_once(record: RequestRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    thread = threading.Thread(target=lambda: 1 // 0)
    thread.start()
    thread.join()
    assert [each.exc_type for each in reported] == [ZeroDivisionError]


def test_pools_of_processes_are_not_touched(record: RequestRecord) -> None:
    assert "__wrapped__" not in vars(vars(ProcessPoolExecutor)["submit"])
    assert "__wrapped__" not in vars(vars(Executor)["submit"])


def test_undone_the_originals_are_back() -> None:
    submit, start = vars(ThreadPoolExecutor)["submit"], vars(threading.Thread)["start"]
    hooks = Patcher("python")
    WorkerInstrumentation().attach(hooks)
    assert {attachment.state for attachment in hooks.attachments} == {"attached"}
    assert {attachment.point for attachment in hooks.attachments} == {START, SUBMIT}
    hooks.undo()
    assert (vars(ThreadPoolExecutor)["submit"], vars(threading.Thread)["start"]) == (submit, start)
