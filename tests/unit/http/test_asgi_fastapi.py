"""A FastAPI server with HTTP instrumentation: FastAPI's own, the contrib package's, both, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

import fake_engine
from ai_otel.testing import Captured, captured

CHAT = "/v1/chat/completions"
TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}

# FastAPI traces itself from 0.137 on.
native = pytest.mark.requires(module="fastapi.telemetry")
contrib = pytest.mark.requires(module="opentelemetry.instrumentation.fastapi")

Plain = Callable[[FastAPI, Any], None]


def plainly(_app: FastAPI, _provider: Any) -> None:
    """HTTP is not instrumented."""


def by_contrib(app: FastAPI, provider: Any) -> None:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)


INSTRUMENTED = [
    pytest.param(True, plainly, id="native", marks=native),
    pytest.param(False, by_contrib, id="contrib", marks=contrib),
    pytest.param(True, by_contrib, id="both", marks=[native, contrib]),
]


@pytest.fixture
def telemetry() -> Iterator[Captured]:
    with ExitStack() as stack:
        stack.enter_context(fake_engine.install())
        telemetry = stack.enter_context(captured())
        telemetry.handle.watch({"fake": fake_engine.ENGINE})
        yield telemetry


def application(telemetry: Captured, own: bool, instrument: Plain) -> FastAPI:
    provider = telemetry.handle._passed[0]
    # Without its own telemetry an older FastAPI does not know the parameter.
    app = FastAPI(telemetry={"tracer_provider": provider}) if own else FastAPI()
    server = fake_engine.sys.modules[fake_engine.MODULE].Server()

    @app.post(CHAT)
    async def chat(body: dict[str, Any]) -> Any:
        if "prompt" not in body:
            raise HTTPException(400, "no prompt")
        answer = server.generate(body["prompt"], request_id="req-1")
        return StreamingResponse(answer) if body.get("stream") else await fake_engine.collect(answer)

    @app.post("/v1/load_lora_adapter")
    async def load() -> str:
        return "loaded"

    instrument(app, provider)
    return app


def post(app: FastAPI, body: Any, path: str = CHAT, headers: dict[str, str] | None = None) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.post(path, json=body, headers=headers)

    return asyncio.run(send())


def emitted(telemetry: Captured) -> list[ReadableSpan]:
    return [span for span in telemetry.spans if (span.instrumentation_scope or span).name.startswith("ai_otel")]


def servers(telemetry: Captured) -> list[ReadableSpan]:
    return [span for span in telemetry.spans if span.kind is SpanKind.SERVER]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("own", "instrument"), INSTRUMENTED)
def test_our_span_is_a_child_of_the_http_span(telemetry: Captured, own: bool, instrument: Plain, stream: bool) -> None:
    app = application(telemetry, own, instrument)
    response = post(app, {"prompt": "a b c", "stream": stream}, headers=HEADERS)
    assert response.text == ("abc" if stream else '["a","b","c"]')
    (http,), (request,) = servers(telemetry), emitted(telemetry)
    assert request.kind is SpanKind.INTERNAL
    assert request.parent is not None
    assert request.parent.span_id == http.context.span_id
    assert f"{request.context.trace_id:032x}" == TRACE
    attributes = request.attributes or {}
    assert attributes["ai_otel.outcome"] == "finished"
    assert attributes["gen_ai.usage.output_tokens"] == 3
    assert attributes["http.response.status_code"] == 200


@pytest.mark.parametrize("body", [{}, "no object"], ids=["400", "422"])
@pytest.mark.parametrize(("own", "instrument"), INSTRUMENTED)
def test_a_refusal_makes_no_second_span(telemetry: Captured, own: bool, instrument: Plain, body: Any) -> None:
    assert post(application(telemetry, own, instrument), body).status_code in (400, 422)
    assert len(servers(telemetry)) == 1
    assert emitted(telemetry) == []
    assert [point.value for point in telemetry.points("ai_otel.request.rejected")] == [1]


@pytest.mark.parametrize(("body", "status", "tokens"), [({"prompt": "a b"}, 200, 2), ({}, 400, None)])
def test_without_http_instrumentation_emitted_is_the_server_span(
    telemetry: Captured, body: Any, status: int, tokens: int | None
) -> None:
    assert post(application(telemetry, False, plainly), body, headers=HEADERS).status_code == status
    (request,) = telemetry.spans
    assert request.kind is SpanKind.SERVER
    assert f"{request.context.trace_id:032x}" == TRACE
    assert (request.attributes or {}).get("gen_ai.usage.output_tokens") == tokens
    assert (request.attributes or {})["http.route"] == CHAT


@pytest.mark.parametrize(("own", "instrument"), [*INSTRUMENTED, pytest.param(False, plainly, id="none")])
def test_a_post_that_is_no_inference_emits_nothing(telemetry: Captured, own: bool, instrument: Plain) -> None:
    assert post(application(telemetry, own, instrument), {}, "/v1/load_lora_adapter").json() == "loaded"
    assert emitted(telemetry) == []


def test_an_engine_that_breaks_is_a_failure_with_its_name(telemetry: Captured) -> None:
    assert post(application(telemetry, False, plainly), {"prompt": "a FAIL"}).status_code == 500
    (request,) = telemetry.spans
    attributes = request.attributes or {}
    assert (attributes["ai_otel.outcome"], attributes["error.type"]) == ("failed", "RuntimeError")
    assert attributes["http.response.status_code"] == 500
