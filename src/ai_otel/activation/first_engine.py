"""
Starts ai-otel when the process imports the first engine, or what serves HTTP: a web framework or server.

Most processes below a server never do. At their start only names are registered, because settings, hooks and what
they import take 100 ms and 16 MB. Everything in the environment but `AI_OTEL_ENABLED` is therefore read when the engine
is imported.

An adapter of another distribution says itself which packages it is for. Distributions are searched before the first
module outside the standard library is imported, so the many processes that import none do not pay for the search.
"""

from __future__ import annotations

import os
import sys

from ai_otel import activation
from ai_otel.engines import ENGINES
from ai_otel.hooks.imports import IMPORTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FRAMEWORKS = (
    *("starlette.applications", "flask.app"),
    *("uvicorn.server", "hypercorn.app_wrappers", "granian.asgi", "granian.wsgi"),
    *("gunicorn.workers.base", "gunicorn.workers.gasgi", "waitress.server", "werkzeug.serving"),
)
"""Modules whose import shows that the process may serve HTTP."""

_start: Callable[[], object] | None = None
_pid: int | None = None


def wait(start: Callable[[], object]) -> None:
    """Call `start()` after the import of an engine or a framework, at once if one is imported. It must not raise."""
    global _start, _pid
    if _start is not None:
        return
    _start, _pid = start, os.getpid()
    for engine in ENGINES.values():
        _watch(engine.packages)
    _watch(FRAMEWORKS)
    IMPORTS.before_foreign(_watch_third_parties)


def stop_waiting() -> None:
    """Leave the import of an engine or a framework without effect."""
    global _start  # noqa: PLW0603 - one for the process
    _start = None


def begin() -> None:
    """Start now: the application reports requests itself."""
    if _start is not None:
        _start()


def first_pid() -> int:
    """The process that waits first: this one, or the one that forked it."""
    return os.getpid() if _pid is None else _pid


def _watch(packages: tuple[str, ...]) -> None:
    for package in packages:
        IMPORTS.when_imported(package, _imported)


def _imported(_module: object) -> None:
    begin()


def _watch_third_parties() -> None:
    if _start is None or not activation.may_offer_engines(sys.path):
        return
    for entry in activation.third_party_engines().values():
        _watch(entry.packages)
