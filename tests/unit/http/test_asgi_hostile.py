"""Applications and clients that bend the ASGI protocol, and the paths of gateways."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry import trace

from ai_otel.hooks import guard
from ai_otel.hooks.guard import FAILURES_IN_A_ROW
from ai_otel.http.asgi import Headers, HttpMiddleware
from ai_otel.propagation import extract
from ai_otel.record import Inference, Outcome, RequestRecord
from ai_otel.recorder import Recorder

START = {"type": "http.response.start", "status": 200, "headers": []}
LAST = {"type": "http.response.body", "body": b"x"}


class Bench:
    """The middleware around an application, with everything that it recorded."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []
        self.recorder = Recorder(self.records.append, limit=10_000, interval_s=0.001)
        self.middleware = HttpMiddleware(self.recorder, lambda: True)

    def serve(self, app: Any, path: str = "/v1/completions", **scope: Any) -> RequestRecord | None:
        """Serve one request; return its record, settled, if there is one."""

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message.get("refused"):
                raise RuntimeError("the server refuses it")

        full = {"type": "http", "method": "POST", "path": path, "headers": [], "server": None, **scope}
        before = len(self.records)
        asyncio.run(self.middleware.serve(app, full, receive, send))
        assert self.recorder.flush(5)
        if len(self.records) == before:
            return None
        self.records[-1].settle()
        return self.records[-1]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.recorder.stop()


def sends(*messages: Any) -> Any:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def outcome_of(record: RequestRecord | None) -> tuple[str, str | None]:
    assert record is not None
    assert record.outcome is not None
    return record.outcome.value, record.error_type


@pytest.mark.parametrize("status", [400, 422, 429, 500, 503])
@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("/llm/v1/chat/completions", "/llm"),
        ("/v1/chat/completions", "/llm"),
        ("/openai/v1/chat/completions", ""),
        ("/llm/generate", "/llm"),
        ("/llm/generate", "/llm/"),
    ],
)
@pytest.mark.fault(
    "requests",
    "a refused request below a gateway prefix or a root path",
    "it has a span, a count and a duration like any other",
)
def test_a_refused_request_below_a_prefix_is_counted(bench: Bench, path: str, root: str, status: int) -> None:
    record = bench.serve(sends({**START, "status": status}, LAST), path, root_path=root)
    assert outcome_of(record)[0] in {"rejected", "failed"}
    assert record is not None
    assert record.exchange is not None
    assert record.exchange.route in {"/v1/chat/completions", "/generate"}


@pytest.mark.parametrize("path", ["/llm/health", "/llm/metrics"])
def test_a_health_page_below_a_prefix_makes_nothing(bench: Bench, path: str) -> None:
    scope = {"type": "http", "method": "POST", "path": path, "root_path": "/llm"}
    assert not bench.middleware.wants(scope)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.fault("requests", "the server redirects a POST", "the redirect is not counted as a finished inference")
def test_a_redirect_is_not_a_finished_inference(bench: Bench, status: int) -> None:
    assert bench.serve(sends({**START, "status": status}, LAST), "/v1/completions/") is None
    assert bench.recorder.open_count == 0


@pytest.mark.fault(
    "requests", "background tasks run for seconds after the response", "the span ends with the last byte"
)
def test_a_span_ends_with_the_last_byte_not_with_background_tasks(bench: Bench) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await sends(START, LAST)(None, None, send)
        await asyncio.sleep(0.3)

    record = bench.serve(app)
    assert record is not None
    assert record.exchange is not None
    assert record.end_ns == record.exchange.last_byte_ns
    assert record.duration_s < 0.3


@pytest.mark.fault(
    "requests", "the application starts a response twice", "the first status, which the client saw, is kept"
)
def test_a_second_response_start_does_not_overwrite_the_status(bench: Bench) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(START)
        with pytest.raises(RuntimeError):
            await send({**START, "status": 500, "refused": True})
        await send(LAST)

    assert outcome_of(bench.serve(app)) == ("finished", None)


@pytest.mark.parametrize("sent", [(), (START,), (START, {**LAST, "more_body": True})])
@pytest.mark.parametrize("engine_finished", [False, True])
@pytest.mark.fault(
    "requests", "the application returns without the last byte", "the request has failed with `no_response`"
)
def test_a_response_without_a_last_byte_is_not_finished(
    bench: Bench, sent: Sequence[Any], engine_finished: bool
) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        if engine_finished:
            bench.recorder.end(bench.recorder.begin(Inference("fake", "chat")), Outcome.FINISHED)
        await sends(*sent)(None, None, send)

    assert outcome_of(bench.serve(app)) == ("failed", "no_response")


def test_a_file_that_the_server_sends_itself_is_whole(bench: Bench) -> None:
    assert outcome_of(bench.serve(sends(START, {"type": "http.response.pathsend", "path": "/x"}))) == ("finished", None)


class Cancelled(BaseException):
    """As trio's."""


class Group(BaseException):
    """As an exception group, which Python 3.10 has not."""

    def __init__(self, *exceptions: BaseException) -> None:
        self.exceptions = exceptions


Cancelled.__module__ = "trio._core._exceptions"


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.fault(
    "requests", "the client hangs up under trio", "the outcome is cancelled, also inside exception groups"
)
def test_trios_cancellation_is_a_cancellation(bench: Bench, wrapped: bool) -> None:
    error: BaseException = Cancelled()
    if wrapped:
        error = Group(Cancelled(), Group(Cancelled()))

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(START)
        raise error

    with pytest.raises(type(error)):
        bench.serve(app)
    assert bench.recorder.flush(5)
    bench.records[-1].settle()
    assert outcome_of(bench.records[-1]) == ("cancelled", "cancelled")


@pytest.mark.parametrize(
    "message", [{}, {"type": None}, {"status": 200}, {"body": b"x"}, {"type": "http.response.start"}]
)
@pytest.mark.fault("requests", "an application sends malformed ASGI messages", "no hook fails or is switched off")
def test_messages_without_type_or_status_switch_nothing_off(bench: Bench, message: dict[str, Any]) -> None:
    for _ in range(FAILURES_IN_A_ROW + 1):
        bench.serve(sends(message, START, LAST))
    assert guard.errors == {}
    assert guard.disabled == set()
    assert bench.recorder.open_count == 0
    assert len(bench.records) == FAILURES_IN_A_ROW + 1


@pytest.mark.fault("requests", "a client sends several tracestate headers", "they are joined into one list")
def test_several_tracestate_lines_are_one_list() -> None:
    raw = [
        (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        (b"tracestate", b"a=1"),
        (b"x-other", b"1"),
        (b"tracestate", b"b=2,c=3"),
    ]
    found = trace.get_current_span(extract(Headers(raw))).get_span_context()
    assert found.is_valid
    assert found.trace_state.to_header() == "a=1,b=2,c=3"
