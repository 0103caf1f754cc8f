"""What stands in place of an application where its server takes it: it is called like the original."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ai_otel.hooks.guard import Guard

if TYPE_CHECKING:
    from ai_otel.http.asgi import HttpMiddleware
    from ai_otel.http.wsgi import WsgiMiddleware


class Application:
    """An application inside of a view. Every attribute but the call is the application's own."""

    def __init__(self, app: Any) -> None:
        self.__wrapped__ = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)


class AsgiApplication(Application):
    """`find` returns the middleware; `None` where none is active."""

    def __init__(self, app: Any, find: Callable[[], HttpMiddleware | None]) -> None:
        super().__init__(app)
        self._find = find
        self._finding = Guard("edge application")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one scope. A coroutine function: servers know ASGI 3 by it."""
        middleware = self._finding(self._wanted, scope)
        if middleware is None:
            await self.__wrapped__(scope, receive, send)
        else:
            await middleware.serve(self.__wrapped__, scope, receive, send)

    def _wanted(self, scope: Any) -> HttpMiddleware | None:
        middleware = self._find()
        return middleware if middleware is not None and middleware.wants(scope) else None


class WsgiApplication(Application):
    """`find` returns the middleware; `None` where none is active."""

    def __init__(self, app: Any, find: Callable[[], WsgiMiddleware | None]) -> None:
        super().__init__(app)
        self._find = find
        self._finding = Guard("edge application")

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Serve one request."""
        middleware = self._finding(self._wanted, environ)
        if middleware is None:
            called: Iterable[bytes] = self.__wrapped__(environ, start_response)
            return called
        return middleware.serve(self.__wrapped__, environ, start_response)

    def _wanted(self, environ: Any) -> WsgiMiddleware | None:
        middleware = self._find()
        return middleware if middleware is not None and middleware.wants(environ) else None


def is_asgi(app: Any) -> bool:
    """Whether an application is called like one of ASGI 3: `async def`, or an object with such a `__call__`."""
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(type(app), "__call__", None))  # noqa: B004 - the method itself is wanted
