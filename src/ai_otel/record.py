"""
What we know about one request, as plain data. Nothing of OpenTelemetry, of an engine or of ai-otel is imported here.

A `RequestRecord` is one span tree: one call that a client made. It has up to two views:

* `exchange`: what the HTTP middleware saw (status, first and last byte, hang-up);
* `inferences`: what the engine did, one `Inference` for each of its requests, each with one `Choice` per answer.

Times named `*_ns` are wall-clock nanoseconds since the epoch, durations named `*_s` are seconds. `None` means unknown;
zero is a measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple


class Outcome(str, Enum):
    """How a request ended. Every request ends once."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """The client went away, or asked to stop."""
    REJECTED = "rejected"
    """Refused by the API layer or at admission: the engine did no work for it."""
    ABANDONED = "abandoned"
    """The caller dropped the answer without reading it to the end."""


# When one call has several inferences its outcome is the worst of theirs, in this order.
_WORST_FIRST = (Outcome.FAILED, Outcome.REJECTED, Outcome.CANCELLED, Outcome.ABANDONED, Outcome.FINISHED)

FINISH_REASON_NAMES: Mapping[str, str] = {"abort": "error", "tool_calls": "tool_call"}
"""Finish reasons of engines → of the conventions, where they differ."""


@dataclass(slots=True)
class Parameters:
    """What the client asked for. Only what it set, or what the engine will use; `None` where unknown."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop_sequences: tuple[str, ...] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    choice_count: int | None = None
    encoding_formats: tuple[str, ...] | None = None


class Progress(NamedTuple):
    """Progress of a running inference as the engine reports it; counts only grow. `None` is unknown."""

    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int
    prefilling: bool
    """No output token yet: it waits, or its prompt is being computed."""
    first_token_ns: int | None = None
    """When the first output token came, in wall-clock nanoseconds."""
    prefill_s: float | None = None
    """From being scheduled to the first output token."""


@dataclass(frozen=True, slots=True)
class Energy:
    """One request's share of its GPUs; how it was found says `method` (`ai_otel.energy.method`)."""

    gpu_j: float
    idle_share: float | None
    """Which part of `gpu_j` is the devices' idle floor, 0 to 1; unknown where they were never seen idle."""
    method: str
    uncertainty: float
    """How far `gpu_j` may be off, as a share of it."""
    gpu_time_s: float
    power_mean_w: float | None = None
    """All its devices together, while it ran."""
    batch_mean: float | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """One request's share of what the GPUs cost, at the price that was configured; currency as in ISO 4217."""

    amount: float
    currency: str


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """Something that a GPU went through while a request was in flight."""

    name: str
    time_ns: int
    attributes: Mapping[str, str | int]


@dataclass(slots=True)
class Choice:
    """
    One answer of the engine: what engines count as one request of their own.

    `counted_input_tokens` is what the engine's own counter added for this choice (the prompt, once per choice, and
    nothing before the first token); the client's figure is `Inference.input_tokens`.
    """

    finish_reason: str | None = None
    completed: bool = False
    """Ended by the engine itself, so it is in the engine's own statistics of finished requests."""
    counted_input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    first_token_s: float | None = None
    """From arrival to the first output token."""
    queue_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    preemptions: int | None = None

    @property
    def inference_s(self) -> float | None:
        """Seconds from being scheduled to the last token."""
        if self.prefill_s is None or self.decode_s is None:
            return None
        return self.prefill_s + self.decode_s


# Without slots, so that a field that is not set costs nothing: its default is the class's.
@dataclass
class Inference:
    """One request as the engine saw it."""

    engine: str
    operation: str | None = None
    request_id: str | None = None
    model: str | None = None
    response_model: str | None = None
    stream: bool | None = None
    lora: str | None = None
    priority: int | None = None
    engine_index: int | None = None
    parameters: Parameters = field(default_factory=Parameters)

    start_ns: int = 0
    end_ns: int = 0
    arrival_ns: int | None = None
    """The engine's own arrival stamp, which its time to first token counts from."""
    first_token_ns: int | None = None

    choices: list[Choice] = field(default_factory=list)
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    embedding_dimensions: int | None = None
    finish_reasons: tuple[str, ...] | None = None
    beam_width: int | None = None
    outcome: Outcome | None = None
    error_type: str | None = None

    counted_by_engine: bool = False
    """The engine's own statistics already count this inference: its tokens must not be added a second time."""
    traced: bool = False
    """The engine's own tracing has made a span for this inference."""
    read_engine: Callable[[Inference], None] | None = None
    """Fills the fields above from engine objects that no longer change. Runs once, off the request's path."""

    progress: Callable[[], Progress | None] | None = None
    """Reads how far the engine is, from any thread, until the inference ends."""

    record: RequestRecord | None = None
    owns_record: bool = False
    _started: int = 0

    @classmethod
    def started(
        cls,
        engine: str,
        operation: str | None,
        request_id: str | None,
        *,
        stream: bool | None = None,
        counted_by_engine: bool = False,
    ) -> Inference:
        """As the constructor, on the path of a request: it sets what is known at the start and nothing else."""
        made = cls.__new__(cls)
        made.engine = engine
        made.operation = operation
        made.request_id = request_id
        made.stream = stream
        made.counted_by_engine = counted_by_engine
        made.parameters = Parameters()
        made.choices = []
        return made

    def release(self) -> None:
        """Let go of the engine's objects, and of the record."""
        self.record = self.read_engine = self.progress = None


# Without slots, as `Inference`.
@dataclass
class Exchange:
    """One HTTP request and its response, as the HTTP middleware saw them."""

    method: str
    route: str | None = None
    """Low-cardinality route, never the raw path."""
    status: int | None = None
    first_byte_ns: int | None = None
    last_byte_ns: int | None = None
    hung_up: bool = False
    """The client left before the last byte."""
    error_type: str | None = None
    """The exception that left the application, if one did."""
    server_address: str | None = None
    server_port: int | None = None
    inner_context: Any = None
    """The OpenTelemetry context of the response, opaque here. An HTTP span of this request is current in it."""
    answer: Any = None
    complete: Callable[[RequestRecord], None] | None = None
    """What is kept of the response's body, and what fills the record from it, once, off the request's path."""

    @classmethod
    def started(cls, method: str) -> Exchange:
        """As the constructor, on the path of a request."""
        made = cls.__new__(cls)
        made.method = method
        return made


@dataclass
class RequestRecord:
    """One call from arrival to last byte."""

    operation: str | None = None
    headers: Mapping[str, str] | None = None
    """The carrier of the caller's trace context."""
    context: Any = None
    """The OpenTelemetry context that was current at arrival; opaque here."""
    exchange: Exchange | None = None
    inferences: list[Inference] = field(default_factory=list)
    start_ns: int = 0
    end_ns: int = 0
    outcome: Outcome | None = None
    error_type: str | None = None
    refusal: str | None = None
    """Why admission refused it, where that is known by a better name than a status."""
    gpu_ids: tuple[str, ...] = ()
    """`hw.id` of the devices it ran on."""
    gpu_selection: str | None = None
    """How they were determined: `ai_otel.gpu.selection`."""
    energy: Energy | None = None
    energy_absence: str | None = None
    """Why `energy` is unknown, where it is attributed: `ai_otel.energy.absence`."""
    cost: Cost | None = None
    device_events: tuple[DeviceEvent, ...] = ()
    closed: bool = False
    queued_bytes: int = 0
    """What it adds to the bytes that wait; 0 where that is not measured."""
    generation: int = 0
    _started: int = 0

    @classmethod
    def opened(
        cls, operation: str | None, headers: Mapping[str, str] | None, context: Any, generation: int
    ) -> RequestRecord:
        """As the constructor, on the path of a request: it sets what is known at the start and nothing else."""
        made = cls.__new__(cls)
        made.operation = operation
        made.headers = headers
        made.context = context
        made.generation = generation
        made.inferences = []
        # The end is the start plus a monotonic difference, so a clock step cannot make it negative.
        made.start_ns = time.time_ns()
        made._started = time.perf_counter_ns()  # noqa: SLF001
        return made

    @property
    def started_s(self) -> float:
        """When it was opened, on the clock of `time.perf_counter`, in seconds."""
        return self._started / 1e9

    @property
    def duration_s(self) -> float:
        """Seconds from arrival to the last byte, or to the last token where there is no HTTP middleware."""
        return (self.end_ns - self.start_ns) / 1e9

    def release(self) -> None:
        """Let go of the engine's objects: in this cycle they would wait for the garbage collector."""
        for inference in self.inferences:
            inference.release()
        if self.exchange is not None and self.exchange.complete is not None:
            self.exchange.answer = self.exchange.complete = None

    def settle(self) -> None:
        """Decide outcome and error from the two views. The client's leaving wins over what it caused."""
        exchange = self.exchange
        inner = self._worst_inference()
        if exchange is not None and exchange.hung_up:
            self.outcome, self.error_type = Outcome.CANCELLED, Outcome.CANCELLED.value
        elif exchange is not None and exchange.status is not None and exchange.status >= 400:
            self._settle_refusal(exchange.status, inner)
        elif inner is not None and inner.outcome in (Outcome.FAILED, Outcome.REJECTED):
            self.outcome, self.error_type = inner.outcome, inner.error_type
        elif exchange is not None and exchange.error_type and exchange.last_byte_ns is None:
            # What was raised after the last byte, by a background task, is none of the client's business.
            self.outcome, self.error_type = Outcome.FAILED, exchange.error_type
        elif inner is not None and inner.outcome is not Outcome.FINISHED:
            self.outcome, self.error_type = inner.outcome, inner.error_type
        elif exchange is not None and exchange.last_byte_ns is None:
            # The application returned before it sent the last byte: the server cuts the connection.
            self.outcome, self.error_type = Outcome.FAILED, "no_response"
        elif inner is not None:
            self.outcome, self.error_type = inner.outcome, inner.error_type
        elif self.outcome is None:
            self.outcome = Outcome.FINISHED

    def _settle_refusal(self, status: int, inner: Inference | None) -> None:
        failed = inner is not None and inner.outcome is Outcome.FAILED
        refused = inner is not None and inner.outcome is Outcome.REJECTED
        # 503 without an inference is an overloaded or not yet ready API layer: it refused, nothing broke.
        if (status < 500 and not failed) or refused or (status == 503 and not self.inferences):
            self.outcome = Outcome.REJECTED
        else:
            self.outcome = Outcome.FAILED
        raised = self.exchange.error_type if self.exchange is not None else None
        self.error_type = (inner.error_type if inner is not None else None) or self.refusal or raised or str(status)

    def _worst_inference(self) -> Inference | None:
        ended = [each for each in self.inferences if each.outcome is not None]
        return min(ended, key=lambda each: _WORST_FIRST.index(each.outcome or Outcome.FINISHED), default=None)


def begin_clock(inference: Inference, record: RequestRecord) -> None:
    """Stamp the start of an inference, on the time line of its record."""
    inference._started = started = time.perf_counter_ns()  # noqa: SLF001 - of this module
    inference.start_ns = record.start_ns + started - record._started  # noqa: SLF001 - of this module


def clock(subject: RequestRecord | Inference) -> int:
    """The present, in wall-clock nanoseconds on the subject's own time line."""
    return subject.start_ns + time.perf_counter_ns() - subject._started  # noqa: SLF001 - of this module
