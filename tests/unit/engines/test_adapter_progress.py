"""Progress of a running inference: counts only grow, and values that the engine does not report are absent."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from ai_otel.engines.llama_cpp.llama import LlamaListener
from ai_otel.engines.vllm.request_states import read_progress
from ai_otel.engines.vllm.serving import ServedListener, ServingHooks
from ai_otel.engines.vllm.stats import StatsState
from ai_otel.hooks.responses import INSIDE
from ai_otel.record import Inference, Outcome, Progress
from ai_otel.recorder import Recorder

ARRIVAL_S = 1_700_000_000.0


def state(
    *,
    prompt: int = 100,
    cached: int = 0,
    tokens: int = 0,
    first_after_s: float = 0.0,
    scheduled_ts: float = 50.2,
    first_ts: float = 50.5,
) -> Any:
    """A request state of vLLM's, as it is after so many tokens."""
    prefilling = tokens == 0
    stats = SimpleNamespace(
        num_generation_tokens=tokens,
        arrival_time=ARRIVAL_S,
        queued_ts=50.0,
        scheduled_ts=0.0 if prefilling else scheduled_ts,
        first_token_ts=0.0 if prefilling else first_ts,
        last_token_ts=0.0,
        first_token_latency=first_after_s,
    )
    return SimpleNamespace(
        request_id="r",
        prompt_len=prompt,
        is_prefilling=prefilling,
        num_cached_tokens=0 if prefilling else cached,
        stats=stats,
    )


# ---------------------------------------------------------------- vLLM


def test_before_vllm_has_taken_it_in_nothing_is_known() -> None:
    assert read_progress([]) == Progress(None, None, 0, prefilling=True)


def test_a_prompt_that_waits_or_is_computed_has_its_length() -> None:
    assert read_progress([state(prompt=70)]) == Progress(70, None, 0, prefilling=True)


def test_all_times_are_known_with_the_first_token() -> None:
    reported = read_progress([state(cached=64, tokens=3, first_after_s=0.6)])
    assert reported is not None
    assert reported[:4] == (100, 64, 3, False)
    assert reported.first_token_ns == int((ARRIVAL_S + 0.6) * 1e9)
    assert reported.prefill_s == pytest.approx(0.3)


def test_the_choices_of_a_request_add_up() -> None:
    """Each computes the prompt, but for what is cached by then; the first token is the earliest."""
    later = state(tokens=4, cached=96, first_after_s=0.9)
    reported = read_progress([later, state(tokens=7, first_after_s=0.5), state()])
    assert reported is not None
    assert reported[:4] == (300, 96, 11, False)
    assert reported.first_token_ns == int((ARRIVAL_S + 0.5) * 1e9)


def test_without_statistics_nothing_is_reported() -> None:
    silent = state(tokens=3)
    silent.stats = None
    assert read_progress([state(tokens=3, first_after_s=0.1), silent]) is None


def test_a_request_whose_events_are_missing_has_no_prefill_time() -> None:
    reported = read_progress([state(tokens=3, first_after_s=0.1, scheduled_ts=0.0)])
    assert reported is not None
    assert reported.prefill_s is None


class Engine:
    """vLLM's front end, as far as it is read."""

    model_config = SimpleNamespace(served_model_name=["served", "alias"])
    observability_config = SimpleNamespace(otlp_traces_endpoint=None)
    log_stats = True


def test_a_served_request_reports_its_model_with_its_progress() -> None:
    """It is read on request, not on the request's path."""
    recorder = Recorder(lambda _record: None)
    hooks = ServingHooks(recorder, StatsState())
    arguments: Any = Arguments({"request_id": "r", "sampling_params": SimpleNamespace(n=1)})
    watch = hooks.generate(Engine(), arguments)
    assert isinstance(watch, ServedListener)
    inference = watch
    assert inference.model is None
    assert inference.progress is not None
    watch.states.append(state(tokens=2, first_after_s=0.1))
    reported = inference.progress()
    assert reported is not None
    assert (reported.output_tokens, inference.model) == (2, "served")
    recorder.end(inference, Outcome.CANCELLED)
    assert inference.record is not None
    inference.record.release()
    assert inference.progress is None
    recorder.stop()


class Arguments(dict[str, Any]):
    """The arguments of a call, by name."""


# ---------------------------------------------------------------- llama.cpp


def watch(recorder: Recorder) -> LlamaListener:
    arguments: Mapping[str, Any] = {}
    llama: Any = SimpleNamespace(model_path="/models/tiny.gguf")
    return LlamaListener(recorder, llama, Inference("llama_cpp", model="tiny.gguf"), Arguments(arguments))  # type: ignore[arg-type]


def test_a_llama_reports_each_token_of_its_run() -> None:
    from ai_otel.engines.llama_cpp.llama import LlamaHooks

    recorder = Recorder(lambda _record: None)
    watched = watch(recorder)
    progress = watched.inference.progress
    assert progress is not None
    assert progress() == Progress(None, None, 0, prefilling=True)

    token = INSIDE.set(watched)
    assert watched.llama is not None
    run = LlamaHooks(recorder).generate(watched.llama, Arguments({"tokens": [1, 2, 3]}))  # type: ignore[arg-type]
    INSIDE.reset(token)
    assert run is not None
    assert progress() == Progress(3, None, 0, prefilling=True)
    for piece in range(4):
        assert run.item is not None
        run.item(piece)
    reported = progress()
    assert reported is not None
    assert reported[:4] == (3, None, 4, False)
    assert reported.first_token_ns == run.first_ns
    assert reported.prefill_s is not None
    assert reported.prefill_s >= 0
    recorder.stop()
