"""What is read of an answer while it passes."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest

from ai_otel.http.answers import HEAD_BYTES, TAIL_BYTES, Answer, AnswerValues

JSON = [(b"Content-Type", b"application/json; charset=utf-8")]
STREAM = [(b"content-type", b"text/event-stream")]
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
READ = AnswerValues("chatcmpl-1", "tiny", 7, 5, 4, ("stop",))


def chat(text: str = "hello", **more: Any) -> bytes:
    """An answer as OpenAI's servers write it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "model": "tiny", "choices": [choice], "usage": USAGE}
    return json.dumps({**answer, **more}).encode()


def stream(count: int = 3, *, usage: bool = True, end: str = "\n\n") -> bytes:
    """A stream as OpenAI's servers write it."""
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "tiny"}
    chunks: list[dict[str, Any]] = [
        {**base, "choices": [{"index": 0, "delta": {"content": f"word {n} "}, "finish_reason": None}]}
        for n in range(count)
    ]
    chunks.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage:
        chunks.append({**base, "choices": [], "usage": USAGE})
    return "".join(f"data: {json.dumps(chunk)}{end}" for chunk in chunks).encode() + f"data: [DONE]{end}".encode()


def read(pieces: Iterable[bytes], headers: list[tuple[bytes, bytes]]) -> AnswerValues:
    answer = Answer.of(headers)
    assert answer is not None
    for piece in pieces:
        answer.saw(piece)
    return answer.read()


def test_an_object_says_model_tokens_and_finish_reason() -> None:
    assert read([chat()], JSON) == READ


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
@pytest.mark.parametrize("count", [0, 3, 500])
def test_a_stream_says_the_same(count: int, end: str) -> None:
    assert read([stream(count, end=end)], STREAM) == READ._replace(streamed=True)


def test_a_stream_without_usage_says_no_tokens() -> None:
    values = read([stream(usage=False)], STREAM)
    assert (values.input_tokens, values.output_tokens) == (None, None)
    assert (values.model, values.finish_reasons) == ("tiny", ("stop",))


@pytest.mark.parametrize(("body", "headers"), [(chat(), JSON), (stream(), STREAM), (chat("x" * 20_000), JSON)])
def test_where_the_body_is_split_makes_no_difference(body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    expected = read([body], headers)
    for at in range(len(body) if len(body) < 2000 else 0):
        assert read([body[:at], body[at:]], headers) == expected
    assert read([body[at : at + 1] for at in range(len(body))], headers) == expected
    numbers = random.Random(5)
    for _ in range(50):
        cuts = sorted(numbers.choices(range(len(body)), k=numbers.randint(1, 40)))
        assert read([body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)], headers) == expected


def test_a_large_object_says_what_stands_at_its_ends() -> None:
    values = read([chat("x" * 1_000_000)], JSON)
    assert values == READ._replace(finish_reasons=None)


@pytest.mark.parametrize(
    "text",
    ['"usage": {"prompt_tokens": 1}', '{"usage": {"prompt_tokens": 1}}', '\\"usage\\": {}', "usage", '","usage":{'],
)
@pytest.mark.parametrize("size", [0, 3 * TAIL_BYTES])
def test_text_that_speaks_of_usage_is_no_usage(text: str, size: int) -> None:
    values = read([chat("x" * size + text * 20)], JSON)
    assert (values.input_tokens, values.output_tokens) == (7, 5)
    without = json.loads(chat("x" * size + text * 20))
    del without["usage"]
    values = read([json.dumps(without).encode()], JSON)
    assert (values.input_tokens, values.output_tokens) == (None, None)


def test_usage_of_an_inner_object_is_not_the_answers() -> None:
    inner = {"id": "a", "model": "m", "data": "x" * 20_000, "step": {"usage": {"prompt_tokens": 3}}}
    assert read([json.dumps(inner).encode()], JSON).input_tokens is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[1, 2]",
        b"{",
        b"\xff\xfe\x00" * 5000,
        chat()[:-1],
        chat()[:-40],
        b'{"usage": {"prompt_tokens": "7"}}',
        b'{"usage": {"prompt_tokens": 7.5, "completion_tokens": true}}',
        b'{"usage": {"prompt_tokens": -1}}',
        b'{"usage": [7]}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"usage":' * 100_000,
        b'{"choices": [{"finish_reason": 3}], "id": 1, "model": null}',
    ],
)
@pytest.mark.parametrize("headers", [JSON, STREAM])
@pytest.mark.fault(
    "requests", "a server without an adapter answers with broken or foreign JSON", "counts and model are absent"
)
def test_what_cannot_be_read_is_absent(body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    assert read([body], headers)._replace(streamed=False) == AnswerValues()


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"audio/wav")],
        [*JSON, (b"Content-Encoding", b"gzip")],
        [*STREAM, (b"content-encoding", b"br")],
    ],
)
def test_answers_of_another_kind_are_not_kept(headers: list[tuple[bytes, bytes]]) -> None:
    assert Answer.of(headers) is None


@pytest.mark.parametrize(
    "piece", [b"x" * 100_000_000, b"x" * 65_536, b"data: x\n\n", b"x"], ids=["100 MB", "64 KiB", "event", "byte"]
)
@pytest.mark.fault(
    "requests", "a server without an adapter answers with 100 MB, or without end", "a few kilobytes are kept"
)
def test_memory_stays_bounded_however_large_the_answer(piece: bytes) -> None:
    answer = Answer(streamed=True)
    tracemalloc.start()
    try:
        for _ in range(max(1, min(20_000, 200_000_000 // len(piece)))):
            answer.saw(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * (HEAD_BYTES + TAIL_BYTES)
    assert answer.kept_bytes < 4 * (HEAD_BYTES + TAIL_BYTES)


def test_reading_takes_no_longer_for_a_hostile_answer() -> None:
    """Everything that is read is within the limits, also of hostile text; a ratio, because machines differ."""

    def seconds(body: bytes) -> float:
        answer = Answer(streamed=False)
        answer.saw(body)
        best = 1.0
        for _ in range(20):
            begun = time.perf_counter()
            answer.read()
            best = min(best, time.perf_counter() - begun)
        return best

    usual = seconds(chat("x" * (TAIL_BYTES - 500)))
    for hostile in (b'{"usage":{' * 10_000, b',"usage":{}' * 10_000, b'"\\' * 20_000):
        assert seconds(hostile) < 300 * usual + 0.01


# ---------------------------------------------------------------- many small pieces


def test_small_pieces_are_noted_in_bundles_of_a_bounded_size() -> None:
    answer = Answer(streamed=True)
    most = 0
    for number in range(1000):
        piece = f'data: {{"id": "a", "n": {number}}}\n\n'.encode()
        if not answer.takes(piece):
            answer.saw(piece)
        most = max(most, answer.kept_bytes)
    last = b'data: {"usage": {"completion_tokens": 5}}\n\n'
    assert answer.takes(last)
    assert most < 32 * 1024
    answer.gather()
    assert answer.kept_bytes < 2 * TAIL_BYTES
    assert (answer.read().request_id, answer.read().output_tokens) == ("a", 5)


@pytest.mark.parametrize("body", [b"x" * 1025, bytearray(b"x"), memoryview(b"x"), None, "x"])
def test_other_pieces_are_checked(body: object) -> None:
    assert not Answer(streamed=True).takes(body)
