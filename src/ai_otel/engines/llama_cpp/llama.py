"""
Requests to `llama_cpp.Llama`, the class of llama-cpp-python.

A whole response carries the engine's own token count. A stream carries none: its tokens are counted where the engine's
generator of tokens runs. Prefill and decoding can be distinguished only there, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, Protocol

from ai_otel.engines.llama_cpp.reply import read_parameters
from ai_otel.hooks.arguments import Arguments
from ai_otel.hooks.responses import INSIDE
from ai_otel.record import Choice, Inference, Outcome, Progress, clock
from ai_otel.recorder import Recorder

_ASKED = (
    "frequency_penalty",
    "max_tokens",
    "presence_penalty",
    "seed",
    "stop",
    "temperature",
    "top_k",
    "top_p",
)


class Llama(Protocol):
    """The attributes of the engine that are read."""

    model_path: str


class Run:
    """Observes one run of the engine's generator, which is one prompt and one response, and counts its tokens."""

    __slots__ = ("_inference", "begun_ns", "first_ns", "item", "last", "last_ns", "prompt_tokens", "tokens")

    def __init__(self, inference: Inference, prompt_tokens: int | None) -> None:
        self._inference = inference
        self.prompt_tokens = prompt_tokens
        self.tokens = 0
        self.begun_ns = clock(inference)
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.last: Any = None
        self.item: Callable[[Any], None] | None = self._item

    def _item(self, _token: Any) -> None:
        self.last_ns = clock(self._inference)
        if self.first_ns is None:
            self.first_ns = self.last_ns
        self.tokens += 1

    def ended(self, error: BaseException | None, *, closed: bool) -> None:
        """The call that runs the generator says how it ended."""

    def choice(self) -> Choice:
        """What is known of this answer but its reason and length."""
        choice = Choice()
        if self.first_ns is not None and self.last_ns is not None:
            choice.counted_input_tokens = self.prompt_tokens
            choice.first_token_s = (self.first_ns - self._inference.start_ns) / 1e9
            choice.prefill_s = (self.first_ns - self.begun_ns) / 1e9
            choice.decode_s = (self.last_ns - self.first_ns) / 1e9
        return choice


class LlamaListener:
    """Watches one call of the engine, answered whole or as a stream, and fills one inference."""

    __slots__ = ("_asked", "_finish_reason", "_recorder", "_usage", "inference", "item", "last", "llama", "runs")

    def __init__(self, recorder: Recorder, llama: Llama, inference: Inference, arguments: Arguments) -> None:
        self._recorder = recorder
        self._asked = {name: arguments.get(name) for name in _ASKED}
        self._usage: Mapping[str, int] | None = None
        self._finish_reason: str | None = None
        self.llama: Llama | None = llama
        self.runs: list[Run] = []
        self.last: Any = None
        self.item: Callable[[Any], None] | None = self._item
        inference.progress = self._progress
        self.inference = recorder.begin(inference)

    def _progress(self) -> Progress:
        """Return the tokens of all runs. The engine does not report how much of a prompt was cached."""
        runs = tuple(self.runs)
        prompts = [run.prompt_tokens for run in runs]
        prompt = sum(each for each in prompts if each is not None) if runs and None not in prompts else None
        first_ns = runs[0].first_ns if runs else None
        if first_ns is None:
            return Progress(prompt, None, 0, prefilling=True)
        prefill_s = (first_ns - runs[0].begun_ns) / 1e9
        produced = sum(run.tokens for run in runs)
        return Progress(prompt, None, produced, prefilling=False, first_token_ns=first_ns, prefill_s=prefill_s)

    def _item(self, piece: Any) -> None:
        if isinstance(piece, tuple):  # embed(return_count=True)
            piece = {"usage": {"prompt_tokens": piece[1]}}
        if not isinstance(piece, Mapping):
            return
        for choice in piece.get("choices") or ():
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        self._usage = piece.get("usage") or self._usage
        if self.inference.request_id is None:
            self.inference.request_id = piece.get("id")
        if "data" in piece:
            self.inference.embedding_dimensions = _dimensions(piece["data"])

    def ended(self, error: BaseException | None, *, closed: bool) -> None:
        """The answer is there, or never will be."""
        outcome, error_type = self._judge(error, closed=closed)
        inference = self.inference
        inference.choices = [run.choice() for run in self.runs]
        if len(self.runs) == 1:
            inference.choices[0].output_tokens = self._produced(self.runs[0])
        inference.parameters = read_parameters(self._asked)
        # A record that waits for its turn must not keep a model in memory, nor the answer, nor what the client sent.
        self.llama, self.last, self._asked = None, None, {}
        inference.read_engine = self._read_engine
        self._recorder.end(inference, outcome, error_type)

    def _judge(self, error: BaseException | None, *, closed: bool) -> tuple[Outcome, str | None]:
        if isinstance(error, Exception):
            # So the engine says that a prompt is too long, or a parameter impossible, before it begins.
            refused = isinstance(error, ValueError) and not self.runs
            return (Outcome.REJECTED if refused else Outcome.FAILED), type(error).__name__
        if self._finish_reason is None and (closed or error is not None):
            return Outcome.CANCELLED, Outcome.CANCELLED.value
        return Outcome.FINISHED, None

    def _produced(self, run: Run) -> int | None:
        """Tokens of the answer. The token that ends a generation is not one of them, as in the engine's own usage."""
        if self._usage is not None:
            return self._usage.get("completion_tokens")
        ending = _ends_generation(self.llama, run.last) if run.tokens else False
        if ending is None:
            # Ended by such a token, or by a stop string that the caller gave or the chat format knows.
            return run.tokens if self._finish_reason in (None, "length") else None
        return run.tokens - ending

    def _read_engine(self, inference: Inference) -> None:
        inference.finish_reasons = (self._finish_reason,) if self._finish_reason is not None else None
        for choice in inference.choices:
            choice.finish_reason = self._finish_reason
            choice.completed = inference.outcome is Outcome.FINISHED
        if not inference.choices and self._usage is not None:
            counted = self._usage.get("prompt_tokens")
            inference.choices = [Choice(completed=True, counted_input_tokens=counted)]
        self._fill_tokens(inference)

    def _fill_tokens(self, inference: Inference) -> None:
        if self._usage is not None:
            inference.input_tokens = self._usage.get("prompt_tokens")
            inference.output_tokens = self._usage.get("completion_tokens")
        elif len(inference.choices) == 1:
            inference.input_tokens = inference.choices[0].counted_input_tokens
            inference.output_tokens = inference.choices[0].output_tokens
        if self.runs:
            inference.first_token_ns = self.runs[0].first_ns


def _ends_generation(llama: Any, token: Any) -> bool | None:
    """Whether the engine takes `token` for an end, asked the way it asks itself; `None` where that cannot be done."""
    ends = getattr(sys.modules.get("llama_cpp"), "llama_vocab_is_eog", None)
    vocab = getattr(getattr(llama, "_model", None), "vocab", None)
    return bool(ends(vocab, token)) if ends is not None and vocab is not None else None


def _dimensions(data: Any) -> int | None:
    vector = data[0]["embedding"] if data else None
    return len(vector) if vector and isinstance(vector[0], float) else None


def _call_around(llama: Llama) -> LlamaListener | None:
    """The call of the same engine that runs now, of which this one is a part."""
    watch: object = INSIDE.get()
    return watch if isinstance(watch, LlamaListener) and watch.llama is llama else None


class LlamaHooks:
    """The functions that answer at the hook points of `llama_cpp.Llama`. Its methods call each other: one counts."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def completion(self, llama: Llama, arguments: Arguments) -> LlamaListener | None:
        """`create_completion` is called, by a program, by `__call__`, or by a chat format."""
        return self._open(llama, arguments, "text_completion", stream=bool(arguments.get("stream")))

    def chat(self, llama: Llama, arguments: Arguments) -> LlamaListener | None:
        """`create_chat_completion` is called."""
        return self._open(llama, arguments, "chat", stream=bool(arguments.get("stream")))

    def embedding(self, llama: Llama, arguments: Arguments) -> LlamaListener | None:
        """`create_embedding` is called."""
        return self._open(llama, arguments, "embeddings")

    def embed(self, llama: Llama, arguments: Arguments) -> LlamaListener | None:
        """`embed` is called, by a program or by `create_embedding`."""
        return self._open(llama, arguments, "embeddings")

    def generate(self, llama: Llama, arguments: Arguments) -> Run | None:
        """The engine begins to work on a prompt."""
        watch = _call_around(llama)
        if watch is None:
            return None
        tokens = arguments.get("tokens")
        run = Run(watch.inference, len(tokens) if hasattr(tokens, "__len__") else None)
        watch.runs.append(run)
        return run

    def _open(
        self, llama: Llama, arguments: Arguments, operation: str, *, stream: bool | None = None
    ) -> LlamaListener | None:
        if _call_around(llama) is not None:
            return None
        # The name that the caller passes, and gets back, can be any client's invention.
        model = PurePath(llama.model_path).name
        inference = Inference("llama_cpp", operation, model=model, response_model=model, stream=stream)
        return LlamaListener(self._recorder, llama, inference, arguments)
