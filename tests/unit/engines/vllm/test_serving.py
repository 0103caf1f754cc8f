"""A waiting record keeps numbers and names of a served call: neither prompt, nor answer, nor arguments."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ai_otel.engines.vllm.serving import BeamListener, ServedListener, ServingHooks
from ai_otel.engines.vllm.stats import StatsState
from ai_otel.export.limits import MAX_CHARACTERS
from ai_otel.hooks.arguments import Arguments
from ai_otel.record import Inference, Outcome
from records import WaitingRecorder


class Held:
    """An object of the engine's or the caller's, of which a weak reference can be made."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


@pytest.fixture
def waiting() -> Iterator[WaitingRecorder]:
    gc.collect()
    gc.disable()  # objects must be free without it
    yield WaitingRecorder()
    gc.enable()


def read(waiting: WaitingRecorder) -> Inference:
    """The only inference of the newest record."""
    (inference,) = waiting.read().inferences
    return inference


def engine(*, traced: bool = False) -> Any:
    endpoint = "http://127.0.0.1:4317" if traced else None
    return SimpleNamespace(
        model_config=SimpleNamespace(served_model_name="served"),
        observability_config=SimpleNamespace(otlp_traces_endpoint=endpoint),
        log_stats=True,
    )


def stats() -> Any:
    return SimpleNamespace(
        num_generation_tokens=5,
        arrival_time=1_700_000_000.0,
        queued_ts=50.0,
        scheduled_ts=50.1,
        first_token_ts=50.3,
        last_token_ts=50.7,
        first_token_latency=0.35,
    )


def state(prompt: Any) -> Held:
    return Held(
        request_id="r",
        prompt=prompt,
        prompt_len=100,
        is_prefilling=False,
        num_cached_tokens=4,
        stats=stats(),
        queue=None,
    )


def output(prompt: Any) -> Held:
    answer = Held(index=0, finish_reason="stop", token_ids=[1, 2, 3], text="an answer")
    return Held(prompt=prompt, prompt_token_ids=[0] * 100, outputs=[answer], finished=True)


def params(**changes: Any) -> Held:
    usual = {
        "n": 1,
        "max_tokens": 16,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 0,
        "seed": 7,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "stop": [],
        "output_kind": SimpleNamespace(name="DELTA"),
    }
    return Held(**{**usual, **changes})


def serve(waiting: WaitingRecorder, *, served: Any = None, **passed: Any) -> list[weakref.ref[Any]]:
    """One call from its beginning to its end; references to what must not be kept."""
    prompt = Held(prompt_token_ids=list(range(25_000)))
    lora = SimpleNamespace(lora_name="adapter")
    given = {
        "sampling_params": params(),
        "request_id": "r",
        "lora_request": lora,
        "priority": 2,
        "data_parallel_rank": 1,
    }
    arguments = Arguments({"prompt": 0}, (prompt,), {**given, **passed})
    hooks = ServingHooks(waiting, StatsState())
    listener = hooks.generate(served or engine(), arguments)
    assert isinstance(listener, ServedListener)
    held = [prompt, arguments._kwargs["sampling_params"], state(prompt), output(prompt)]
    listener.states.append(held[2])
    listener.last = held[3]
    listener.ended(None, closed=False)
    return [weakref.ref(each) for each in held]


@pytest.mark.fault(
    "requests",
    "requests with long prompts end faster than they are exported",
    "a record that waits holds numbers and names; prompts and answers are free when their call has ended",
)
def test_a_waiting_record_holds_no_object_of_the_call(waiting: WaitingRecorder) -> None:
    assert [reference() for reference in serve(waiting)] == [None] * 4
    inference = read(waiting)
    (choice,) = inference.choices
    assert (inference.model, inference.response_model, inference.lora) == ("adapter", "served", "adapter")
    assert (inference.priority, inference.engine_index, inference.outcome) == (2, 1, Outcome.FINISHED)
    assert (inference.input_tokens, inference.output_tokens, inference.cached_tokens) == (100, 5, 4)
    assert (inference.finish_reasons, choice.completed) == (("stop",), True)
    assert choice.queue_s == pytest.approx(0.1)
    assert inference.stream
    asked = inference.parameters
    assert (asked.max_tokens, asked.temperature, asked.seed, asked.top_k, asked.choice_count) == (
        16,
        0.5,
        7,
        None,
        None,
    )
    assert inference.progress is not None
    progress = inference.progress()
    assert progress is not None
    assert progress.output_tokens == 5


def test_many_waiting_records_take_little_memory(waiting: WaitingRecorder) -> None:
    """Each prompt is 25,000 tokens: 200 kB at least."""
    serve(waiting)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(100):
        serve(waiting)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(waiting._queue) == 101
    assert (after - before) / 100 < 8_000


def test_what_the_client_wrote_is_cut_before_the_record_waits(waiting: WaitingRecorder) -> None:
    tracemalloc.start()
    serve(waiting, request_id="r" * 60_000, sampling_params=params(stop=["s" * 1_000_000] * 8))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after < 50_000
    inference = read(waiting)
    assert inference.request_id == "r" * MAX_CHARACTERS
    assert inference.parameters.stop_sequences == ("s" * MAX_CHARACTERS,) * 4
    serve(waiting, sampling_params=params(stop="END", n=2))
    assert read(waiting).parameters.stop_sequences == ("END",)


@pytest.mark.parametrize("traced", [True, False])
def test_a_request_that_the_engine_traced_is_known_as_such(waiting: WaitingRecorder, *, traced: bool) -> None:
    serve(waiting, served=engine(traced=traced))
    assert read(waiting).traced is traced


def test_a_failure_while_letting_go_does_not_keep_the_request_open(waiting: WaitingRecorder) -> None:
    broken = SimpleNamespace(n=1)  # of another version: not one of the other fields
    with pytest.raises(AttributeError):
        serve(waiting, sampling_params=broken)
    assert len(waiting._queue) == 1
    assert waiting.open_count == 0


def test_a_call_that_still_runs_is_read_as_it_is(waiting: WaitingRecorder) -> None:
    """Its client has left, and the record is closed before the engine's stream has ended."""
    hooks = ServingHooks(waiting, StatsState())
    arguments = Arguments({}, (), {"sampling_params": params(), "request_id": "r"})
    listener = hooks.generate(engine(traced=True), arguments)
    assert listener is not None
    listener.states.append(state("prompt"))  # type: ignore[arg-type]
    inference = listener
    assert inference.read_engine is not None
    inference.read_engine(inference)
    assert (inference.model, inference.input_tokens, inference.output_tokens) == ("served", 100, 5)
    assert (inference.parameters.max_tokens, inference.traced, inference.outcome) == (16, False, None)


@pytest.mark.fault(
    "requests",
    "a client leaves, and its request is exported before the engine's stream has ended",
    "nothing of the request is kept when the stream ends at last",
)
def test_a_call_that_ends_after_its_record_was_released_leaves_nothing(waiting: WaitingRecorder) -> None:
    hooks = ServingHooks(waiting, StatsState())
    server, prompt = Held(**vars(engine())), Held()
    given = {"sampling_params": params(), "request_id": "r", "lora_request": Held()}
    listener = hooks.generate(server, Arguments({}, (), given))
    assert listener is not None
    assert listener.record is not None
    kept = [weakref.ref(each) for each in (server, prompt, given["sampling_params"], given["lora_request"])]
    listener.states.append(state(prompt))  # type: ignore[arg-type]
    waiting.close(listener.record)
    listener.record.release()
    given.clear()
    del server, prompt
    assert [reference() for reference in kept] == [None] * 4
    assert listener.progress is None
    listener.last = output("prompt")
    listener.ended(None, closed=True)
    assert not hooks.states
    assert listener.outcome is Outcome.FINISHED
    assert waiting.open_count == 0


# ---------------------------------------------------------------- beam search


def test_a_beam_search_keeps_the_prompt_of_the_running_round_only(waiting: WaitingRecorder) -> None:
    hooks = ServingHooks(waiting, StatsState())
    beams = Held(beam_width=2, max_tokens=3)
    server = SimpleNamespace(engine_client=engine())
    listener = hooks.beam_search(server, Arguments({}, (), {"request_id": "r", "params": beams}))
    assert isinstance(listener, BeamListener)
    references: list[weakref.ref[Any]] = []
    for number in range(3):
        for index in range(2):
            request_id = f"r-{number}-beam-{index}"
            assert hooks.generate(engine(), Arguments({}, (), {"request_id": request_id})) is None
            made = state("prompt")
            references.append(weakref.ref(made))
            listener.states.append(made)  # type: ignore[arg-type]
            del made
    assert [reference() is None for reference in references] == [True] * 4 + [False] * 2
    answer = Held(index=0, finish_reason=None, token_ids=[1, 2, 3])
    last = Held(prompt_token_ids=[0] * 100, outputs=[answer, answer], finished=True)
    references += [weakref.ref(last), weakref.ref(answer), weakref.ref(beams)]
    listener.last = last
    del last, answer, beams
    listener.ended(None, closed=False)
    assert [reference() for reference in references] == [None] * 9
    inference = read(waiting)
    assert len(inference.choices) == 6
    assert (inference.beam_width, inference.parameters.max_tokens) == (2, 3)
    assert (inference.input_tokens, inference.output_tokens, inference.cached_tokens) == (100, 6, None)
    assert inference.finish_reasons == ("length", "length")
