"""From vLLM's objects to an `Inference`: parameters, answers, timings, errors. Pure functions, read by name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

from ai_otel.engines.vllm.request_states import State, first_stats, read_choice
from ai_otel.export.limits import cut_all
from ai_otel.record import Inference, Outcome, Parameters

# Exceptions that refuse a request before the engine works on it, by class name: most are younger than 0.11.1.
_REFUSALS = {"QueueOverflowError": "queue_full", "MaxQueuedTokensError": "queue_tokens_full"}
_CLIENT_ERRORS = frozenset({"VLLMClientError", "VLLMValidationError", "GracefulHTTPError", "ValueError", "TypeError"})

_BROKEN_OFF = frozenset({"abort", "error"})
"""Finish reasons of answers that did not come to their end."""
_FINISHED = (Outcome.FINISHED, None)

# vLLM's pooling tasks in the conventions' words; the others (`classify`, `score`, …) are legal values as they are.
_POOLING_OPERATIONS = {"embed": "embeddings", "token_embed": "embeddings"}


class SamplingParams(Protocol):
    """The sampling parameters that are read; 0 and -1 switch `top_k` off."""

    n: int
    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: list[str] | str | None
    frequency_penalty: float
    presence_penalty: float
    output_kind: Any


class CompletionOutput(Protocol):
    """One answer; `token_ids` are all tokens so far, or only the new ones while streaming."""

    index: int
    token_ids: Sequence[int]
    finish_reason: str | None


class RequestOutput(Protocol):
    """What `generate` yields, `encode` too but with one answer that is no list."""

    outputs: list[CompletionOutput]
    prompt_token_ids: list[int] | None
    finished: bool
    num_cached_tokens: int | None


class EndedOutput(NamedTuple):
    """What is kept of the last output of a request that has ended; the output itself holds prompt and answer."""

    finished: bool
    pooling: bool
    prompt_tokens: int | None


def ended_output(output: Any, reasons: dict[int, str] | None = None) -> EndedOutput | None:
    """What is kept of an output, `None` where there was none. Adds the reasons of the answers that have ended."""
    if output is None or isinstance(output, EndedOutput):
        return output
    answers: Any = getattr(output, "outputs", None)
    pooling = type(answers) is not list
    if reasons is not None and not pooling:
        for answer in answers:
            reason = answer.finish_reason
            if reason is not None:
                reasons[answer.index] = reason
    prompt = getattr(output, "prompt_token_ids", None)
    finished = bool(getattr(output, "finished", False))
    return _new(EndedOutput, (finished, pooling, None if prompt is None else len(prompt)))


_new = tuple.__new__  # a third of what the constructor takes


Sampled = tuple[Any, ...]

# In one call: it is made before a request ends. `Parameters` are made of it afterwards.
_sampled = attrgetter(
    "n",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "output_kind",
    "stop",
)


def sampled(params: Any) -> Sampled | None:
    """What is kept of sampling parameters; `None` for other parameters. A schema for the answer can be large."""
    if type(params) is tuple:
        return params
    if not hasattr(params, "n"):
        return None
    kept: Sampled = _sampled(params)
    stop = kept[-1]
    return kept if not stop else (*kept[:-1], cut_all([stop] if isinstance(stop, str) else stop))


def is_stream(params: Any) -> bool:
    """Whether the answer is delivered in pieces (`RequestOutputKind.DELTA`)."""
    kind = params[-2] if isinstance(params, tuple) else getattr(params, "output_kind", None)
    return getattr(kind, "name", "") == "DELTA"


def read_sampling(kept: Sampled) -> Parameters:
    """What the client asked for; neutral values are left out."""
    n, max_tokens, temperature, top_p, top_k, seed, frequency_penalty, presence_penalty, _kind, stop = kept
    return Parameters(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k if top_k > 0 else None,
        seed=seed,
        stop_sequences=stop or None,
        frequency_penalty=frequency_penalty or None,
        presence_penalty=presence_penalty or None,
        choice_count=n if n != 1 else None,
    )


def pooling_operation(params: Any) -> str | None:
    """The operation of a pooling request."""
    task = getattr(params, "task", None)
    return _POOLING_OPERATIONS.get(task, task) if isinstance(task, str) else None


def reasons_of(output: Any) -> Iterable[tuple[int, str]]:
    """Index and finish reason of each answer of `output` that has ended."""
    outputs = getattr(output, "outputs", None)
    for answer in outputs if isinstance(outputs, list) else ():
        if answer.finish_reason is not None:
            yield answer.index, answer.finish_reason


def finished_by_engine(last: Any, states: Sequence[State]) -> bool:
    """Whether the engine came to the end by itself, be it that the caller had left before it took the last output."""
    waiting = [getattr(getattr(state, "queue", None), "output", None) for state in states]
    ends = [output for output in (last, *waiting) if getattr(output, "finished", False)]
    return any("abort" not in dict(reasons_of(output)).values() for output in ends)


def fill(inference: Inference, states: Sequence[State], last: EndedOutput | None, reasons: Mapping[int, str]) -> None:
    """
    Fill counts and timings from the engine's states and the last output.

    Token counts are the client's figures: the prompt once, however many choices were made of it.
    """
    done = last is not None and last.finished
    pooling = last is not None and last.pooling
    inference.choices = []
    for index, state in enumerate(states):
        reason = reasons.get(index)
        completed = reason not in (None, "abort") or (pooling and done)
        inference.choices.append(read_choice(state, reason, completed=completed))
    if states:
        inference.input_tokens = states[0].prompt_len
        produced = [choice.output_tokens for choice in inference.choices]
        if not pooling and all(tokens is not None for tokens in produced):
            inference.output_tokens = sum(tokens or 0 for tokens in produced)
        inference.cached_tokens = inference.choices[-1].cached_tokens
        _fill_times(inference, states)
    if last is not None and last.prompt_tokens is not None:
        inference.input_tokens = last.prompt_tokens
    inference.finish_reasons = tuple(reasons[index] for index in sorted(reasons)) or None


def _fill_times(inference: Inference, states: Sequence[State]) -> None:
    stats = first_stats(states)
    if stats is not None:
        inference.arrival_ns = int(stats.arrival_time * 1e9)
        inference.first_token_ns = inference.arrival_ns + int(stats.first_token_latency * 1e9)


def judge(
    error: BaseException | None, reasons: Mapping[int, str], *, finished: bool, produced: bool, closed: bool
) -> tuple[Outcome, str | None]:
    """How a request ended, and the error's low-cardinality name."""
    if isinstance(error, Exception):
        return _judge_error(error, produced=produced)
    if not _BROKEN_OFF.isdisjoint(reasons.values()):
        if "abort" in reasons.values():
            return Outcome.CANCELLED, Outcome.CANCELLED.value
        return Outcome.FAILED, "engine_error"
    if finished:
        return _FINISHED
    if closed or isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return Outcome.CANCELLED, Outcome.CANCELLED.value
    return Outcome.ABANDONED, Outcome.ABANDONED.value


def refusal_of(error: BaseException) -> str | None:
    """Why admission refused, if that is what this error says."""
    names = (kind.__name__ for kind in type(error).__mro__)
    return next((_REFUSALS[name] for name in names if name in _REFUSALS), None)


def _judge_error(error: Exception, *, produced: bool) -> tuple[Outcome, str]:
    reason = refusal_of(error)
    if reason is not None:
        return Outcome.REJECTED, reason
    names = [kind.__name__ for kind in type(error).__mro__]
    if not produced and not _CLIENT_ERRORS.isdisjoint(names):
        return Outcome.REJECTED, names[0]
    # vLLM wraps what really happened in an EngineGenerateError.
    cause = error.__cause__ if names[0] == "EngineGenerateError" and error.__cause__ is not None else error
    return Outcome.FAILED, type(cause).__name__
