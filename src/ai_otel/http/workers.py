"""
Has the work that a request gives to threads belong to the request.

A context variable does not follow a function into a `ThreadPoolExecutor` (also `loop.run_in_executor`) or a `Thread`:
what an engine's hook or `ai_otel.inference` reports there would be a call of its own. Processes are not followed.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from ai_otel.hooks.arguments import Arguments
from ai_otel.hooks.patch import Patcher
from ai_otel.hooks.point import HookPoint, Rung
from ai_otel.record import RequestRecord
from ai_otel.recorder import CURRENT

SUBMIT = HookPoint(
    "concurrent.futures.thread:ThreadPoolExecutor.submit",
    reads=(),
    versions="",
    rung=Rung.PUBLIC,
    why="A request gives work to a pool of threads.",
)
START = HookPoint(
    "threading:Thread.start",
    reads=(),
    versions="",
    rung=Rung.PUBLIC,
    why="A request starts a thread.",
)


class WorkerInstrumentation:
    """Takes the current record along; where none is open, a call costs the reading of a context variable."""

    hooks = (SUBMIT, START)

    def attach(self, hooks: Patcher) -> None:
        """Register the hooks."""
        hooks.around(SUBMIT, _serves_request, _submit)
        hooks.around(START, _is_of_request, _start)


def _serves_request(_instance: object, _arguments: Arguments) -> bool:
    record = CURRENT.get()
    return record is not None and not record.closed


def _is_of_request(thread: Any, arguments: Arguments) -> bool:
    # A daemon that something else than a daemon starts lives longer than the request: it may serve all of them.
    return _serves_request(thread, arguments) and (not thread.daemon or threading.current_thread().daemon)


def _submit(submit: Callable[..., Any], executor: Any, *args: Any, **kwargs: Any) -> Any:
    record = CURRENT.get()
    if args and record is not None:
        args = (_carried(args[0], record), *args[1:])
    # A thread that the pool starts now works for others later.
    token = CURRENT.set(None)
    try:
        return submit(executor, *args, **kwargs)
    finally:
        CURRENT.reset(token)


def _carried(function: Any, record: RequestRecord) -> Any:
    if not callable(function):
        return function

    def carried(*args: Any, **kwargs: Any) -> Any:
        token = CURRENT.set(record)
        try:
            return function(*args, **kwargs)
        finally:
            CURRENT.reset(token)

    return functools.update_wrapper(carried, function, updated=())


def _start(start: Callable[..., Any], thread: Any, *args: Any, **kwargs: Any) -> Any:
    record, own = CURRENT.get(), vars(thread).get("run")
    run = thread.run

    def carried() -> None:
        _restore(thread, carried, own)
        CURRENT.set(record)  # the thread's own context, which ends with it
        run()

    thread.run = carried
    try:
        return start(thread, *args, **kwargs)
    except BaseException:
        _restore(thread, carried, own)
        raise


def _restore(thread: Any, carried: object, own: object) -> None:
    """Leave the thread as it was: it has a method `run` of its own only if it was given one."""
    if vars(thread).get("run") is not carried:
        return
    if own is None:
        del thread.run
    else:
        thread.run = own
