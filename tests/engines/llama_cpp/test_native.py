"""Real llama.cpp through `xllamacpp`: what the spans say is what the server said."""

from __future__ import annotations

import contextvars
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ai_otel.engines.llama_cpp import LlamaCppAdapter
from ai_otel.hooks import guard
from ai_otel.hooks.patch import Patcher
from ai_otel.record import Inference, Outcome
from ai_otel.recorder import CURRENT, Recorder

pytestmark = pytest.mark.requires(module="xllamacpp")

PROMPT = "the people write about the house and the water"
CHAT = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 12, "ignore_eos": True}
TEXT = {"prompt": PROMPT, "max_tokens": 7, "ignore_eos": True}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def tokens(inference: Inference) -> dict[str, int | None]:
    return {
        "prompt_tokens": inference.input_tokens,
        "completion_tokens": inference.output_tokens,
        "cached_tokens": inference.cached_tokens,
    }


def usage(answer: dict[str, Any]) -> dict[str, int]:
    reported = answer["usage"]
    names = ("prompt_tokens", "completion_tokens")
    return {name: reported[name] for name in names} | {"cached_tokens": answer["timings"]["cache_n"]}


# ---------------------------------------------------------------- whole answers


def test_a_completion_carries_the_servers_own_counts_and_timings(observed: Any, server: Any) -> None:
    answer = server.handle_completions({**TEXT, "temperature": 0.5, "seed": 7, "stop": ["zzz"], "top_k": 20})
    inference = observed.only()
    (choice,) = inference.choices
    assert tokens(inference) == usage(answer)
    assert (inference.operation, inference.outcome, inference.stream) == ("text_completion", Outcome.FINISHED, False)
    assert (inference.model, inference.request_id) == ("tiny.gguf", answer["id"])
    assert inference.finish_reasons == ("length",)
    asked = inference.parameters
    assert (asked.max_tokens, asked.temperature, asked.seed, asked.top_k) == (7, 0.5, 7, 20)
    assert asked.stop_sequences == ("zzz",)
    assert asked.top_p is None
    assert choice.prefill_s == pytest.approx(answer["timings"]["prompt_ms"] / 1e3)
    assert choice.decode_s == pytest.approx(answer["timings"]["predicted_ms"] / 1e3)
    assert choice.queue_s is None


def test_the_first_token_lies_where_the_phases_leave_room(observed: Any, server: Any) -> None:
    server.handle_completions({**TEXT, "max_tokens": 60})
    inference = observed.only()
    (choice,) = inference.choices
    first_s = (inference.first_token_ns - inference.start_ns) / 1e9
    assert choice.first_token_s == pytest.approx(first_s)
    assert choice.prefill_s <= first_s
    assert first_s + choice.decode_s <= (inference.end_ns - inference.start_ns) / 1e9 + 1e-6


def test_a_chat_counts_its_cached_tokens_as_input(observed: Any, server: Any) -> None:
    server.handle_chat_completions(CHAT)
    answer = server.handle_chat_completions(CHAT)
    inference = observed.records()[-1].inferences[0]
    assert inference.operation == "chat"
    assert tokens(inference) == usage(answer)
    assert 0 < inference.cached_tokens < inference.input_tokens


def test_embeddings_carry_their_tokens_and_dimensions(observed: Any, server: Any) -> None:
    answer = server.handle_embeddings({"input": ["the house", "water"], "encoding_format": "float"})
    inference = observed.only()
    assert (inference.operation, inference.outcome) == ("embeddings", Outcome.FINISHED)
    assert inference.input_tokens == answer["usage"]["prompt_tokens"]
    assert inference.embedding_dimensions == 64
    assert (inference.output_tokens, inference.stream, inference.parameters.encoding_formats) == (
        None,
        None,
        ("float",),
    )


def test_with_several_choices_unknown_stays_unknown(observed: Any, server: Any) -> None:
    """The server's usage is that of the first choice, its own counters count all: neither is said to be the sum."""
    answer = server.handle_completions({**TEXT, "n": 2})
    inference = observed.only()
    assert answer["usage"]["completion_tokens"] == 7
    assert inference.output_tokens is None
    assert inference.input_tokens == answer["usage"]["prompt_tokens"]
    assert [choice.output_tokens for choice in inference.choices] == [7, None]
    assert inference.finish_reasons == ("length", "length")


def test_two_prompts_are_two_choices(observed: Any, server: Any) -> None:
    server.handle_completions({**TEXT, "prompt": [PROMPT, "water"]})
    inference = observed.only()
    assert (inference.input_tokens, inference.output_tokens) == (None, None)
    assert [choice.output_tokens for choice in inference.choices] == [7, None]


# ---------------------------------------------------------------- streams


def collect(call: Callable[..., Any], request: Any) -> list[Any]:
    pieces: list[Any] = []
    assert call(request, pieces.append) is None
    return pieces


@pytest.mark.parametrize("more", [{}, {"stream_options": {"include_usage": True}}, {"timings_per_token": True}])
@pytest.mark.parametrize("operation", ["text_completion", "chat"])
def test_a_stream_is_counted_however_the_server_reports_it(
    observed: Any, server: Any, operation: str, more: dict[str, Any]
) -> None:
    call, request = (server.handle_chat_completions, CHAT) if operation == "chat" else (server.handle_completions, TEXT)
    pieces = collect(call, {**request, "stream": True, **more})
    inference = observed.only()
    timings = pieces[-1]["timings"]
    assert inference.output_tokens == request["max_tokens"] == timings["predicted_n"]
    assert inference.input_tokens == timings["cache_n"] + timings["prompt_n"]
    assert inference.cached_tokens == timings["cache_n"]
    assert (inference.stream, inference.outcome, inference.finish_reasons) == (True, Outcome.FINISHED, ("length",))
    assert inference.request_id == pieces[0]["id"]


def test_the_first_token_of_a_stream_is_its_first_piece(observed: Any, server: Any) -> None:
    seen: list[int] = []
    server.handle_completions({**TEXT, **STREAM}, lambda _: seen.append(time.time_ns()) or False)
    inference = observed.only()
    assert inference.start_ns <= inference.first_token_ns <= seen[0] + 1_000_000
    assert inference.choices[0].first_token_s == pytest.approx((inference.first_token_ns - inference.start_ns) / 1e9)


def test_progress_through_the_prompt_is_no_token(observed: Any, server: Any) -> None:
    long = "the house and the water " * 40
    pieces = collect(
        server.handle_completions, {**TEXT, **STREAM, "prompt": long, "return_progress": True, "cache_prompt": False}
    )
    first = next(piece for piece in pieces if "prompt_progress" not in piece)
    inference = observed.only()
    assert pieces.index(first) > 0, "the server reported no progress"
    assert inference.choices[0].first_token_s >= inference.choices[0].prefill_s


def test_a_stream_of_two_choices_reports_the_tokens_of_both(observed: Any, server: Any) -> None:
    collect(server.handle_chat_completions, {**CHAT, "stream": True, "n": 2})
    inference = observed.only()
    assert inference.output_tokens == 24
    assert [choice.output_tokens for choice in inference.choices] == [12, 12]
    assert inference.parameters.choice_count == 2


@pytest.mark.parametrize("text", [str, lambda request: request.encode()], ids=["str", "bytes"])
def test_requests_and_answers_in_text_are_read_too(observed: Any, server: Any, text: Any) -> None:
    pieces = collect(server.handle_chat_completions, text(json.dumps({**CHAT, **STREAM})))
    inference = observed.only()
    assert type(pieces[0]) is type(text("a"))
    assert tokens(inference) == usage(json.loads(pieces[-1]))
    assert (inference.stream, inference.finish_reasons, inference.parameters.max_tokens) == (True, ("length",), 12)


@pytest.mark.parametrize("text", [dict, json.dumps], ids=["dict", "str"])
def test_a_stopped_stream_keeps_what_the_server_had_reported(observed: Any, server: Any, text: Any) -> None:
    """A client that hangs up is still charged for what was generated, where the server says how much that was."""
    pieces: list[Any] = []

    def hang_up(piece: Any) -> bool:
        pieces.append(piece)
        return len(pieces) == 5

    request = {**TEXT, "max_tokens": 300, "stream": True, "timings_per_token": True}
    server.handle_completions(text(request), hang_up)
    inference = observed.only()
    last = pieces[-1] if isinstance(pieces[-1], dict) else json.loads(pieces[-1])
    assert len(pieces) == 5
    assert (inference.outcome, inference.error_type) == (Outcome.CANCELLED, "cancelled")
    assert inference.output_tokens == last["timings"]["predicted_n"] == 5
    assert inference.input_tokens == last["timings"]["cache_n"] + last["timings"]["prompt_n"]
    assert inference.finish_reasons is None
    assert [choice.completed for choice in inference.choices] == [False]


def test_without_a_word_from_the_server_nothing_is_invented(observed: Any, server: Any) -> None:
    server.handle_completions({**TEXT, "max_tokens": 300, "stream": True}, lambda _: True)
    inference = observed.only()
    assert inference.outcome is Outcome.CANCELLED
    assert (inference.input_tokens, inference.output_tokens, inference.choices) == (None, None, [])
    assert inference.first_token_ns is not None


def test_a_callback_that_raises_stops_the_stream(observed: Any, server: Any) -> None:
    def broken(_: Any) -> None:
        raise ConnectionResetError

    assert server.handle_completions({**TEXT, "max_tokens": 300, "stream": True}, broken) is None
    assert observed.only().outcome is Outcome.CANCELLED


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        ({"max_tokens": 3}, "invalid_request_error"),
        ({**TEXT, "prompt": "the people " * 900}, "exceed_context_size_error"),
        ({**TEXT, **STREAM, "prompt": "the people " * 900}, "exceed_context_size_error"),
    ],
)
def test_a_refusal_is_rejected_with_the_servers_word_for_it(
    observed: Any, server: Any, request_: Any, kind: str
) -> None:
    pieces: list[Any] = []
    answer = server.handle_completions(request_, *([pieces.append] if request_.get("stream") else []))
    assert (answer or pieces[0])["error"]["code"] == 400
    inference = observed.only()
    assert (inference.outcome, inference.error_type) == (Outcome.REJECTED, kind)
    assert (inference.output_tokens, inference.first_token_ns) == (None, None)


def test_what_the_server_was_not_started_for_is_rejected(observed: Any, server: Any) -> None:
    answer = server.handle_rerank({"query": "a", "documents": ["b"]})
    inference = observed.only()
    assert answer["error"]["code"] == 501
    assert (inference.operation, inference.outcome, inference.error_type) == (
        "rerank",
        Outcome.REJECTED,
        "not_supported_error",
    )


@pytest.mark.parametrize("request_", [{**TEXT, "stream": True}, 5, {"prompt": object()}])
def test_an_exception_comes_out_and_is_reported(observed: Any, server: Any, request_: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        server.handle_completions(request_)
    inference = observed.only()
    assert (inference.outcome, inference.error_type) == (Outcome.REJECTED, raised.type.__name__)


# ---------------------------------------------------------------- safety


def test_undo_restores_identity(server: Any) -> None:
    import xllamacpp

    names = [point.path.rpartition(".")[2] for point in LlamaCppAdapter.hooks if "xllamacpp" in point.target]
    before = {name: vars(xllamacpp.Server)[name] for name in names}
    patcher = Patcher("llama_cpp")
    LlamaCppAdapter().attach(Recorder(lambda _: None), patcher)
    assert [each.state for each in patcher.attachments if "xllamacpp" in each.point.target] == ["attached"] * 4
    assert all(vars(xllamacpp.Server)[name] is not before[name] for name in names)
    patcher.undo()
    assert all(vars(xllamacpp.Server)[name] is before[name] for name in names)
    assert xllamacpp.xllamacpp.Server is xllamacpp.Server


def test_an_engine_that_is_imported_later_is_observed() -> None:
    """The hooks wait for the compiled module inside the package."""
    program = """
from ai_otel.engines.llama_cpp import LlamaCppAdapter
from ai_otel.hooks.patch import Patcher
from ai_otel.recorder import Recorder
patcher = Patcher("llama_cpp")
LlamaCppAdapter().attach(Recorder(print), patcher)
import xllamacpp
print([each.state for each in patcher.attachments])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(["attached"] * 4 + ["waiting"] * 5)


def test_the_callback_sees_the_same_pieces_and_its_answer_counts(observed: Any, server: Any) -> None:
    pieces: list[Any] = []
    server.handle_completions(prompt={**TEXT, **STREAM}, callback=pieces.append)
    assert [piece["choices"][0]["text"] != "" for piece in pieces].count(True) == 7
    observed.only()


def test_a_hook_that_fails_changes_nothing(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    patcher = Patcher("llama_cpp")
    recorder = Recorder(lambda _: None)
    LlamaCppAdapter().attach(recorder, patcher)
    monkeypatch.setattr("ai_otel.engines.llama_cpp.native.Reply.add", lambda *_: 1 / 0)
    try:
        assert server.handle_completions(TEXT)["usage"]["completion_tokens"] == 7
        assert len(collect(server.handle_completions, {**TEXT, **STREAM})) == 8
        assert guard.errors["xllamacpp.xllamacpp:Server.handle_completions"] > 0
    finally:
        patcher.undo()
        guard.errors.clear()


def test_parallel_requests_do_not_mix(observed: Any, server: Any) -> None:
    def one(length: int) -> int:
        pieces = collect(server.handle_completions, {**TEXT, **STREAM, "max_tokens": length})
        return int(pieces[-1]["usage"]["completion_tokens"])

    with ThreadPoolExecutor(6) as pool:
        reported = list(pool.map(one, range(3, 43)))
    inferences = [record.inferences[0] for record in observed.records()]
    assert sorted(inference.output_tokens for inference in inferences) == sorted(reported) == list(range(3, 43))


def test_a_request_on_another_thread_belongs_to_the_call_that_made_it(observed: Any, server: Any) -> None:
    """As an asynchronous server does it: the engine runs on a thread, in a copy of the request's context."""
    record = observed.recorder.open("chat")
    token = CURRENT.set(record)
    thread = threading.Thread(target=contextvars.copy_context().run, args=(server.handle_completions, TEXT))
    thread.start()
    thread.join()
    CURRENT.reset(token)
    observed.recorder.close(record)
    (only,) = observed.records()
    assert only is record
    assert only.inferences[0].output_tokens == 7
