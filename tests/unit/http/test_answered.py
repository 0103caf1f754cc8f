"""A server without an adapter: what its answers say of themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

import ai_otel
import fake_engine
from ai_otel.testing import Captured, captured

CHAT = "/v1/chat/completions"
TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
ANSWER = {
    "id": "chatcmpl-1",
    "model": "mine-7b",
    "choices": [{"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}],
    "usage": USAGE,
}
OF_ANSWER = {
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.response.model": "mine-7b",
    "gen_ai.response.finish_reasons": ("stop",),
    "gen_ai.usage.input_tokens": 7,
    "gen_ai.usage.output_tokens": 5,
    "gen_ai.usage.cache_read.input_tokens": 4,
}

Handler = Callable[[], Any]


@pytest.fixture
def telemetry() -> Iterator[Captured]:
    with captured() as telemetry:
        yield telemetry


def post(handler: Handler, path: str = CHAT, method: str = "POST", app: FastAPI | None = None) -> httpx.Response:
    app = app or FastAPI()
    app.add_api_route(path, handler, methods=[method])
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    async def call() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, headers=HEADERS)

    return asyncio.run(call())


def attributes(telemetry: Captured) -> dict[str, Any]:
    (span,) = [span for span in telemetry.spans if span.kind.name == "SERVER"]
    return dict(span.attributes or {})


async def answer() -> Response:
    return JSONResponse(ANSWER)


def event(**members: Any) -> str:
    return f"data: {json.dumps({'id': 'chatcmpl-1', 'model': 'mine-7b', **members})}\n\n"


async def events() -> AsyncIterator[str]:
    yield event(choices=[{"index": 0, "delta": {"content": "yes"}, "finish_reason": None}])
    yield event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    yield event(choices=[], usage=USAGE)
    yield "data: [DONE]\n\n"


async def stream() -> Response:
    return StreamingResponse(events(), media_type="text/event-stream")


def test_a_request_without_any_engine_is_a_span_with_what_the_answer_says(telemetry: Captured) -> None:
    assert post(answer).json() == ANSWER
    (span,) = telemetry.spans
    assert telemetry.tree().startswith("chat SERVER finished ")
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == TRACE
    found = attributes(telemetry)
    assert found.items() >= OF_ANSWER.items()
    assert found["gen_ai.provider.name"] == "custom"
    assert (found["http.route"], found["http.response.status_code"]) == (CHAT, 200)
    assert "gen_ai.request.model" not in found
    assert "gen_ai.request.stream" not in found


def test_each_request_is_counted_once_with_its_trace(telemetry: Captured) -> None:
    post(answer)
    (duration,) = telemetry.points("gen_ai.server.request.duration")
    (exemplar,) = duration.exemplars
    assert duration.count == 1
    assert f"{exemplar.trace_id:032x}" == TRACE
    values = {
        name: [point.value for point in telemetry.points(f"ai_otel.{name}")]
        for name in ("usage.input_tokens", "usage.output_tokens", "request.finished")
    }
    assert values == {"usage.input_tokens": [7], "usage.output_tokens": [5], "request.finished": [1]}


def test_a_stream_says_it_at_its_end(telemetry: Captured) -> None:
    body = post(stream).text
    assert body.endswith("data: [DONE]\n\n")
    found = attributes(telemetry)
    assert found.items() >= OF_ANSWER.items()
    assert found["gen_ai.request.stream"] is True
    assert found["gen_ai.response.time_to_first_chunk"] >= 0


async def several() -> Response:
    choices = [{"index": n, "finish_reason": reason} for n, reason in enumerate(("stop", "length"))]
    return JSONResponse({**ANSWER, "choices": choices})


def test_tokens_of_several_choices_are_counted_as_a_whole(telemetry: Captured) -> None:
    post(several)
    assert attributes(telemetry)["gen_ai.response.finish_reasons"] == ("stop", "length")
    assert [point.value for point in telemetry.points("ai_otel.usage.output_tokens")] == [5]
    assert {point.value for point in telemetry.points("ai_otel.request.finished")} == {1}
    assert len(telemetry.points("ai_otel.request.finished")) == 2
    assert telemetry.points("ai_otel.request.output_tokens") == []


async def plain() -> Response:
    return PlainTextResponse("yes")


async def refused() -> Response:
    return JSONResponse({**ANSWER, "error": "no"}, 429)


async def fails() -> Response:
    raise KeyError("no")


async def breaks() -> Response:
    async def body() -> AsyncIterator[str]:
        yield event(choices=[])
        raise KeyError("no")

    return StreamingResponse(body(), media_type="text/event-stream")


@pytest.mark.parametrize(
    ("handler", "expected"),
    [(plain, "finished"), (refused, "rejected 429"), (fails, "failed KeyError"), (breaks, "failed KeyError")],
)
def test_an_answer_that_says_nothing_or_is_none_has_no_values(
    telemetry: Captured, handler: Handler, expected: str
) -> None:
    post(handler)
    found = attributes(telemetry)
    assert " ".join(filter(None, (found["ai_otel.outcome"], found.get("error.type")))) == expected
    assert found.keys().isdisjoint(OF_ANSWER)


@pytest.mark.parametrize(("path", "method"), [("/v1/models", "POST"), ("/health", "POST"), (CHAT, "GET")])
def test_what_is_no_inference_makes_nothing(telemetry: Captured, path: str, method: str) -> None:
    post(answer, path, method)
    assert telemetry.spans == ()
    assert telemetry.points("gen_ai.server.request.duration") == []


# ---------------------------------------------------------------- the application reports it too


async def reported() -> Response:
    with ai_otel.inference("chat", provider="mine", model="mine", input_tokens=70) as request:
        request.first_token()
        request.finish("length")
    return JSONResponse(ANSWER)


def test_what_the_application_reports_wins_and_is_counted_once(telemetry: Captured) -> None:
    post(reported)
    found = attributes(telemetry)
    assert found.items() >= {**OF_ANSWER, "gen_ai.response.finish_reasons": ("length",)}.items() - {
        ("gen_ai.usage.input_tokens", 7)
    }
    assert found["gen_ai.usage.input_tokens"] == 70
    assert found["gen_ai.provider.name"] == "mine"
    (duration,) = telemetry.points("gen_ai.server.request.duration")
    assert duration.count == 1
    assert [point.value for point in telemetry.points("ai_otel.usage.input_tokens")] == [70]
    assert [point.value for point in telemetry.points("ai_otel.usage.output_tokens")] == [5]
    assert [point.value for point in telemetry.points("ai_otel.request.finished")] == [1]


def test_two_inferences_of_a_request_keep_their_own_values(telemetry: Captured) -> None:
    async def twice() -> Response:
        for _ in range(2):
            with ai_otel.inference("chat"):
                pass
        return JSONResponse(ANSWER)

    post(twice)
    request = next(span for span in telemetry.spans if span.kind.name == "SERVER")
    assert (request.attributes or {}).keys().isdisjoint(OF_ANSWER)


# ---------------------------------------------------------------- with an adapter


def test_where_an_adapter_reports_it_no_answer_is_read(telemetry: Captured) -> None:
    with fake_engine.install() as engine:
        telemetry.handle.watch({"fake": fake_engine.ENGINE})

        async def observed() -> Response:
            await fake_engine.collect(engine.Server().generate("a b"))
            return JSONResponse(ANSWER)

        async def lazily() -> Response:
            async def body() -> AsyncIterator[str]:
                yield event(choices=[])
                async for word in engine.Server().generate("a b"):
                    yield event(choices=[], content=word)
                yield event(choices=[], usage=USAGE)

            return StreamingResponse(body(), media_type="text/event-stream")

        post(observed)
        post(lazily)
    assert len(telemetry.spans) == 2
    for span in telemetry.spans:
        found = dict(span.attributes or {})
        assert found["gen_ai.usage.output_tokens"] == 2
        assert found["gen_ai.response.model"] == "tiny"
        assert found.get("gen_ai.response.id") != "chatcmpl-1"


def test_a_request_that_the_adapter_does_not_see_has_values_and_no_count(telemetry: Captured) -> None:
    with fake_engine.install():
        telemetry.handle.watch({"fake": fake_engine.ENGINE})
        post(answer)
    assert attributes(telemetry).items() >= OF_ANSWER.items()
    assert telemetry.points("ai_otel.usage.output_tokens") == []


# ---------------------------------------------------------------- settings


def test_the_name_and_the_routes_of_a_server_are_settings() -> None:
    with captured(provider="mine", routes="/predict=text_completion,/v1/models/{name}:predict=chat") as telemetry:
        post(answer, "/predict")
        post(answer, "/v1/models/{name}:predict")
        spans = [dict(span.attributes or {}) for span in telemetry.spans]
    assert [span["gen_ai.operation.name"] for span in spans] == ["text_completion", "chat"]
    assert [span["http.route"] for span in spans] == ["/predict", "/v1/models/{name}:predict"]
    assert {span["gen_ai.provider.name"] for span in spans} == {"mine"}


@pytest.mark.parametrize(("engines", "spans"), [("vllm", 0), ("custom", 1), ("", 1)])
def test_where_only_some_engines_are_wanted_another_server_makes_nothing(engines: str, spans: int) -> None:
    with captured(engines=engines) as telemetry:
        post(answer)
        assert len(telemetry.spans) == spans


# ---------------------------------------------------------------- hostile answers


@pytest.mark.fault(
    "requests",
    "a server without an adapter sends a stream of events in single bytes, 100 MB of JSON, or invalid UTF-8",
    "the client gets every byte as it was sent; what cannot be read is absent",
)
@pytest.mark.parametrize("kind", ["split", "large", "invalid", "endless"])
def test_bytes_are_unaltered(telemetry: Captured, kind: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        if kind == "split":
            text = "".join([part async for part in events()]).encode()
            for at in range(len(text)):
                yield text[at : at + 1]
        elif kind == "large":
            yield b'{"id": "chatcmpl-1", "model": "mine-7b", "text": "'
            for _ in range(100):
                yield b"x" * 2**20
            yield b'", "usage": ' + json.dumps(USAGE).encode() + b"}"
        elif kind == "invalid":
            yield b'{"id": "\xff\xfe", "model": "mine-7b"'
            yield b', "usage": {"prompt_tokens": -1, "completion_tokens": 1e400}}'
        else:
            for n in range(20_000):
                yield event(choices=[], n=n).encode()

    media = "text/event-stream" if kind in ("split", "endless") else "application/json"

    async def handler() -> Response:
        return StreamingResponse(pieces(), media_type=media)

    async def whole() -> bytes:
        return b"".join([piece async for piece in pieces()])

    assert post(handler).content == asyncio.run(whole())
    found = attributes(telemetry)
    assert found["ai_otel.outcome"] == "finished"
    if kind == "split":
        assert found.items() >= OF_ANSWER.items()
    elif kind == "large":
        assert found.items() >= {"gen_ai.usage.input_tokens": 7, "gen_ai.response.model": "mine-7b"}.items()
    elif kind == "invalid":
        assert "gen_ai.usage.input_tokens" not in found
