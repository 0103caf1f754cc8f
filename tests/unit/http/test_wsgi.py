from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import FileWrapper

import pytest

import ai_otel
from ai_otel.hooks.guard import strict
from ai_otel.http.answered import Answers
from ai_otel.http.application import WsgiApplication
from ai_otel.http.view import View
from ai_otel.http.wsgi import EnvironHeaders, WsgiMiddleware
from ai_otel.record import Exchange, Outcome, RequestRecord
from ai_otel.recorder import CURRENT, Recorder
from ai_otel.testing import captured

CHAT = "/v1/chat/completions"
JSON = [("Content-Type", "application/json")]


def environ(path: str = CHAT, method: str = "POST", **more: Any) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "HTTP_TRACEPARENT": "00-1-2-01",
        "wsgi.input": io.BytesIO(b"secret"),
        "wsgi.file_wrapper": FileWrapper,
        **more,
    }


class Bench:
    """A recorder, and the middleware around an application."""

    def __init__(self) -> None:
        self.delivered: list[RequestRecord] = []
        self.recorder = Recorder(self.delivered.append, interval_s=0.001)
        view = View(answers=Answers("mine", lambda: False))
        self.middleware = WsgiMiddleware(self.recorder, lambda: True, view)
        self.started: list[Any] = []
        self.written: list[bytes] = []

    def call(self, app: Any, **more: Any) -> Any:
        def start_response(*given: Any) -> Callable[[bytes], None]:
            self.started.append(given)
            return self.written.append

        return WsgiApplication(app, lambda: self.middleware)(environ(**more), start_response)

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
    assert CURRENT.get() is None
    assert made.recorder.open_count == 0
    made.recorder.stop()


def answers(*items: bytes, status: str = "200 OK") -> Any:
    def app(_environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response(status, JSON)
        yield from items

    return app


def test_an_answer_is_noted_and_nothing_is_changed(bench: Bench) -> None:
    assert list(bench.call(answers(b"", b"a", b"b"))) == [b"", b"a", b"b"]
    assert bench.started == [("200 OK", JSON)]
    record, exchange = bench.only()
    assert (exchange.method, exchange.status, exchange.route) == ("POST", 200, CHAT)
    assert (exchange.server_address, exchange.server_port) == ("127.0.0.1", 8000)
    assert record.start_ns <= (exchange.first_byte_ns or 0) <= (exchange.last_byte_ns or 0) == record.end_ns
    assert (record.operation, record.outcome) == ("chat", Outcome.FINISHED)
    assert record.headers is not None
    assert record.headers["traceparent"] == "00-1-2-01"


def test_headers_are_a_carrier_without_the_body() -> None:
    headers = EnvironHeaders(environ(HTTP_X_B="\xe9"))
    assert dict(headers) == {"traceparent": "00-1-2-01", "x-b": "\xe9"}
    assert (len(headers), headers.get("absent"), headers.get("X-B")) == (2, None, "\xe9")
    assert headers.size > 0
    with pytest.raises(KeyError):
        headers["absent"]


@pytest.mark.parametrize(
    "result", [[b"a", b"b"], (b"a",), FileWrapper(io.BytesIO(b"a"))], ids=["list", "tuple", "file"]
)
def test_an_answer_in_one_piece_stays_the_object_that_it_is(bench: Bench, result: Any) -> None:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", JSON)
        return result

    assert bench.call(app) is result
    record, exchange = bench.only()
    assert record.outcome is Outcome.FINISHED
    assert exchange.last_byte_ns is not None


class Sized:
    """An iterable of one item that is closed."""

    def __init__(self) -> None:
        self.closed = 0
        self.name = "sized"

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"a"])

    def close(self) -> None:
        self.closed += 1


def test_what_a_server_asks_of_an_iterable_is_answered_by_it(bench: Bench) -> None:
    original = Sized()

    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", JSON)
        return original

    result = bench.call(app)
    assert (len(result), result.name) == (1, "sized")
    assert list(result) == [b"a"]
    result.close()
    assert original.closed == 1
    assert not hasattr(bench.call(answers()), "__len__")


def test_the_current_record_is_set_while_the_application_runs(bench: Bench) -> None:
    seen: list[RequestRecord | None] = []

    def app(_environ: Any, start_response: Any) -> Any:
        seen.append(CURRENT.get())
        start_response("200 OK", JSON)

        def body() -> Iterator[bytes]:
            try:
                seen.append(CURRENT.get())
                yield b"a"
                seen.append(CURRENT.get())
                yield b"b"
            finally:
                seen.append(CURRENT.get())

        return body()

    result = bench.call(app)
    assert CURRENT.get() is None
    for _ in result:
        assert CURRENT.get() is None
    record, _ = bench.only()
    assert seen == [record] * 4


# ---------------------------------------------------------------- ends of other kinds


@pytest.mark.fault(
    "requests",
    "the client of a WSGI server leaves in the middle of a stream",
    "the application's generator is closed as without ai-otel, and the request is cancelled",
)
def test_a_close_before_the_end_is_a_client_that_left(bench: Bench) -> None:
    closed = []

    def app(_environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", JSON)
        try:
            yield b"a"
            yield b"b"
        finally:
            closed.append(True)

    result = bench.call(app)
    assert next(iter(result)) == b"a"
    result.close()
    assert closed == [True]
    record, exchange = bench.only()
    assert (record.outcome, exchange.last_byte_ns) == (Outcome.CANCELLED, None)


def test_an_answer_that_the_server_drops_is_one_that_the_client_left(bench: Bench) -> None:
    bench.call(answers(b"a"))
    record, _ = bench.only()
    assert record.outcome is Outcome.CANCELLED


@pytest.mark.parametrize("when", ["call", "first", "later", "close"])
def test_an_exception_passes_on_and_ends_the_request(bench: Bench, when: str) -> None:
    class Body:
        def __iter__(self) -> Iterator[bytes]:
            if when == "first":
                raise KeyError("no")
            yield b"a"
            if when == "later":
                raise KeyError("no")

        def close(self) -> None:
            if when == "close":
                raise KeyError("no")

    def app(_environ: Any, start_response: Any) -> Any:
        if when == "call":
            raise KeyError("no")
        start_response("200 OK", JSON)
        return Body()

    def serve() -> None:
        result = bench.call(app)
        try:
            for _ in result:
                pass
        finally:
            result.close()

    with pytest.raises(KeyError, match="no"):
        serve()
    record, _ = bench.only()
    expected = (Outcome.FINISHED, None) if when == "close" else (Outcome.FAILED, "KeyError")
    assert (record.outcome, record.error_type) == expected


def test_the_last_status_before_the_first_byte_counts(bench: Bench) -> None:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", JSON)
        start_response("500 No", JSON, (KeyError, KeyError(), None))
        yield b"a"

    list(bench.call(app))
    assert [len(given) for given in bench.started] == [2, 3]
    record, exchange = bench.only()
    assert (exchange.status, record.outcome) == (500, Outcome.FAILED)


def test_what_is_written_directly_counts(bench: Bench) -> None:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", JSON)(b"a")
        return []

    assert bench.call(app) == []
    assert bench.written == [b"a"]
    assert bench.only()[1].first_byte_ns is not None

    def leaves(_environ: Any, start_response: Any) -> Any:
        bench.written = Broken()
        start_response("200 OK", JSON)(b"a")

    class Broken(list[bytes]):
        def append(self, _item: bytes) -> None:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        bench.call(leaves)
    assert bench.records[-1].outcome is Outcome.CANCELLED


@pytest.mark.parametrize(
    "more", [{"method": "GET"}, {"path": "/health"}, {"ai_otel.record": True}], ids=["GET", "health", "seen"]
)
def test_other_requests_pass_untouched(bench: Bench, more: dict[str, Any]) -> None:
    result = bench.call(answers(b"a"), **more)
    assert type(result).__name__ == "generator"
    assert bench.records == []


@pytest.mark.parametrize("status", ["200 OK", "307 Elsewhere"])
def test_what_is_no_inference_is_discarded(bench: Bench, status: str) -> None:
    path = CHAT if status[0] == "3" else "/v1/models"
    list(bench.call(answers(b"a", status=status), path=path))
    assert bench.records == []


def test_an_application_inside_of_another_is_the_same_request(bench: Bench) -> None:
    def app(given: Any, start_response: Any) -> Any:
        copied = {key: value for key, value in given.items() if key != "ai_otel.record"}
        return WsgiApplication(answers(b"a"), lambda: bench.middleware)(copied, start_response)

    assert list(bench.call(app)) == [b"a"]
    assert len(bench.records) == 1


# ---------------------------------------------------------------- as users meet it


def test_an_inference_inside_of_a_flask_handler_joins_its_request() -> None:
    flask = pytest.importorskip("flask")
    app = flask.Flask("app")

    @app.post("/v1/models/<name>:predict")
    def predict(name: str) -> Any:
        def body() -> Iterator[str]:
            with ai_otel.inference(model=name) as request:
                for word in ("a", "b"):
                    request.first_token()
                    yield word
                request.tokens(output=2)

        return app.response_class(body(), mimetype="text/plain")

    with captured(routes="/v1/models/{name}:predict=text_completion") as telemetry:
        headers = {"traceparent": f"00-{7:032x}-{9:016x}-01"}
        assert app.test_client().post("/v1/models/tiny:predict", headers=headers).data == b"ab"
        span = next(span for span in telemetry.spans if span.kind.name == "SERVER")
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == (7, 9)
        assert (span.attributes or {}).items() >= {
            "http.route": "/v1/models/<name>:predict",
            "gen_ai.request.model": "tiny",
            "gen_ai.usage.output_tokens": 2,
            "ai_otel.outcome": "finished",
        }.items()
        (duration,) = telemetry.points("gen_ai.server.request.duration")
        assert duration.count == 1


def test_the_answer_is_read(bench: Bench) -> None:
    text = json.dumps({"model": "mine-7b", "usage": {"completion_tokens": 5}}).encode()
    list(bench.call(answers(*(text[at : at + 1] for at in range(len(text))))))
    record, exchange = bench.only()
    assert exchange.complete is not None
    exchange.complete(record)
    assert (record.inferences[0].response_model, record.inferences[0].output_tokens) == ("mine-7b", 5)
