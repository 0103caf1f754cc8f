"""What wraps an application by hand, where no framework's or server's hook sees its requests."""

from __future__ import annotations

from typing import Any

from ai_otel.http.application import AsgiApplication, WsgiApplication
from ai_otel.http.instrumentation import HttpInstrumentation
from ai_otel.manual.activated import activated
from ai_otel.manual.carriers import GUARD


def asgi(app: Any) -> Any:
    """Return an ASGI application that calls `app`, and reports its requests to inference routes, each once."""
    GUARD(_http)
    return AsgiApplication(app, lambda: http.asgi if (http := _http()) is not None else None)


def wsgi(app: Any) -> Any:
    """Return a WSGI application that calls `app`, and reports its requests to inference routes, each once."""
    GUARD(_http)
    return WsgiApplication(app, lambda: http.wsgi if (http := _http()) is not None else None)


def _http() -> HttpInstrumentation | None:
    handle = activated()
    return None if handle is None else handle.http
