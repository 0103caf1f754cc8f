"""
What llama.cpp's server says about a request, in its own JSON: usage, timings, finish reasons, errors.

Source of the names: `tools/server/server-task.cpp` of llama.cpp, whose JSON is the same over HTTP and in-process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from ai_otel.export.limits import cut, cut_all
from ai_otel.record import Choice, Inference, Outcome, Parameters

Json = Mapping[str, Any]


class Reply:
    """Collects the pieces of one response. A whole response is one piece."""

    __slots__ = ("_index", "dimensions", "error", "model", "reasons", "request_id", "timings", "usage")

    def __init__(self) -> None:
        self.request_id: str | None = None
        self.model: str | None = None
        self.usage: Json | None = None
        self.timings: dict[int, Json] = {}
        """By choice. The server repeats them with every token when asked to, and else says them once, at the end."""
        self.reasons: dict[int, str] = {}
        self.error: Json | None = None
        self.dimensions: int | None = None
        self._index = 0

    def add(self, piece: Json) -> None:
        """Take in the next piece. Keeps numbers and names, never the answer itself."""
        for choice in piece.get("choices") or ():
            self._index = choice.get("index", 0)
            if choice.get("finish_reason") is not None:
                self.reasons[self._index] = choice["finish_reason"]
        self.usage = piece.get("usage") or self.usage
        timings = piece.get("timings")
        if timings is not None:
            # An answer in one piece has those of its first choice only; the usage of a stream follows its choice.
            self.timings[0 if len(piece.get("choices") or ()) > 1 else self._index] = timings
        if self.model is None:
            self.request_id, self.model = piece.get("id"), model_name(piece.get("model"))
        if isinstance(piece.get("error"), Mapping):
            self.error = _name_of(piece["error"])
        elif "code" in piece and "message" in piece:
            self.error = _name_of(piece)  # xllamacpp's own, where it could not read the server's answer
        if "data" in piece:
            self.dimensions = _dimensions(piece["data"])

    def judge(self, error: BaseException | None, *, expected: int, closed: bool) -> tuple[Outcome, str | None]:
        """How it ended; `expected` choices end by themselves."""
        if error is not None:
            refused = isinstance(error, (TypeError, ValueError)) and self.model is None
            return (Outcome.REJECTED if refused else Outcome.FAILED), type(error).__name__
        if self.error is not None:
            return _judge_error(self.error)
        if len(self.reasons) >= expected:
            return Outcome.FINISHED, None
        if closed:
            return Outcome.CANCELLED, Outcome.CANCELLED.value
        return Outcome.FAILED, "no_finish_reason"

    def fill(self, inference: Inference, *, prompts: int, expected: int) -> None:
        """Put what is known on the inference; `expected` choices were asked for, of so many prompts."""
        inference.request_id = self.request_id
        inference.model = inference.response_model = self.model
        inference.embedding_dimensions = self.dimensions
        inference.finish_reasons = tuple(self.reasons[index] for index in sorted(self.reasons)) or None
        inference.choices = [self._choice(index) for index in sorted({*self.reasons, *self.timings})]
        if expected == 0 and self.usage is not None:
            inference.choices = [Choice(completed=True, counted_input_tokens=self.usage.get("prompt_tokens"))]
        self._fill_tokens(inference, prompts, max(expected, 1))

    def _choice(self, index: int) -> Choice:
        reason, timings = self.reasons.get(index), self.timings.get(index)
        choice = Choice(finish_reason=reason, completed=reason is not None)
        if timings is not None:
            choice.counted_input_tokens = _prompt_tokens(timings)
            choice.cached_tokens = timings.get("cache_n")
            choice.output_tokens = timings.get("predicted_n")
            choice.prefill_s = _seconds(timings.get("prompt_ms"))
            choice.decode_s = _seconds(timings.get("predicted_ms"))
        return choice

    def _fill_tokens(self, inference: Inference, prompts: int, expected: int) -> None:
        usage, timings = self.usage, self.timings.get(0, {})
        if prompts == 1:
            cached = ((usage or {}).get("prompt_tokens_details") or {}).get("cached_tokens")
            inference.input_tokens = usage.get("prompt_tokens") if usage else _prompt_tokens(timings)
            inference.cached_tokens = timings.get("cache_n") if cached is None else cached
        if expected == 1:
            inference.output_tokens = usage.get("completion_tokens") if usage else timings.get("predicted_n")
        elif len(self.timings) == expected:
            # With several choices the server's own `usage` is that of one of them.
            inference.output_tokens = sum(each["predicted_n"] for each in self.timings.values())


def model_name(model: Any) -> str | None:
    """The name that the server gives its model: an alias, or without one the file's, less the directories."""
    if not isinstance(model, str) or not model:
        return None
    return PurePath(model).name if model.endswith(".gguf") else model


def _name_of(error: Json) -> Json:
    """The parts of an error that are read. Its message may hold the client's words."""
    return {name: error.get(name) for name in ("code", "type")}


def _judge_error(error: Json) -> tuple[Outcome, str]:
    code, kind = error.get("code"), error.get("type")
    name = kind if isinstance(kind, str) else str(code)
    # 501: not what this server was started for; 503: not ready yet. In both cases the engine did not begin.
    refused = isinstance(code, int) and (code < 500 or code in (501, 503))
    return (Outcome.REJECTED if refused else Outcome.FAILED), name


def _prompt_tokens(timings: Json) -> int | None:
    """All tokens of the prompt: `prompt_n` leaves out those that came from the cache."""
    if "cache_n" not in timings or "prompt_n" not in timings:
        return None
    return int(timings["cache_n"] + timings["prompt_n"])


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


def _dimensions(data: Any) -> int | None:
    """The length of the first vector; unknown where it is encoded, or one per token."""
    vector = data[0].get("embedding") if data and isinstance(data[0], Mapping) else None
    return len(vector) if isinstance(vector, list) and vector and isinstance(vector[0], float) else None


def read_parameters(request: Json) -> Parameters:
    """What the client asked for. It is the client's own JSON: a value of a wrong type is left out."""
    stop = request.get("stop")
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    choices = count_choices(request)
    encoding = request.get("encoding_format")
    limits = (request.get(name) for name in ("max_completion_tokens", "max_tokens", "n_predict"))
    return Parameters(
        max_tokens=next((limit for each in limits if (limit := _whole(each)) is not None and limit >= 0), None),
        temperature=_number(request.get("temperature")),
        top_p=_number(request.get("top_p")),
        top_k=_whole(request.get("top_k")),
        seed=_whole(request.get("seed")),
        stop_sequences=cut_all(stops) or None,
        frequency_penalty=_number(request.get("frequency_penalty")) or None,
        presence_penalty=_number(request.get("presence_penalty")) or None,
        choice_count=choices if choices > 1 else None,
        encoding_formats=(cut(encoding),) if isinstance(encoding, str) else None,
    )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def count_prompts(request: Json) -> int:
    """How many prompts a completion has: a list of numbers is one prompt in tokens."""
    prompt = request.get("prompt")
    if isinstance(prompt, list) and any(isinstance(each, (str, list)) for each in prompt):
        return len(prompt)
    return 1


def count_choices(request: Json) -> int:
    """How many answers each prompt gets."""
    return max(1, _whole(request.get("n_cmpl")) or _whole(request.get("n")) or 1)
