"""What a server's own code reports."""

from __future__ import annotations

import asyncio
import queue
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

import ai_otel
from ai_otel import semconv
from ai_otel.hooks import guard
from ai_otel.testing import Captured, Clock, captured

PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


def only(telemetry: Captured) -> dict[str, Any]:
    """The attributes of the only span."""
    (span,) = telemetry.spans
    return dict(span.attributes or {})


def test_a_block_is_one_finished_request_with_its_tokens_and_phases() -> None:
    clock = Clock()
    with captured(clock=clock) as telemetry:
        with ai_otel.inference("chat", provider="mine", model="tiny", input_tokens=12, temperature=0.5) as request:
            clock.advance(1)
            request.scheduled()
            clock.advance(2)
            request.first_token()
            clock.advance(4)
            request.tokens(output=5, cached=8)
            request.finish("stop")
            clock.advance(8)
        tree = telemetry.tree().splitlines()
        (*phases, span) = sorted(telemetry.spans, key=lambda each: each.name == "chat tiny")
        counts = {name: telemetry.points(name)[0].sum for name in TIMES}
        input_tokens = [(dict(p.attributes), p.value) for p in telemetry.points("ai_otel.usage.input_tokens")]
    assert tree[0].startswith("chat tiny SERVER finished")
    assert {phase.name: (phase.end_time - phase.start_time) / 1e9 for phase in phases} == {
        "queue": 1,
        "prefill": 2,
        "decode": 4,
    }
    assert dict(span.attributes) == {
        semconv.GEN_AI_OPERATION_NAME: "chat",
        semconv.GEN_AI_PROVIDER_NAME: "mine",
        semconv.GEN_AI_REQUEST_MODEL: "tiny",
        semconv.GEN_AI_REQUEST_TEMPERATURE: 0.5,
        semconv.GEN_AI_RESPONSE_FINISH_REASONS: ("stop",),
        semconv.GEN_AI_USAGE_INPUT_TOKENS: 12,
        semconv.GEN_AI_USAGE_OUTPUT_TOKENS: 5,
        semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: 8,
        semconv.AI_OTEL_OUTCOME: "finished",
        semconv.AI_OTEL_TIME_TO_FIRST_TOKEN: 3,
    }
    assert counts == TIMES
    assert input_tokens == [({"gen_ai.provider.name": "mine", "gen_ai.request.model": "tiny"}, 12)]


TIMES = {
    "gen_ai.server.request.duration": 7,
    "gen_ai.server.time_to_first_token": 3,
    "gen_ai.server.time_per_output_token": 1,
    "ai_otel.request.queue.duration": 1,
    "ai_otel.request.prefill.duration": 2,
    "ai_otel.request.decode.duration": 4,
}


def test_what_is_not_known_is_absent() -> None:
    with captured() as telemetry:
        with ai_otel.inference("embeddings"):
            pass
        attributes = only(telemetry)
        assert telemetry.points("gen_ai.server.time_to_first_token") == []
        assert telemetry.points("ai_otel.usage.output_tokens") == []
    assert attributes == {
        semconv.GEN_AI_OPERATION_NAME: "embeddings",
        semconv.GEN_AI_PROVIDER_NAME: "custom",
        semconv.AI_OTEL_OUTCOME: "finished",
    }


@pytest.mark.parametrize(
    ("error", "outcome", "error_type"),
    [
        (ValueError("no"), "failed", "ValueError"),
        (asyncio.CancelledError(), "cancelled", "cancelled"),
        (GeneratorExit(), "cancelled", "cancelled"),
        (KeyboardInterrupt(), "failed", "KeyboardInterrupt"),
    ],
)
def test_the_exception_that_leaves_the_block_ends_the_request(
    error: BaseException, outcome: str, error_type: str
) -> None:
    with captured() as telemetry:
        with pytest.raises(type(error)) as raised, ai_otel.inference("chat"):
            raise error
        attributes = only(telemetry)
    assert raised.value is error
    assert (attributes[semconv.AI_OTEL_OUTCOME], attributes[semconv.ERROR_TYPE]) == (outcome, error_type)


@pytest.mark.parametrize(
    ("end", "outcome", "error_type"),
    [
        (lambda request: request.fail("timeout"), "failed", "timeout"),
        (lambda request: request.reject("queue_full"), "rejected", "queue_full"),
        (lambda request: request.cancel(), "cancelled", "cancelled"),
        (lambda request: request.finish("length"), "finished", None),
    ],
)
def test_the_first_end_holds(end: Any, outcome: str, error_type: str | None) -> None:
    def serve() -> None:
        with ai_otel.inference("chat") as request:
            end(request)
            request.fail("late")
            raise OSError("later")

    with captured() as telemetry:
        with pytest.raises(OSError, match="later"):
            serve()
        attributes = only(telemetry)
    assert (attributes[semconv.AI_OTEL_OUTCOME], attributes.get(semconv.ERROR_TYPE)) == (outcome, error_type)


def test_begun_without_a_block_it_ends_where_the_application_says() -> None:
    with captured() as telemetry:
        request = ai_otel.inference("chat").start()
        assert telemetry.spans == ()
        thread = threading.Thread(target=request.finish)
        thread.start()
        thread.join()
        assert only(telemetry)[semconv.AI_OTEL_OUTCOME] == "finished"


def test_the_callers_trace_context_is_the_parent() -> None:
    with captured() as telemetry:
        with ai_otel.inference("chat", headers=PARENT):
            pass
        (span,) = telemetry.spans
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}" in PARENT["traceparent"]


def test_without_instrumentation_every_call_does_nothing() -> None:
    assert ai_otel.start.current() is None  # type: ignore[attr-defined]
    with ai_otel.inference("chat") as request, ai_otel.batch([request]), ai_otel.attach(request.carry()):
        request.scheduled()
        request.first_token()
        request.tokens(output=1)
        request.finish("stop")


class Numpy:
    """An integer of another library."""

    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("given", "exported"), [(Numpy(), 7), (0, 0), (-1, None), ("7", None), (7.5, None), (2**64, None)]
)
@pytest.mark.fault(
    "requests", "the application reports a number of tokens that is none", "logged once; the count is absent"
)
def test_what_is_no_number_of_tokens_is_left_out(given: Any, exported: int | None) -> None:
    with captured() as telemetry:
        with ai_otel.inference("chat", input_tokens=given) as request:
            request.tokens(output=given, cached=given)
        attributes = only(telemetry)
    assert attributes.get(semconv.GEN_AI_USAGE_INPUT_TOKENS) == exported
    assert attributes.get(semconv.GEN_AI_USAGE_OUTPUT_TOKENS) == exported


# ---------------------------------------------------------------- decorators


def test_a_decorated_function_is_a_request_for_each_call() -> None:
    @ai_otel.inference("embeddings", model="tiny")
    def embed(text: str) -> list[float]:
        """Embed."""
        return [len(text) / 2]

    @ai_otel.inference("embeddings", model="tiny")
    async def embed_later(text: str) -> list[float]:
        return [len(text) / 2]

    with captured() as telemetry:
        assert embed("abc") == [1.5]
        assert asyncio.run(embed_later("abc")) == [1.5]
        with pytest.raises(TypeError):
            embed(1)  # type: ignore[arg-type]
        outcomes = [(span.attributes or {})[semconv.AI_OTEL_OUTCOME] for span in telemetry.spans]
    assert outcomes == ["finished", "finished", "failed"]
    assert (embed.__name__, embed.__doc__, asyncio.iscoroutinefunction(embed_later)) == ("embed", "Embed.", True)


def test_a_decorated_generator_is_a_request_until_its_last_item() -> None:
    @ai_otel.inference("chat")
    def answer(count: int) -> Iterator[str]:
        for _ in range(count):
            yield "word"

    @ai_otel.inference("chat")
    async def answer_later(count: int) -> AsyncIterator[str]:
        for _ in range(count):
            yield "word"

    async def collect() -> list[str]:
        return [item async for item in answer_later(2)]

    async def leave() -> None:
        items = answer_later(2)
        async for _ in items:
            break
        await items.aclose()  # type: ignore[attr-defined]

    with captured() as telemetry:
        assert list(answer(3)) == ["word"] * 3
        assert asyncio.run(collect()) == ["word"] * 2
        asyncio.run(leave())
        left = answer(2)
        next(left)
        del left
        spans = [dict(span.attributes or {}) for span in telemetry.spans if span.name == "chat"]
    assert [each[semconv.AI_OTEL_OUTCOME] for each in spans] == ["finished", "finished", "cancelled", "cancelled"]
    assert all(semconv.AI_OTEL_TIME_TO_FIRST_TOKEN in each for each in spans)


@pytest.mark.fault(
    "requests",
    "a decorated generator receives values and exceptions from its consumer, and returns a value",
    "all of it passes as without the decorator",
)
def test_a_decorated_generator_receives_what_its_consumer_sends() -> None:
    def converse() -> Generator[str, str, str]:
        received = yield "first"
        try:
            yield received
        except KeyError:
            yield "handled"
        return "result"

    async def converse_later() -> AsyncGenerator[str, str]:
        received = yield "first"
        try:
            yield received
        except KeyError:
            yield "handled"

    def consume(items: Generator[str, str, str]) -> list[str]:
        taken = [next(items), items.send("sent"), items.throw(KeyError("thrown"))]
        try:
            next(items)
        except StopIteration as end:
            taken.append(end.value)
        return taken

    async def consume_later(items: AsyncGenerator[str, str]) -> list[str]:
        taken = [await items.__anext__(), await items.asend("sent"), await items.athrow(KeyError("thrown"))]
        return [*taken, *[item async for item in items]]

    decorate = ai_otel.inference("chat")
    with captured() as telemetry:
        assert consume(decorate(converse)()) == consume(converse())
        assert asyncio.run(consume_later(decorate(converse_later)())) == asyncio.run(consume_later(converse_later()))
        outcomes = [(span.attributes or {})[semconv.AI_OTEL_OUTCOME] for span in telemetry.spans if span.name == "chat"]
    assert outcomes == ["finished", "finished"]


@pytest.mark.fault(
    "requests",
    "the application passes headers that are no mapping, or whose values are no text",
    "the request is reported, without a parent",
)
@pytest.mark.parametrize(
    "headers", [list(PARENT.items()), "traceparent", 5, {"traceparent": 5}, {"traceparent": list(PARENT.values())}]
)
def test_headers_that_cannot_be_read_cost_the_parent_only(headers: Any) -> None:
    with captured() as telemetry:
        with ai_otel.inference("chat", headers=headers) as request:
            carrier = request.carry()
        (span,) = telemetry.spans
        assert set(carrier.headers) <= {"traceparent"}
    assert span.parent is None


@pytest.mark.fault(
    "requests", "the application passes to `batch` what is no request", "it is logged once, and the block runs"
)
def test_a_batch_of_what_is_no_request_runs() -> None:
    before = guard.errors["manual"]
    with ai_otel.batch([None, 1]):  # type: ignore[list-item]
        ran = True
    assert ran
    assert guard.errors["manual"] == before + 2


# ---------------------------------------------------------------- the page


class Model:
    """Generates its prompt again."""

    def generate(self, tokens: list[int]) -> Iterator[int]:
        yield from tokens


def test_the_code_of_the_page_runs_as_written() -> None:
    page = Path(__file__).parents[3] / "docs" / "manual.md"
    report, decorate, join, test = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    names: dict[str, Any] = {"model": Model(), "work": queue.Queue(), "prompt": "a b"}
    with captured() as telemetry:
        for block in (report, decorate, join):
            exec(block, names)
        names["embed"](["text"])
        assert list(names["stream"]("x")) == ["first", "second"]
        assert [span.name for span in telemetry.spans] == ["chat", "embeddings tiny", "chat tiny"]
    exec(test, names)


# ---------------------------------------------------------------- several requests


def test_a_batch_schedules_its_requests_together_and_fails_them_together() -> None:
    clock = Clock()
    with captured(clock=clock) as telemetry:
        requests = [ai_otel.inference("embeddings").start() for _ in range(3)]
        clock.advance(2)
        with ai_otel.batch(requests):
            requests[0].finish()
        with pytest.raises(MemoryError), ai_otel.batch(requests):
            raise MemoryError
        outcomes = sorted(str((span.attributes or {})[semconv.AI_OTEL_OUTCOME]) for span in telemetry.spans)
        (queued,) = telemetry.points("ai_otel.request.queue.duration")
    assert outcomes == ["failed", "failed", "finished"]
    assert (queued.count, queued.sum) == (1, 2)
