"""Small servers of one route, `/v1/chat/completions`, each in another framework or in none. `?stream` streams."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

PATH, HEALTH = "/v1/chat/completions", "/health"
USAGE = {"prompt_tokens": 7, "completion_tokens": 5}
BODY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "mine-7b",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
).encode()
EVENTS = [
    b"data: " + json.dumps({"id": "chatcmpl-1", "model": "mine-7b", **members}).encode() + b"\n\n"
    for members in (
        {"choices": [{"index": 0, "delta": {"content": "yes"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": USAGE},
    )
] + [b"data: [DONE]\n\n"]
JSON, SSE = "application/json", "text/event-stream"


async def events() -> AsyncIterator[bytes]:
    for event in EVENTS:
        yield event


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """An application without a framework; it knows nothing of the lifespan protocol."""
    if scope["type"] != "http":
        raise RuntimeError("no such protocol")
    while (await receive()).get("more_body"):
        pass
    streamed, known = scope["query_string"] == b"stream", scope["path"] in (PATH, HEALTH)
    kind, parts = (SSE, EVENTS) if streamed else (JSON, [BODY])
    headers = [(b"content-type", kind.encode()), *([] if streamed else [(b"content-length", b"%d" % len(BODY))])]
    await send({"type": "http.response.start", "status": 200 if known else 404, "headers": headers})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def wsgi(environ: Any, start_response: Any) -> Any:
    """An application without a framework."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    environ["wsgi.input"].read(length)
    streamed, known = environ["QUERY_STRING"] == "stream", environ["PATH_INFO"] in (PATH, HEALTH)
    start_response("200 OK" if known else "404 Not Found", [("Content-Type", SSE if streamed else JSON)])
    return iter(EVENTS) if streamed else [BODY]


if has("fastapi"):
    from fastapi import FastAPI
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    async def answer(request: Request) -> Response:
        streamed = str(request.url.query) == "stream"
        return StreamingResponse(events(), media_type=SSE) if streamed else Response(BODY, media_type=JSON)

    fastapi = FastAPI()
    fastapi.add_api_route(PATH, answer, methods=["POST"])
    fastapi.add_api_route(HEALTH, answer, methods=["GET"])
    starlette = Starlette(routes=[Route(PATH, answer, methods=["POST"]), Route(HEALTH, answer)])

if has("flask"):
    from flask import Flask, Response as FlaskResponse, request as flask_request

    flask = Flask(__name__)

    @flask.get(HEALTH)
    @flask.post(PATH)
    def flask_answer() -> FlaskResponse:
        def parts() -> Iterator[bytes]:
            yield from EVENTS

        if flask_request.query_string == b"stream":
            return FlaskResponse(parts(), mimetype=SSE)
        return FlaskResponse(BODY, mimetype=JSON)


if has("litestar"):
    import litestar as litestar_package
    from litestar.response import Stream

    @litestar_package.post(PATH, status_code=200)
    async def litestar_answer(request: litestar_package.Request[Any, Any, Any]) -> litestar_package.Response[Any]:
        if request.scope["query_string"] == b"stream":
            return Stream(events(), media_type=SSE)
        return litestar_package.Response(BODY, media_type=JSON)

    @litestar_package.get(HEALTH)
    async def litestar_health() -> str:
        return "yes"

    litestar = litestar_package.Litestar([litestar_answer, litestar_health])

if has("quart"):
    from quart import Quart, Response as QuartResponse, request as quart_request

    quart = Quart(__name__)

    @quart.get(HEALTH)
    @quart.post(PATH)
    async def quart_answer() -> QuartResponse:
        if quart_request.query_string == b"stream":
            return QuartResponse(events(), mimetype=SSE)
        return QuartResponse(BODY, mimetype=JSON)
