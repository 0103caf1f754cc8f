from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from ai_otel.hooks.guard import strict
from ai_otel.hooks.patch import Patcher
from ai_otel.http.asgi import STARLETTE, Headers, HttpMiddleware, StarletteInstrumentation
from ai_otel.record import Exchange, Inference, Outcome, RequestRecord
from ai_otel.recorder import CURRENT, Recorder

CHAT = "/v1/chat/completions"
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


def body(content: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


def http(path: str = CHAT, method: str = "POST", **more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(b"Traceparent".lower(), b"00-1-2-01"), (b"x-other", b"\xe9")],
        "server": ("127.0.0.1", 8000),
        "query_string": b"",
        **more,
    }


class Client:
    """One client: what it says, what it hears, and whether it is gone."""

    def __init__(self, *says: dict[str, Any], gone_after: int | None = None) -> None:
        self.says = list(says) or [{"type": "http.request", "body": b"{}", "more_body": False}]
        self.heard: list[Any] = []
        self.gone_after = gone_after

    async def receive(self) -> dict[str, Any]:
        if self.says:
            return self.says.pop(0)
        await asyncio.sleep(60)
        raise AssertionError

    async def send(self, message: Any) -> None:
        if self.gone_after is not None and len(self.heard) >= self.gone_after:
            raise ConnectionResetError("the client is gone")
        self.heard.append(message)


App = Callable[[Any, Any, Any], Awaitable[None]]


def wrap(app: App, recorder: Recorder, serving: Callable[[], bool] = lambda: True) -> App:
    """The application inside the middleware."""
    middleware = HttpMiddleware(recorder, serving)

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if middleware.wants(scope):
            await middleware.serve(app, scope, receive, send)
        else:
            await app(scope, receive, send)

    return wrapped


class Bench:
    """A recorder, and the middleware around an application."""

    def __init__(self) -> None:
        self.delivered: list[RequestRecord] = []
        self.recorder = Recorder(self.delivered.append, interval_s=0.001)
        self.serving = True

    def serve(self, app: App, scope: Any = None, client: Client | None = None) -> Client:
        client = client or Client()
        wrapped = wrap(app, self.recorder, lambda: self.serving)
        asyncio.run(wrapped(http() if scope is None else scope, client.receive, client.send))  # type: ignore[arg-type]
        return client

    @property
    def records(self) -> list[RequestRecord]:
        assert self.recorder.flush()
        for record in self.delivered:
            record.settle()
        return self.delivered

    def only(self) -> tuple[RequestRecord, Exchange]:
        (record,) = self.records
        assert record.exchange is not None
        return record, record.exchange


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    with strict():
        yield made
    assert made.recorder.open_count == 0
    made.recorder.stop()


def replies(*messages: Any) -> App:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


# ---------------------------------------------------------------- what is noted


def test_an_answer_is_noted_and_nothing_is_changed(bench: Bench) -> None:
    messages = [START, body(b"", more=True), body(b"a", more=True), body(b"b")]
    client = bench.serve(replies(*messages))
    assert all(sent is heard for sent, heard in zip(messages, client.heard, strict=True))
    record, exchange = bench.only()
    assert (exchange.method, exchange.status, exchange.route) == ("POST", 200, CHAT)
    assert (exchange.server_address, exchange.server_port) == ("127.0.0.1", 8000)
    assert record.start_ns <= (exchange.first_byte_ns or 0) <= (exchange.last_byte_ns or 0) <= record.end_ns
    assert (record.operation, record.outcome) == ("chat", Outcome.FINISHED)
    assert record.headers is not None
    assert record.headers["traceparent"] == "00-1-2-01"


def test_the_first_byte_is_the_first_that_has_content(bench: Bench) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(START)
        await send(body(b"", more=True))
        await asyncio.sleep(0.02)
        await send(body(b"a", more=True))
        await asyncio.sleep(0.02)
        await send(body())

    bench.serve(app)
    record, exchange = bench.only()
    assert ((exchange.first_byte_ns or 0) - record.start_ns) / 1e9 >= 0.02
    assert ((exchange.last_byte_ns or 0) - (exchange.first_byte_ns or 0)) / 1e9 >= 0.02


@pytest.mark.parametrize(
    ("status", "outcome"), [(400, "rejected"), (503, "rejected"), (500, "failed"), (204, "finished")]
)
def test_the_status_decides_where_no_engine_was_asked(bench: Bench, status: int, outcome: str) -> None:
    bench.serve(replies({**START, "status": status}, body(b"x")))
    record, exchange = bench.only()
    assert exchange.status == status
    assert record.outcome is not None
    assert record.outcome.value == outcome


def test_what_the_engine_does_meanwhile_is_the_same_call(bench: Bench) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        inference = bench.recorder.begin(Inference("fake", "chat"))
        bench.recorder.end(inference, Outcome.FINISHED)
        await replies(START, body(b"x"))(None, None, send)

    bench.serve(app)
    record, _ = bench.only()
    assert len(record.inferences) == 1
    assert CURRENT.get() is None


def test_concurrent_calls_do_not_mix(bench: Bench) -> None:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        await asyncio.sleep(0.001)
        inference = bench.recorder.begin(Inference("fake", request_id=scope["id"]))
        await asyncio.sleep(0.001)
        bench.recorder.end(inference, Outcome.FINISHED)
        await replies(START, body(b"x"))(None, None, send)

    wrapped = wrap(app, bench.recorder)

    async def main() -> None:
        clients = [Client() for _ in range(20)]
        await asyncio.gather(
            *(wrapped(http(id=str(number)), client.receive, client.send) for number, client in enumerate(clients))
        )

    asyncio.run(main())
    assert len(bench.records) == 20
    assert {record.inferences[0].request_id for record in bench.records} == {str(number) for number in range(20)}
    assert all(len(record.inferences) == 1 for record in bench.records)


def test_a_socket_file_has_no_port(bench: Bench) -> None:
    bench.serve(replies(START, body()), http(server=("/run/server.sock", None)))
    _, exchange = bench.only()
    assert (exchange.server_address, exchange.server_port) == (None, None)


# ---------------------------------------------------------------- what is not


@pytest.mark.parametrize(
    "scope",
    [
        {"type": "lifespan"},
        {"type": "websocket", "path": CHAT, "headers": []},
        http("/health"),
        http("/metrics", "GET"),
        http(CHAT, "GET"),
        http(CHAT, "OPTIONS"),
        http("/v1/models", "GET"),
    ],
    ids=lambda scope: f"{scope['type']} {scope.get('method', '')} {scope.get('path', '')}",
)
def test_other_scopes_pass_untouched(bench: Bench, scope: dict[str, Any]) -> None:
    before, seen = dict(scope), []

    async def app(*given: Any) -> None:
        seen.extend(given)

    client = Client()
    asyncio.run(wrap(app, bench.recorder)(scope, client.receive, client.send))  # type: ignore[arg-type]
    assert seen[0] is scope
    assert scope == before
    assert seen[1:] == [client.receive, client.send]
    assert bench.records == []


def test_a_post_that_is_no_inference_makes_nothing(bench: Bench) -> None:
    bench.serve(replies(START, body(b"x")), http("/v1/load_lora_adapter"))
    assert bench.records == []


def test_a_post_to_an_unknown_route_that_asks_the_engine_is_an_inference(bench: Bench) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        bench.recorder.end(bench.recorder.begin(Inference("fake", "embeddings")), Outcome.FINISHED)
        await replies(START, body(b"x"))(None, None, send)

    bench.serve(app, http("/my/own/route"))
    record, exchange = bench.only()
    assert exchange.route is None  # a raw path may be anything
    assert record.inferences[0].operation == "embeddings"


def test_where_no_engine_is_observed_nothing_is_made(bench: Bench) -> None:
    bench.serving = False
    bench.serve(replies(START, body(b"x")))
    assert bench.records == []


# ---------------------------------------------------------------- how it ends otherwise


class Broke(Exception):
    pass


@pytest.mark.parametrize("sent", [[], [START], [START, body(b"a", more=True)]])
def test_what_the_application_raises_is_raised_and_noted(bench: Bench, sent: Sequence[Any]) -> None:
    error = Broke()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await replies(*sent)(None, None, send)
        raise error

    with pytest.raises(Broke) as raised:
        bench.serve(app)
    assert raised.value is error
    record, exchange = bench.only()
    assert not exchange.hung_up
    assert (record.outcome, record.error_type) == (Outcome.FAILED, "Broke")


@pytest.mark.fault("requests", "the application fails after the last byte", "the request is finished")
def test_an_error_after_the_last_byte_is_not_the_clients(bench: Bench) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await replies(START, body(b"a"))(None, None, send)
        raise Broke

    with pytest.raises(Broke):
        bench.serve(app)
    assert bench.only()[0].outcome is Outcome.FINISHED


@pytest.mark.parametrize("error", [FileNotFoundError(), TimeoutError(), ConnectionRefusedError()])
def test_an_os_error_of_the_application_is_a_failure_and_no_hang_up(bench: Bench, error: OSError) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(START)
        raise error

    with pytest.raises(type(error)):
        bench.serve(app)
    record, exchange = bench.only()
    assert not exchange.hung_up
    assert (record.outcome, record.error_type) == (Outcome.FAILED, type(error).__name__)


def test_a_client_that_leaves_before_the_last_byte_hung_up(bench: Bench) -> None:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        await send(START)
        assert await receive() is gone
        await send(body(b"too late"))

    gone = {"type": "http.disconnect"}
    bench.serve(app, client=Client({"type": "http.request", "body": b"{}"}, gone))
    record, exchange = bench.only()
    assert exchange.hung_up
    assert (record.outcome, record.error_type) == (Outcome.CANCELLED, "cancelled")


def test_a_client_that_leaves_after_the_last_byte_did_not_hang_up(bench: Bench) -> None:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await replies(START, body(b"all"))(None, None, send)
        assert (await receive())["type"] == "http.disconnect"

    bench.serve(app, client=Client({"type": "http.disconnect"}))
    assert bench.only()[0].outcome is Outcome.FINISHED


@pytest.mark.parametrize("gone_after", [0, 1, 2])
def test_a_send_that_cannot_reach_the_client_is_a_hang_up(bench: Bench, gone_after: int) -> None:
    client = Client(gone_after=gone_after)
    with pytest.raises(ConnectionResetError):
        bench.serve(replies(START, body(b"a", more=True), body(b"b")), client=client)
    record, exchange = bench.only()
    assert exchange.hung_up
    assert record.outcome is Outcome.CANCELLED


@pytest.mark.fault("requests", "a client hangs up and the application goes on", "the outcome is cancelled")
def test_a_hang_up_is_recorded_though_the_application_survives_it(bench: Bench) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        try:
            await replies(START, body(b"a"))(None, None, send)
        except OSError:
            return

    bench.serve(app, client=Client(gone_after=1))
    assert bench.only()[0].outcome is Outcome.CANCELLED


def test_cancellation_is_a_hang_up_and_goes_on(bench: Bench) -> None:
    started = asyncio.Event()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(START)
        started.set()
        await asyncio.sleep(60)

    async def main() -> None:
        client = Client()
        served = wrap(app, bench.recorder)(http(), client.receive, client.send)  # type: ignore[arg-type]
        task = asyncio.ensure_future(served)
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    record, exchange = bench.only()
    assert exchange.hung_up
    assert record.outcome is Outcome.CANCELLED


def test_a_coroutine_that_is_closed_in_another_context_ends_quietly(bench: Bench) -> None:
    """As garbage collection does with requests that a server let go of."""

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        await asyncio.sleep(60)

    async def begin() -> Any:
        client = Client()
        served = wrap(app, bench.recorder)(http(), client.receive, client.send)  # type: ignore[arg-type]
        await asyncio.ensure_future(asyncio.sleep(0))
        asyncio.get_running_loop().call_soon(lambda: served.send(None))
        await asyncio.sleep(0.001)
        return served

    asyncio.run(begin()).close()
    assert bench.only()[0].outcome is Outcome.CANCELLED


@pytest.mark.fault("requests", "the application never responds", "the request has failed")
def test_an_application_that_never_answers_has_failed(bench: Bench) -> None:
    bench.serve(replies())
    record, _ = bench.only()
    assert (record.outcome, record.error_type) == (Outcome.FAILED, "no_response")


# ---------------------------------------------------------------- Starlette


@pytest.fixture
def starlette(bench: Bench) -> Iterator[Bench]:
    """The middleware around every Starlette application."""
    patcher = Patcher("starlette")
    StarletteInstrumentation(bench.recorder, lambda: bench.serving).attach(patcher)
    yield bench
    patcher.undo()


def run(app: Any, scope: Any, client: Client | None = None) -> Client:
    client = client or Client()
    asyncio.run(app(scope, client.receive, client.send))
    return client


async def chat(request: Request) -> JSONResponse:
    await request.json()
    return JSONResponse({"answer": 42})


def test_every_starlette_application_has_the_middleware(starlette: Bench) -> None:
    client = run(Starlette(routes=[Route(CHAT, chat, methods=["POST"])]), http())
    assert client.heard[-1]["body"] == b'{"answer":42}'
    record, exchange = starlette.only()
    assert (exchange.status, record.operation) == (200, "chat")


def test_a_mounted_application_is_the_same_request(starlette: Bench) -> None:
    inner = Starlette(routes=[Route("/chat/completions", chat, methods=["POST"])])
    run(Starlette(routes=[Mount("/v1", Starlette(routes=[Mount("/", inner)]))]), http())
    assert starlette.only()[1].status == 200


def test_a_middleware_of_the_user_is_not_doubled(starlette: Bench) -> None:
    app = Starlette(routes=[Route(CHAT, chat, methods=["POST"])])
    run(wrap(app, starlette.recorder), http())  # type: ignore[arg-type]
    assert len(starlette.records) == 1


def test_a_refusal_of_the_framework_is_seen(starlette: Bench) -> None:
    run(Starlette(), http())
    record, exchange = starlette.only()
    assert (exchange.status, record.outcome) == (404, Outcome.REJECTED)


def test_an_exception_in_a_route_is_named(starlette: Bench) -> None:
    async def fails(_: Request) -> PlainTextResponse:
        raise Broke

    app = Starlette(routes=[Route(CHAT, fails, methods=["POST"])])
    with pytest.raises(Broke):
        run(app, http())
    record, exchange = starlette.only()
    assert exchange.status == 500
    assert (record.outcome, record.error_type) == (Outcome.FAILED, "Broke")


async def words(_: Request) -> StreamingResponse:
    async def stream() -> Any:
        for word in ("a", "b", "c"):
            yield word

    return StreamingResponse(stream())


@pytest.mark.parametrize("spec", ["2.0", "2.4"])
def test_a_stream_comes_through(starlette: Bench, spec: str) -> None:
    """Starlette listens for the client's leaving in one of two ways, by the server's ASGI version."""
    app = Starlette(routes=[Route(CHAT, words, methods=["POST"])])
    client = run(app, http(asgi={"version": "3.0", "spec_version": spec}))
    assert b"".join(message["body"] for message in client.heard[1:]) == b"abc"
    assert starlette.only()[0].outcome is Outcome.FINISHED


def test_starlettes_client_disconnect_is_a_hang_up(starlette: Bench) -> None:
    app = Starlette(routes=[Route(CHAT, words, methods=["POST"])])
    with pytest.raises(ClientDisconnect):
        run(app, http(asgi={"version": "3.0", "spec_version": "2.4"}), Client(gone_after=2))
    assert starlette.only()[0].outcome is Outcome.CANCELLED


def test_a_client_that_leaves_while_starlette_reads_its_body_hung_up(starlette: Bench) -> None:
    app = Starlette(routes=[Route(CHAT, chat, methods=["POST"])])
    gone = Client({"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"})
    with pytest.raises(ClientDisconnect):
        run(app, http(), gone)
    assert starlette.only()[0].outcome is Outcome.CANCELLED


def test_an_os_error_in_a_stream_is_an_error_of_the_application(starlette: Bench) -> None:
    async def broken(_: Request) -> StreamingResponse:
        async def stream() -> Any:
            yield "a"
            raise FileNotFoundError

        return StreamingResponse(stream())

    app = Starlette(routes=[Route(CHAT, broken, methods=["POST"])])
    with pytest.raises(ClientDisconnect):
        run(app, http(asgi={"version": "3.0", "spec_version": "2.4"}))
    record, exchange = starlette.only()
    assert not exchange.hung_up
    assert record.outcome is Outcome.FAILED


def test_the_route_is_the_frameworks_template(starlette: Bench) -> None:
    class Template:
        path = "/models/{name}/infer"

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        starlette.recorder.end(starlette.recorder.begin(Inference("fake")), Outcome.FINISHED)
        await replies(START, body())(None, None, send)

    starlette.serve(app, http("/models/tiny/infer", route=Template()))
    assert starlette.only()[1].route == "/models/{name}/infer"


def test_the_hook_reads_what_starlette_has() -> None:
    assert STARLETTE.path == "Starlette.__call__"
    assert STARLETTE.reads == ("scope", "receive", "send")


# ---------------------------------------------------------------- headers


def test_headers_are_a_carrier_of_trace_context() -> None:
    headers = Headers([(b"traceparent", b"00-1"), (b"x", b"\xe9"), (b"traceparent", b"second")])
    assert headers["TraceParent"] == "00-1"
    assert headers.get("x") == "é"
    assert headers.get("absent") is None
    assert list(headers) == ["traceparent", "x", "traceparent"]
    assert len(headers) == 3
