from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ai_otel.http.application import AsgiApplication, WsgiApplication, is_asgi


class Framework:
    """An application with an attribute, as frameworks' are."""

    state = "mine"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send((scope, receive))


def test_an_application_is_reached_through_its_wrapper() -> None:
    app = Framework()
    wrapped = AsgiApplication(app, lambda: None)
    heard: list[Any] = []

    async def send(message: Any) -> None:
        heard.append(message)

    async def run() -> None:
        await wrapped({"type": "http"}, "receive", send)

    asyncio.run(run())
    assert heard == [({"type": "http"}, "receive")]
    assert (wrapped.state, wrapped.__wrapped__) == ("mine", app)
    with pytest.raises(AttributeError):
        wrapped.absent  # noqa: B018


def test_a_wsgi_application_is_reached_through_its_wrapper() -> None:
    result = [b"a"]
    assert WsgiApplication(lambda _environ, _start: result, lambda: None)({}, None) is result


def test_the_interface_of_an_application_is_seen() -> None:
    async def asgi(scope: Any, receive: Any, send: Any) -> None: ...

    def wsgi(environ: Any, start_response: Any) -> None: ...

    assert is_asgi(asgi)
    assert is_asgi(Framework())
    assert is_asgi(AsgiApplication(asgi, lambda: None))
    assert is_asgi(AsgiApplication(Framework(), lambda: None))
    assert not is_asgi(wsgi)
