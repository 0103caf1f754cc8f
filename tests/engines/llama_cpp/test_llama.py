"""`llama_cpp.Llama`, on a stand-in that `test_fake.py` holds against the real sources."""

from __future__ import annotations

import gc
import importlib
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ai_otel.record import Outcome

FAKE = Path(__file__).parent / "fake"
ENDS = [5, 6, 7, 2, 8]  # the fourth token ends the generation
MESSAGES = [{"role": "user", "content": "how are you"}]


@pytest.fixture
def llama_cpp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in, freshly imported: hooks wait for the import, as in a server."""
    monkeypatch.syspath_prepend(str(FAKE))
    yield lambda: importlib.import_module("llama_cpp")
    for name in [name for name in sys.modules if name.partition(".")[0] == "llama_cpp"]:
        del sys.modules[name]


@pytest.fixture
def llama(llama_cpp: Any, observed: Any) -> Any:
    return llama_cpp().Llama("/models/small.gguf", script=ENDS)


def counts(inference: Any) -> tuple[int | None, int | None]:
    return inference.input_tokens, inference.output_tokens


# ---------------------------------------------------------------- whole answers


def test_a_completion_carries_the_engines_usage(observed: Any, llama: Any) -> None:
    answer = llama.create_completion("how are you", max_tokens=9, temperature=0.5, stop="zzz", presence_penalty=0.0)
    inference = observed.only()
    assert counts(inference) == (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (4, 3)
    assert (inference.operation, inference.outcome, inference.stream) == ("text_completion", Outcome.FINISHED, False)
    assert (inference.model, inference.request_id) == ("small.gguf", answer["id"])
    assert inference.finish_reasons == ("stop",)
    asked = inference.parameters
    assert (asked.max_tokens, asked.temperature, asked.stop_sequences, asked.presence_penalty) == (
        9,
        0.5,
        ("zzz",),
        None,
    )


def test_prefill_and_decoding_are_distinguished_by_the_first_token(observed: Any, llama: Any) -> None:
    llama.create_completion("how are you")
    inference = observed.only()
    (choice,) = inference.choices
    assert inference.start_ns <= inference.first_token_ns <= inference.end_ns
    assert 0 < choice.prefill_s <= choice.first_token_s
    assert choice.first_token_s + choice.decode_s <= (inference.end_ns - inference.start_ns) / 1e9
    assert choice.queue_s is None


def test_calling_the_model_is_one_completion(observed: Any, llama: Any) -> None:
    assert llama("how are you", max_tokens=2)["usage"]["completion_tokens"] == 2
    inference = observed.only()
    assert (counts(inference), inference.finish_reasons) == ((4, 2), ("length",))


def test_a_chat_is_one_request_and_not_a_completion_too(observed: Any, llama: Any) -> None:
    answer = llama.create_chat_completion(MESSAGES)
    inference = observed.only()
    assert inference.operation == "chat"
    assert counts(inference) == (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"])


def test_embeddings_are_counted_where_the_engine_counts_them(observed: Any, llama: Any) -> None:
    answer = llama.create_embedding(["the house", "water"])
    inference = observed.only()
    assert (inference.operation, inference.outcome) == ("embeddings", Outcome.FINISHED)
    assert (inference.input_tokens, inference.embedding_dimensions) == (answer["usage"]["prompt_tokens"], 8)
    assert llama.embed("the house", return_count=True)[1] == observed.only().input_tokens == 2
    assert llama.embed("the house") == [0.5] * 8
    assert observed.only().input_tokens is None


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize(
    ("asked", "produced", "reason"),
    [
        ({"max_tokens": 2}, 2, "length"),
        ({}, 3, "stop"),
        ({"stop": ["6"]}, 2, "stop"),
        ({"stop": ["never"]}, 3, "stop"),
    ],
    ids=["length", "end of generation", "stop string", "end of generation beside a stop string"],
)
@pytest.mark.parametrize("operation", ["text_completion", "chat"])
def test_a_stream_is_counted_like_a_whole_answer(
    observed: Any, llama: Any, operation: str, asked: dict[str, Any], produced: int, reason: str
) -> None:
    """The engine's streams carry no usage; the token that ends a generation is not part of the answer."""
    chat = operation == "chat"
    call, prompt = (llama.create_chat_completion, MESSAGES) if chat else (llama.create_completion, "how are you")
    whole = call(prompt, **asked)["usage"]
    observed.only()
    pieces = list(call(prompt, stream=True, **asked))
    inference = observed.only()
    assert counts(inference) == (4, produced) == (whole["prompt_tokens"], whole["completion_tokens"])
    assert (inference.operation, inference.stream, inference.finish_reasons) == (operation, True, (reason,))
    assert inference.request_id == pieces[0]["id"]


def test_a_chat_that_completes_while_it_streams_is_one_request(observed: Any, llama: Any) -> None:
    llama.chat_handler = sys.modules["llama_cpp.llama"].lazy_format
    list(llama.create_chat_completion(MESSAGES, stream=True))
    inference = observed.only()
    assert (inference.operation, inference.outcome) == ("chat", Outcome.FINISHED)
    assert len(inference.choices) == 2
    assert inference.output_tokens is None


def test_two_streams_at_a_time_do_not_mix(observed: Any, llama: Any) -> None:
    first, second = llama("a b c d e", stream=True), llama("a", stream=True, max_tokens=1)
    list(zip(first, second, strict=False))
    first.close()
    one, other = (record.inferences[0] for record in observed.records())
    assert sorted([counts(one), counts(other)]) == [(2, 1), (6, 3)]


def test_a_stream_that_is_left_keeps_its_tokens(observed: Any, llama: Any) -> None:
    stream = llama.create_chat_completion(MESSAGES, stream=True)
    next(stream)
    next(stream)
    stream.close()
    inference = observed.only()
    assert (inference.outcome, inference.error_type) == (Outcome.CANCELLED, "cancelled")
    assert counts(inference) == (4, 2)


def test_a_stream_that_is_dropped_unread_has_no_known_tokens(observed: Any, llama: Any) -> None:
    del llama.chat_handler  # nothing else is kept alive by it
    stream = llama("how are you", stream=True)
    del stream
    gc.collect()
    inference = observed.only()
    assert (inference.outcome, counts(inference)) == (Outcome.CANCELLED, (None, None))


def test_without_the_engines_own_test_a_stop_is_not_guessed(observed: Any, llama: Any) -> None:
    llama._model.vocab = None
    sys.modules["llama_cpp.llama"].llama_vocab_is_eog = lambda _, token: token == 2
    list(llama("how are you", stream=True))
    assert counts(observed.only()) == (4, None)
    list(llama("how are you", stream=True, max_tokens=2))
    assert counts(observed.only()) == (4, 2)


# ---------------------------------------------------------------- errors, safety


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_rejected(observed: Any, llama: Any, stream: bool) -> None:
    with pytest.raises(ValueError, match="exceed context window"):
        list(llama("word " * 99, stream=stream))
    inference = observed.only()
    assert (inference.outcome, inference.error_type) == (Outcome.REJECTED, "ValueError")
    assert counts(inference) == (None, None)


def test_an_engine_that_breaks_has_failed(observed: Any, llama: Any) -> None:
    def broken() -> Iterator[int]:
        yield 5
        raise RuntimeError("llama_decode returned -1")

    llama.script = broken()
    with pytest.raises(RuntimeError):
        llama("how are you")
    inference = observed.only()
    assert (inference.outcome, inference.error_type) == (Outcome.FAILED, "RuntimeError")
    assert counts(inference) == (4, 1)


def test_the_model_is_not_kept_in_memory(observed: Any, llama_cpp: Any) -> None:
    llama = llama_cpp().Llama("small.gguf")
    llama("how are you")
    gone = weakref.ref(llama)
    del llama
    gc.collect()
    assert gone() is None


def test_undo_restores_identity(observed: Any, llama_cpp: Any) -> None:
    cls = llama_cpp().Llama
    hooked = [each for each in observed.patcher.attachments if each.point.module == "llama_cpp.llama"]
    assert [each.state for each in hooked] == ["attached"] * 5
    names = [each.point.path.rpartition(".")[2] for each in hooked]
    originals = {name: vars(cls)[name].__wrapped__ for name in names}
    observed.patcher.undo()
    assert {name: vars(cls)[name] for name in names} == originals
