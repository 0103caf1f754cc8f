"""
Has one thread read other values of environment variables than the process has.

The SDK reads `os.environ` when its modules are imported and when its objects are made, and fails for a value that it
cannot read. The variables belong to the application: its other threads and its child processes must see them as they
are, so they are not changed. What one thread reads is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_views: dict[int, Mapping[str, str | None]] = {}
"""Thread → what it reads in place of the process's values; `None` is an unset variable."""
_processes: dict[int, Mapping[str, str | None]] = {}
"""Thread → that part of it which stands for another process's environment."""
_lock = threading.Lock()
_Plain: type[Any] = os._Environ  # noqa: SLF001 - the class has no public name


class _Viewed(_Plain):  # type: ignore[misc]
    """The process's environment, of which some threads read a variant. It has the attributes of its base only."""

    def __getitem__(self, name: str) -> str:
        view = _views.get(threading.get_ident())
        if view is None or name not in view:
            return str(super().__getitem__(name))
        value = view[name]
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        view = _views.get(threading.get_ident(), {})
        names = [name for name in super().__iter__() if name not in view]
        return iter([*names, *(name for name, value in view.items() if value is not None)])


@contextmanager
def read_as(values: Mapping[str, str | None], *, another_process: bool = False) -> Iterator[None]:
    """
    Have this thread read these values until the block ends; `None` stands for an unset variable.

    `another_process`: they are the variables of a process that is examined, so `process_variables` has them too.
    """
    thread = threading.get_ident()
    before = _views.get(thread), _processes.get(thread)
    with _lock:
        _views[thread] = {**(before[0] or {}), **values}
        if another_process:
            _processes[thread] = values
        _set_class(_Viewed)
    try:
        yield
    finally:
        with _lock:
            for views, view in zip((_views, _processes), before, strict=True):
                views.pop(thread, None)
                if view is not None:
                    views[thread] = view
            if not _views:
                _set_class(_Plain)


def _set_class(wanted: type) -> None:
    """An application may have put a mapping of its own there: the SDK then reads that one as it is."""
    if isinstance(os.environ, _Plain):
        os.environ.__class__ = wanted


def process_variables() -> dict[str, str]:
    """The variables of this process, or of the one that this thread examines, as they were set."""
    thread = threading.get_ident()
    view = _views.pop(thread, None)
    try:
        real: dict[str, str | None] = dict(os.environ)
    finally:
        if view is not None:
            _views[thread] = view
    return {name: value for name, value in {**real, **_processes.get(thread, {})}.items() if value is not None}


def _after_fork() -> None:
    """Keep the view of the thread that forked; the others, and a lock that one of them held, did not come along."""
    global _lock  # noqa: PLW0603 - a lock cannot be reset
    _lock = threading.Lock()
    for views in (_views, _processes):
        for thread in [each for each in views if each != threading.get_ident()]:
            del views[thread]
    if not _views:
        _set_class(_Plain)


os.register_at_fork(after_in_child=_after_fork)
