"""A waiting record of llama.cpp's server keeps counts and names: neither prompt, nor answer, nor the client's JSON."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from ai_otel.engines.llama_cpp.native import NativeHooks
from ai_otel.hooks.arguments import Arguments
from ai_otel.record import Inference
from records import WaitingRecorder

ANSWER = {
    "id": "chatcmpl-1",
    "model": "tiny.gguf",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "a" * 1_000_000}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5},
    "timings": {"cache_n": 3, "prompt_n": 4, "predicted_n": 5, "prompt_ms": 10.0, "predicted_ms": 20.0},
}
REFUSED = {"error": {"code": 400, "type": "invalid_request_error", "message": "m" * 1_000_000}}


def served(request: dict[str, Any], *answers: Any) -> tuple[Inference, int]:
    """The read inference of one call, and the bytes that its record kept while it waited."""
    recorder = WaitingRecorder()
    opener = NativeHooks(recorder).opener("chat")
    tracemalloc.start()
    listener: Any = opener(None, Arguments({"prompt": 0}, (json.dumps(request),), {}))
    for answer in answers:
        listener.last = answer
        listener.item(answer)
    answers = ()
    listener.ended(None, closed=False)
    del listener
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (inference,) = recorder.read().inferences
    return inference, kept


LONG = {
    "messages": [{"role": "user", "content": "p" * 1_000_000}],
    "max_tokens": 5,
    "seed": 2**63,
    "temperature": "t" * 1_000_000,
    "stop": ["s" * 1_000_000],
    "encoding_format": "e" * 1_000_000,
}


@pytest.mark.fault(
    "requests",
    "requests with long prompts wait for their export, in a llama.cpp server",
    "a record that waits holds numbers and names; prompts, answers and the client's JSON are free",
)
@pytest.mark.parametrize("as_text", [True, False], ids=["text", "dictionary"])
def test_a_waiting_record_holds_no_text(*, as_text: bool) -> None:
    answer = json.dumps(ANSWER) if as_text else ANSWER
    inference, kept = served(LONG, answer)
    assert kept < 50_000
    assert (inference.model, inference.input_tokens, inference.output_tokens) == ("tiny.gguf", 7, 5)
    asked = inference.parameters
    assert (asked.max_tokens, asked.temperature) == (5, None)
    assert asked.stop_sequences == ("s" * 1024,)
    assert asked.encoding_formats == ("e" * 1024,)


def test_the_message_of_an_error_is_not_kept() -> None:
    inference, kept = served(LONG, json.dumps(REFUSED))
    assert kept < 50_000
    assert inference.error_type == "invalid_request_error"
