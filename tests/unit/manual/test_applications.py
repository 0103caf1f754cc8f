"""Applications that are wrapped by hand."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import ai_otel
from ai_otel.testing import captured
from harness import applications


def post_asgi(app: Any) -> list[Any]:
    heard: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: Any) -> None:
        heard.append(message)

    scope = {"type": "http", "method": "POST", "path": applications.PATH, "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))
    return heard


def post_wsgi(app: Any) -> list[bytes]:
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": applications.PATH, "QUERY_STRING": "", "wsgi.input": Body()}
    return list(app(environ, lambda *_: None))


class Body:
    """An empty body."""

    def read(self, _size: int) -> bytes:
        return b""


@pytest.mark.parametrize("times", [1, 2])
def test_each_request_of_a_wrapped_application_is_one_span(times: int) -> None:
    asgi: Any = applications.asgi
    wsgi: Any = applications.wsgi
    for _ in range(times):
        asgi, wsgi = ai_otel.asgi(asgi), ai_otel.wsgi(wsgi)
    plain = post_asgi(applications.asgi)
    assert post_asgi(asgi) == plain  # nothing is on
    assert post_wsgi(wsgi) == [applications.BODY]
    with captured(provider="mine") as telemetry:
        assert post_asgi(asgi) == plain
        assert post_wsgi(wsgi) == [applications.BODY]
        tokens = "gen_ai.usage.input_tokens=7 gen_ai.usage.output_tokens=5"
        line = f"http.response.status_code=200 gen_ai.response.finish_reasons=('stop',) {tokens}"
        assert telemetry.tree().splitlines() == [f"chat SERVER finished {line}"] * 2
    assert post_asgi(asgi) == plain  # nothing is on any more
    assert post_wsgi(wsgi) == [applications.BODY]


def test_with_the_view_off_a_wrapper_makes_nothing() -> None:
    with captured(edge=False) as telemetry:
        post_asgi(ai_otel.asgi(applications.asgi))
        assert telemetry.spans == ()
