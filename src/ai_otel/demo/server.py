"""
An OpenAI-compatible server over llama.cpp: chat, completions, embeddings, streams.

    python -m ai_otel.demo.server --model MODEL.gguf --port 8000

An ordinary server, as a team might write one: it knows nothing of telemetry. Put `ai-otel run --` before the command,
and every request becomes a trace.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import uvicorn
import xllamacpp
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Body = dict[str, Any]
Handle = Callable[..., Any]


class Refused(Exception):
    """The request cannot be served; the response gives the reason in OpenAI's format."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


def refusal(_: Request, refused: Any) -> Response:
    """The response to a request that cannot be served."""
    error = {"message": str(refused), "type": refused.kind, "code": refused.status}
    return JSONResponse({"error": error}, refused.status)


class Stream:
    """One generation on its way to the client: the engine writes on its thread, the client reads here."""

    def __init__(self, handle: Handle, body: Body) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Body | None] = asyncio.Queue()
        self._left = threading.Event()
        # With each piece the engine says how many tokens there are: so what a client that leaves has cost is known.
        asked = {**body, "timings_per_token": True}
        self._running = asyncio.create_task(run_in_threadpool(self._generate, handle, asked))

    def _generate(self, handle: Handle, body: Body) -> None:
        try:
            call(handle, body, self._put)
        finally:
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, None)

    def _put(self, piece: Body) -> bool:
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)
        return self._left.is_set()  # true stops the engine

    async def first(self) -> Body:
        """The first piece. An error comes before any token, while the status can still say so."""
        piece = await self._pieces.get()
        if piece is None:
            await self._running  # raises what the engine raised
            raise Refused(500, "the engine gave no answer", "server_error")
        return raise_error(piece)

    async def events(self, piece: Body | None) -> AsyncIterator[str]:
        """Server-sent events, from `piece` on."""
        try:
            while piece is not None:
                yield f"data: {json.dumps(piece)}\n\n"
                piece = await self._pieces.get()
            yield "data: [DONE]\n\n"
        finally:
            # The client may have left: the slot is free when the engine has stopped, and not before.
            self._left.set()
            with anyio.CancelScope(shield=True):
                await self._running


def call(handle: Handle, *arguments: Any) -> Any:
    """Call the engine. Some of what it cannot accept it says in its answer, and some by an exception."""
    try:
        return handle(*arguments)
    except ValueError as error:
        raise Refused(400, str(error)) from error


def raise_error(answer: Body) -> Body:
    """The engine's answer, unless it is an error."""
    error = answer.get("error")
    if error is not None:
        raise Refused(error.get("code", 500), error.get("message", ""), error.get("type", "server_error"))
    return answer


class Api:
    """The routes, over one engine with one model."""

    def __init__(self, engine: Any, model: str) -> None:
        self._engine = engine
        self._model = model

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        return await self._generate(request, self._engine.handle_chat_completions)

    async def completions(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        return await self._generate(request, self._engine.handle_completions)

    async def embeddings(self, request: Request) -> Response:
        """`POST /v1/embeddings`."""
        body = await self._read(request)
        return JSONResponse(raise_error(await run_in_threadpool(call, self._engine.handle_embeddings, body)))

    async def models(self, _: Request) -> Response:
        """`GET /v1/models`."""
        return JSONResponse({"object": "list", "data": [{"id": self._model, "object": "model"}]})

    async def health(self, _: Request) -> Response:
        """`GET /health`."""
        return JSONResponse({"status": "ok"})

    async def _generate(self, request: Request, handle: Handle) -> Response:
        body = await self._read(request)
        if not body.get("stream"):
            return JSONResponse(raise_error(await run_in_threadpool(call, handle, body)))
        stream = Stream(handle, body)
        return StreamingResponse(stream.events(await stream.first()), media_type="text/event-stream")

    async def _read(self, request: Request) -> Body:
        try:
            body = await request.json()
        except ValueError as error:
            raise Refused(400, f"the body is not JSON: {error}") from None
        if not isinstance(body, dict):
            raise Refused(400, "the body is not a JSON object")
        if body.get("model", self._model) != self._model:
            raise Refused(404, f"no model {body['model']!r} here, only {self._model!r}", "not_found_error")
        return body

    def application(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/health", self.health),
        ]
        return Starlette(routes=routes, exception_handlers={Refused: refusal})


def start_engine(model: Path, alias: str, slots: int, context: int, threads: int) -> Any:
    """Llama.cpp's server, in this process, with that many requests at a time."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {alias}
    params.n_parallel = slots
    params.n_ctx = slots * context
    params.cpuparams.n_threads = threads
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.port = 0  # the engine listens for itself too: on a free port, and we do not use it
    params.verbosity = -1
    return xllamacpp.Server(params)


def main() -> None:
    """Serve until a signal stops it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--name", default="", help="what clients call the model; left out: the file's name")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--slots", type=int, default=4, help="requests at a time; others wait")
    parser.add_argument("--context", type=int, default=2048, help="tokens a request may have")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    if not asked.model.exists():
        sys.exit(f"{asked.model}: no such file. Make one: python -m ai_otel.demo.gguf {asked.model}")
    name = asked.name or asked.model.stem
    # Before the server: llama.cpp takes the process's signals for itself, and uvicorn takes them back.
    engine = start_engine(asked.model, name, asked.slots, asked.context, asked.threads)
    uvicorn.run(Api(engine, name).application(), host=asked.host, port=asked.port, log_level="warning")


if __name__ == "__main__":
    main()
