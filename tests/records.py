"""
Records of every kind, as adapters and the HTTP middleware would fill them; all times are seconds after `START_NS`.

`EVERY_KIND` is what conformance judges: one of everything that can happen to a request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ai_otel.record import Choice, Cost, DeviceEvent, Energy, Exchange, Inference, Outcome, Parameters, RequestRecord
from ai_otel.recorder import Recorder
from ai_otel.testing import Captured

START_NS = 1_700_000_000_000_000_000

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


def at(seconds: float) -> int:
    """Wall-clock nanoseconds, so many seconds after the start."""
    return START_NS + round(seconds * 1e9)


CHOICE = Choice(
    finish_reason="stop",
    completed=True,
    counted_input_tokens=7,
    output_tokens=5,
    cached_tokens=4,
    first_token_s=0.35,
    queue_s=0.1,
    prefill_s=0.2,
    decode_s=0.4,
    preemptions=0,
)
"""Queued for 0.1 s from 0.05 on, prefill 0.2 s, first token at 0.35, decode 0.4 s."""


def choice(**changes: Any) -> Choice:
    """`CHOICE` with changes."""
    return replace(CHOICE, **changes)


def inference(*choices: Choice, **changes: Any) -> Inference:
    """A finished chat of 7 + 5 tokens, from 0 to 1 s, with its first token at 0.35 s."""
    made = Inference("fake", "chat", "req-1", "tiny", "tiny")
    made.choices = list(choices) or [choice()]
    made.start_ns, made.end_ns, made.arrival_ns, made.first_token_ns = at(0), at(1), at(0), at(0.35)
    made.input_tokens, made.output_tokens, made.cached_tokens = 7, 5, 4
    made.finish_reasons, made.outcome = ("stop",), Outcome.FINISHED
    return replace(made, **changes)


def unknown(**changes: Any) -> Inference:
    """An inference of which nothing is known but that it was there."""
    return replace(Inference("fake", start_ns=at(0), end_ns=at(1), outcome=Outcome.FINISHED), **changes)


def exchange(status: int | None = 200, **changes: Any) -> Exchange:
    """A chat completion over HTTP."""
    made = Exchange("POST", "/v1/chat/completions", status, server_address="127.0.0.1", server_port=8000)
    made.first_byte_ns = at(0.4) if status is not None else None
    made.last_byte_ns = at(1) if status is not None else None
    return replace(made, **changes)


def call(*inferences: Inference, **changes: Any) -> RequestRecord:
    """The record of one call from 0 to 1 s, closed."""
    made = RequestRecord("chat", inferences=list(inferences), start_ns=at(0), end_ns=at(1), closed=True)
    return replace(made, **changes)


ASKED = Parameters(
    max_tokens=16,
    temperature=0.7,
    top_p=0.9,
    top_k=40,
    seed=1,
    stop_sequences=("END",),
    frequency_penalty=0.5,
    presence_penalty=0.25,
)


def cancelled() -> Inference:
    """Its client left after two tokens: they are counted, and nothing is finished."""
    partly = choice(completed=False, finish_reason=None, output_tokens=2, decode_s=0.1)
    return inference(
        partly, outcome=Outcome.CANCELLED, error_type="cancelled", output_tokens=2, finish_reasons=None, stream=True
    )


def refused(error: str = "queue_full") -> Inference:
    """The engine refused it at admission."""
    return unknown(model="tiny", outcome=Outcome.REJECTED, error_type=error)


def failed() -> Inference:
    """The engine broke before the first token."""
    started = Choice(counted_input_tokens=0, output_tokens=0)
    return unknown(model="tiny", outcome=Outcome.FAILED, error_type="EngineDeadError", choices=[started])


def embedding(**changes: Any) -> Inference:
    """An embedding: input tokens only."""
    whole = Choice(completed=True, counted_input_tokens=9, queue_s=0.01, prefill_s=0.02, first_token_s=0.03)
    made = inference(whole, operation="embeddings", input_tokens=9, output_tokens=None, embedding_dimensions=384)
    made.parameters = Parameters(encoding_formats=("float",))
    return replace(made, cached_tokens=None, finish_reasons=None, first_token_ns=None, **changes)


def beam() -> Inference:
    """A beam search of width 2: its engine requests are its choices."""
    steps = [choice(output_tokens=1, decode_s=0.0, finish_reason="length") for _ in range(4)]
    return inference(*steps, beam_width=2, output_tokens=4, cached_tokens=None, finish_reasons=("length", "stop"))


def several(count: int = 3) -> list[Inference]:
    """A call with several prompts."""
    return [inference(request_id=f"req-{number}", start_ns=at(number * 0.01)) for number in range(count)]


def deliver(telemetry: Captured, *records: RequestRecord) -> None:
    """Hand over records that are complete as they are."""
    for record in records:
        telemetry.recorder.schedule(telemetry.recorder._deliver, record)  # its clock would overwrite the times
        telemetry.recorder.wake()


Make = Callable[[], RequestRecord]


def powered() -> dict[str, Any]:
    """What a record on two GPUs knows of them."""
    return {
        "gpu_ids": ("GPU-1", "GPU-2"),
        "gpu_selection": "process_list",
        "energy": Energy(
            gpu_j=183.5,
            idle_share=0.25,
            method="affine",
            uncertainty=0.08,
            gpu_time_s=0.5,
            power_mean_w=820.0,
            batch_mean=3.5,
        ),
        "cost": Cost(0.00035, "USD"),
        "device_events": (
            DeviceEvent(
                "ai_otel.gpu.throttle", at(0.5), {"hw.id": "GPU-1", "ai_otel.gpu.throttle.reason": "power_cap"}
            ),
        ),
    }


EVERY_KIND: Mapping[str, Make] = {
    "finished": lambda: call(inference(parameters=ASKED), exchange=exchange(), headers=HEADERS),
    "on GPUs": lambda: call(inference(), exchange=exchange(), **powered()),
    "on a GPU without a counter": lambda: call(inference(), gpu_ids=("GPU-1",), energy_absence="no_counter"),
    "streamed": lambda: call(inference(stream=True), exchange=exchange()),
    "without HTTP middleware": lambda: call(inference(), headers=HEADERS),
    "tool call": lambda: call(inference(choice(finish_reason="tool_calls"), finish_reasons=("tool_calls",))),
    "two choices": lambda: call(
        inference(
            choice(),
            choice(finish_reason="length", first_token_s=0.3, output_tokens=9, decode_s=0.6),
            output_tokens=14,
            finish_reasons=("stop", "length"),
            parameters=Parameters(choice_count=2),
        ),
        exchange=exchange(),
    ),
    "beam search": lambda: call(beam(), exchange=exchange()),
    "embeddings": lambda: call(embedding(), operation="embeddings", exchange=exchange(route="/v1/embeddings")),
    "preempted": lambda: call(inference(choice(preemptions=2), priority=3, engine_index=1), exchange=exchange()),
    "LoRA": lambda: call(inference(model="my-lora", lora="my-lora"), exchange=exchange()),
    "several prompts": lambda: call(*several(), exchange=exchange()),
    "one of several cancelled": lambda: call(inference(), cancelled(), exchange=exchange()),
    "one of several still runs": lambda: call(inference(), unknown(outcome=None, end_ns=0), exchange=exchange()),
    "refused by the API": lambda: call(exchange=exchange(400)),
    "unknown model": lambda: call(exchange=exchange(404, error_type="NotFoundError")),
    "not ready": lambda: call(exchange=exchange(503)),
    "refused by the engine": lambda: call(refused(), exchange=exchange(429)),
    "refused without HTTP middleware": lambda: call(refused()),
    "failed in the engine": lambda: call(failed(), exchange=exchange(500)),
    "failed before the engine": lambda: call(exchange=exchange(500, error_type="KeyError")),
    "no answer": lambda: call(exchange=exchange(None)),
    "cut off": lambda: call(inference(), exchange=exchange(last_byte_ns=None, error_type="KeyError")),
    "hung up": lambda: call(cancelled(), exchange=exchange(hung_up=True, last_byte_ns=None)),
    "hung up in the queue": lambda: call(exchange=exchange(None, hung_up=True)),
    "cancelled without HTTP middleware": lambda: call(cancelled()),
    "abandoned": lambda: call(inference(outcome=Outcome.ABANDONED, error_type="abandoned")),
    "unknown in every way": lambda: call(unknown(), operation=None),
    "unknown, streamed": lambda: call(unknown(stream=True), operation=None, exchange=exchange(route=None)),
    "counted by the engine": lambda: call(inference(counted_by_engine=True), exchange=exchange()),
    "behind a socket file": lambda: call(inference(), exchange=exchange(server_address="/run/s", server_port=None)),
}


class WaitingRecorder(Recorder):
    """A recorder whose records wait: no thread takes them out."""

    def __init__(self) -> None:
        super().__init__(lambda _record: None)

    def wake(self) -> None:
        """Start nothing."""

    def read(self) -> RequestRecord:
        """The newest record, its inferences read as the recorder's thread does it."""
        _, record = self._queue[-1]
        for inference in record.inferences:
            assert inference.read_engine is not None
            inference.read_engine(inference)
        return record


# ---------------------------------------------------------------- recorders


@contextmanager
def recorder_of(
    deliver: Callable[[RequestRecord], None], *, limit: int = 8192, interval_s: float = 0.001
) -> Iterator[Recorder]:
    recorder = Recorder(deliver, limit=limit, interval_s=interval_s)
    try:
        yield recorder
    finally:
        recorder.stop()


def a_closed_record(recorder: Recorder) -> RequestRecord:
    record = recorder.open("chat")
    recorder.close(record)
    return record
