"""
Where servers take their application: what no framework's hook sees is wrapped there.

A request that a framework's hook sees as well has one record: the outermost view opens it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ai_otel.hooks.arguments import Arguments
from ai_otel.hooks.patch import Patcher
from ai_otel.hooks.point import HookPoint, Rung
from ai_otel.http.application import AsgiApplication, WsgiApplication, is_asgi
from ai_otel.http.asgi import HttpMiddleware
from ai_otel.http.wsgi import WsgiMiddleware

UVICORN = HookPoint(
    "uvicorn.server:Server.startup",
    reads=(),
    versions=">=0.20",
    rung=Rung.PUBLIC,
    why="uvicorn has loaded its application and serves it from now on.",
)
HYPERCORN = tuple(
    HookPoint(
        f"hypercorn.app_wrappers:{interface}Wrapper.__call__",
        reads=("scope", "receive", "send"),
        versions=">=0.14",
        rung=Rung.INTERNAL,
        why=f"Every request of hypercorn to an {interface} application passes here.",
    )
    for interface in ("ASGI", "WSGI")
)
GRANIAN_ASGI = HookPoint(
    "granian.asgi:_callback_wrapper",
    reads=("callback",),
    versions=">=1.5,<3",
    rung=Rung.INTERNAL,
    why="A worker of granian prepares its ASGI application.",
)
GRANIAN_LIFESPAN = HookPoint(
    "granian.asgi:LifespanProtocol.__init__",
    reads=(),
    versions=">=1.5,<3",
    rung=Rung.INTERNAL,
    why="A worker of granian starts its ASGI application.",
)
GRANIAN_WSGI = HookPoint(
    "granian.wsgi:_callback_wrapper",
    reads=("callback",),
    versions=">=1.5,<3",
    rung=Rung.INTERNAL,
    why="A worker of granian prepares its WSGI application.",
)
GUNICORN = HookPoint(
    "gunicorn.workers.base:Worker.load_wsgi",
    reads=(),
    versions=">=20",
    rung=Rung.PUBLIC,
    why="A worker of gunicorn has loaded its application.",
)
GUNICORN_ASGI = HookPoint(
    "gunicorn.workers.gasgi:ASGIWorker.load_wsgi",
    reads=(),
    versions=">=24",
    rung=Rung.PUBLIC,
    why="A worker of gunicorn has loaded its ASGI application.",
)
WAITRESS = HookPoint(
    "waitress.server:BaseWSGIServer.__init__",
    reads=(),
    versions=">=2",
    rung=Rung.PUBLIC,
    why="waitress takes its application.",
)
WERKZEUG = HookPoint(
    "werkzeug.serving:BaseWSGIServer.__init__",
    reads=(),
    versions=">=2.0",
    rung=Rung.PUBLIC,
    why="Werkzeug's development server, which Flask runs, takes its application.",
)
POINTS = (
    *(UVICORN, *HYPERCORN, GRANIAN_ASGI, GRANIAN_LIFESPAN, GRANIAN_WSGI),
    *(GUNICORN, GUNICORN_ASGI, WAITRESS, WERKZEUG),
)


class ServerInstrumentation:
    """Wraps what servers take, once."""

    hooks = POINTS

    def __init__(self, asgi: HttpMiddleware, wsgi: WsgiMiddleware) -> None:
        self._asgi = asgi
        self._wsgi = wsgi

    def attach(self, patcher: Callable[[str], Patcher]) -> None:
        """Register the hooks; each waits until its server is imported. `patcher` returns that of a distribution."""
        patcher("uvicorn").call(UVICORN, self._uvicorn)
        for point in HYPERCORN:
            patcher("hypercorn").around(point, self._wants, self._serve)
        for point, wrapped in ((GRANIAN_ASGI, self._as_asgi), (GRANIAN_WSGI, self._as_ready_wsgi)):
            patcher("granian").around(point, _always, functools.partial(_with_wrapped, wrapped))
        for distribution, point, name, wrap in (
            ("granian", GRANIAN_LIFESPAN, "callable", self._as_asgi),
            ("gunicorn", GUNICORN, "wsgi", self._as_either),
            ("gunicorn", GUNICORN_ASGI, "asgi", self._as_asgi),
            ("waitress", WAITRESS, "application", self._as_wsgi),
            ("werkzeug", WERKZEUG, "app", self._as_wsgi),
        ):
            patcher(distribution).call(point, _instance, functools.partial(_exchange, name, wrap))

    # How an application is wrapped.

    def _as_asgi(self, app: Any, _server: object = None) -> Any:
        return app if app is None or isinstance(app, AsgiApplication) else AsgiApplication(app, lambda: self._asgi)

    def _as_wsgi(self, app: Any, _server: object = None) -> Any:
        return app if app is None or isinstance(app, WsgiApplication) else WsgiApplication(app, lambda: self._wsgi)

    def _as_either(self, app: Any, server: object) -> Any:
        # uvicorn's worker class for gunicorn loads an ASGI application, and starts a uvicorn with it.
        modules = {cls.__module__.partition(".")[0] for cls in type(server).__mro__}
        return app if is_asgi(app) or modules & {"uvicorn", "uvicorn_worker"} else self._as_ready_wsgi(app)

    def _as_ready_wsgi(self, app: Any) -> Any:
        self._wsgi.begin()
        return self._as_wsgi(app)

    # Servers whose application is not an attribute of an object.

    def _uvicorn(self, server: Any, _arguments: Arguments) -> None:
        if not _is_starlette(server.config.loaded_app):
            server.config.loaded_app = self._as_asgi(server.config.loaded_app)

    def _wants(self, _wrapper: object, arguments: Arguments) -> bool:
        return self._asgi.wants(arguments.get("scope"))

    def _serve(
        self, call: Callable[..., Any], wrapper: Any, scope: Any, receive: Any, send: Any, *more: Any, **named: Any
    ) -> Any:
        return self._asgi.serve(lambda *given: call(wrapper, *given, *more, **named), scope, receive, send)


def _is_starlette(app: Any) -> bool:
    """Whether it is hooked by its class: then uvicorn's own layers are all there is around it."""
    while type(app).__module__.startswith("uvicorn.middleware.") and hasattr(app, "app"):
        app = app.app
    return any((cls.__module__, cls.__name__) == ("starlette.applications", "Starlette") for cls in type(app).__mro__)


def _always(_instance: object, _arguments: Arguments) -> bool:
    return True


def _with_wrapped(wrap: Callable[[Any], Any], call: Callable[..., Any], callback: Any, *more: Any, **named: Any) -> Any:
    return call(wrap(callback), *more, **named)


def _instance(instance: object, _arguments: Arguments) -> object:
    return instance


def _exchange(
    name: str, wrap: Callable[[Any, object], Any], instance: Any, _result: object, error: BaseException | None
) -> None:
    if error is None:
        setattr(instance, name, wrap(getattr(instance, name), instance))
