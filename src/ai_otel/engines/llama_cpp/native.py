"""
Requests to `xllamacpp.Server`: llama.cpp's own server, called from Python with the JSON of its HTTP interface.

The server reports counts and timings. Only the arrival of the first piece of a stream is measured here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ai_otel.engines.llama_cpp.reply import Json, Reply, count_choices, count_prompts, read_parameters
from ai_otel.hooks.arguments import Arguments
from ai_otel.record import Inference, clock
from ai_otel.recorder import Recorder

_GENERATES = frozenset({"chat", "text_completion"})

# The fields kept of a request until it ends. Its text is not kept.
_KEPT = frozenset(
    (
        "encoding_format",
        "frequency_penalty",
        "max_completion_tokens",
        "max_tokens",
        "n",
        "n_cmpl",
        "n_predict",
        "presence_penalty",
        "seed",
        "stop",
        "stream",
        "temperature",
        "top_k",
        "top_p",
    )
)


class NativeListener:
    """Watches one request and fills one inference."""

    __slots__ = ("_asked", "_expected", "_prompts", "_raw", "_recorder", "_reply", "inference", "item", "last")

    def __init__(self, recorder: Recorder, operation: str, request: Any) -> None:
        asked = _parsed(request)
        self._recorder = recorder
        self._reply = Reply()
        self._raw: list[str | bytes] = []
        self._asked = {name: asked[name] for name in _KEPT & asked.keys()}
        self._prompts = count_prompts(asked)
        self._expected = self._prompts * count_choices(asked) if operation in _GENERATES else 0
        self.last: Any = None
        self.item: Callable[[Any], None] | None = self._item
        stream = bool(asked.get("stream")) if operation in _GENERATES else None
        self.inference = recorder.begin(Inference("llama_cpp", operation, stream=stream))

    def _item(self, piece: Any) -> None:
        if self.inference.stream and self.inference.first_token_ns is None and not _before_first_token(piece):
            self.inference.first_token_ns = clock(self.inference)
        if isinstance(piece, (str, bytes)):
            self._keep(piece)
        elif isinstance(piece, dict):
            self._reply.add(piece)

    def _keep(self, piece: str | bytes) -> None:
        # Not parsed while it streams: of the pieces in between only the newest matters, and the last one of a choice.
        if self._raw and _between(self._raw[-1]):
            self._raw.pop()
        self._raw.append(piece)

    def ended(self, error: BaseException | None, *, closed: bool) -> None:
        """The call returned, raised, or was stopped by the callback."""
        for piece in self._raw:
            self._reply.add(_parsed(piece))
        outcome, error_type = self._reply.judge(error, expected=self._expected, closed=closed)
        self.inference.parameters = read_parameters(self._asked)
        # The record may wait for long: what it keeps holds neither the answer nor what the client sent.
        self._raw, self._asked, self.last = [], {}, None
        self.inference.read_engine = self._read_engine
        self._recorder.end(self.inference, outcome, error_type)

    def _read_engine(self, inference: Inference) -> None:
        self._reply.fill(inference, prompts=self._prompts, expected=self._expected)
        if self._expected == 1 and inference.choices:
            _place_first_token(inference)


def _place_first_token(inference: Inference) -> None:
    """
    Say when the first token was there.

    A stream brought it. A whole answer comes right after its last token, so the first one was there by the time that
    decoding took before that.
    """
    (choice,) = inference.choices
    if inference.first_token_ns is None and choice.decode_s is not None:
        inference.first_token_ns = max(inference.start_ns, inference.end_ns - int(choice.decode_s * 1e9))
    if inference.first_token_ns is not None:
        choice.first_token_s = (inference.first_token_ns - inference.start_ns) / 1e9


def _before_first_token(piece: Any) -> bool:
    # Progress through the prompt comes as pieces too, where the client asked for it; and so does an error.
    names = ("prompt_progress", "error")
    if isinstance(piece, dict):
        return any(name in piece for name in names)
    text = piece if isinstance(piece, str) else piece.decode(errors="replace") if isinstance(piece, bytes) else ""
    return any(f'"{name}":' in text for name in names)


def _between(piece: str | bytes) -> bool:
    """Whether this is a piece of a stream that ends no choice."""
    marks = ('"finish_reason":null', b'"finish_reason":null')
    return marks[0] in piece if isinstance(piece, str) else marks[1] in piece


def _parsed(request: Any) -> Json:
    """The JSON object that a caller passed or got: as a dictionary, or as text. Empty where it is something else."""
    if isinstance(request, (str, bytes)):
        try:
            request = json.loads(request)
        except (ValueError, RecursionError):
            # The client chooses the text and how deeply it is nested.
            return {}
    return request if isinstance(request, dict) else {}


class NativeHooks:
    """The functions that answer at the hook points of `xllamacpp.Server`."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def opener(self, operation: str) -> Callable[[Any, Arguments], NativeListener]:
        """What to do when a request of this operation comes."""

        def opened(_server: Any, arguments: Arguments) -> NativeListener:
            return NativeListener(self._recorder, operation, arguments.get("prompt"))

        return opened
