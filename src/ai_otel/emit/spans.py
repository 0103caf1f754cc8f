"""One span tree for each record: the request, its phases, and its inferences where one call holds several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from ai_otel import semconv
from ai_otel.export.limits import Attributes, cut, limited
from ai_otel.propagation import Parent, http_span_of, parent_of
from ai_otel.record import FINISH_REASON_NAMES, Choice, Exchange, Inference, Outcome, Parameters, RequestRecord

MAX_INFERENCE_SPANS = 128
"""A rerank of thousands of documents is one call: beyond this many its inferences have no span of their own."""


class SpanEmitter:
    """Builds spans with explicit times, after the fact."""

    def __init__(
        self,
        tracer: Tracer,
        *,
        same_provider: bool,
        foreign: str = "link",
        phases: bool = True,
        keep_engine_spans: bool = True,
    ) -> None:
        self._tracer = tracer
        # A direct tracer reads each value anyhow.
        self._limited: Callable[[Attributes], Attributes] = limited
        if (limit := getattr(tracer, "limit_client_values", None)) is not None:
            limit(limited)
            self._limited = _unchanged
        self._same_provider = same_provider
        self._foreign = foreign
        self._phases = phases
        self._keep_engine_spans = keep_engine_spans

    def emit(self, record: RequestRecord, engine: str) -> Context | None:
        """
        Emit the record's spans and return the context of the request span, for exemplars.

        `None` where another instrumentation's span describes this request already.
        """
        if self._steps_back(record):
            return None
        parent = parent_of(record, same_provider=self._same_provider, foreign=self._foreign)
        only = record.inferences[0] if len(record.inferences) == 1 else None
        operation = operation_of(record)
        model = model_of(record)
        attributes = request_attributes(record, engine, operation, model)
        span = self._start(_name(operation, model), parent, attributes, record.start_ns)
        context = trace.set_span_in_context(span, Context())
        if span.is_recording():
            if only is not None:
                self._emit_phases(only, record, context)
            else:
                for inference in record.inferences[:MAX_INFERENCE_SPANS]:
                    self._emit_inference(inference, record, operation, context)
            for event in record.device_events:
                span.add_event(event.name, self._limited(dict(event.attributes)), event.time_ns)
        _finish(span, record.outcome, record.error_type, record.exchange, record.end_ns)
        return context

    def _start(self, name: str, parent: Parent, attributes: Attributes, start_ns: int) -> Span:
        # The one place where attributes are put on a span: a client chooses some of them.
        return self._tracer.start_span(
            name,
            context=parent.context,
            kind=parent.kind,
            links=parent.links,
            attributes=self._limited(attributes),
            start_time=start_ns,
        )

    def _steps_back(self, record: RequestRecord) -> bool:
        if self._same_provider and not record.inferences and http_span_of(record) is not None:
            return True
        # An engine's own tracing makes its span for what it finished, whether or not the client was still there.
        return (
            self._keep_engine_spans
            and bool(record.inferences)
            and record.outcome in (Outcome.FINISHED, Outcome.CANCELLED)
            and all(inference.traced for inference in record.inferences)
        )

    def _emit_inference(self, inference: Inference, record: RequestRecord, operation: str, parent: Context) -> None:
        attributes: Attributes = {
            semconv.GEN_AI_OPERATION_NAME: operation,
            semconv.GEN_AI_PROVIDER_NAME: inference.engine,
        }
        _add_inference(attributes, inference, inference.start_ns)
        # The engine has not let go of an inference that the call did not wait for: it ends as the call does.
        outcome = inference.outcome or record.outcome
        if outcome is not None:
            attributes[semconv.AI_OTEL_OUTCOME] = outcome.value
        error_type = inference.error_type if inference.outcome is not None else record.error_type
        if error_type is not None:
            attributes[semconv.ERROR_TYPE] = error_type
        start_ns = max(inference.start_ns, record.start_ns)
        span = self._start(_name(operation, inference.model), Parent(parent, SpanKind.INTERNAL), attributes, start_ns)
        self._emit_phases(inference, record, trace.set_span_in_context(span, Context()))
        _finish(span, outcome, error_type, None, inference.end_ns or record.end_ns)

    def _emit_phases(self, inference: Inference, record: RequestRecord, parent: Context) -> None:
        if not self._phases:
            return
        first, last = record.start_ns, record.end_ns
        for name, start_ns, end_ns in phases_of(inference):
            # Within the record. Not by min() and max(), which take four times as long.
            start = start_ns if start_ns > first else first  # noqa: FURB136
            start = start if start < last else last  # noqa: FURB136
            end = end_ns if end_ns < last else last  # noqa: FURB136
            span = self._tracer.start_span(name, context=parent, start_time=start)
            span.end(end if end > start else start)  # noqa: FURB136


def _unchanged(attributes: Attributes) -> Attributes:
    return attributes


def _finish(
    span: Span, outcome: Outcome | None, error_type: str | None, exchange: Exchange | None, end_ns: int
) -> None:
    # As HTTP servers do it: what the client did wrong, or chose to stop, is no error of this server.
    status = exchange.status if exchange is not None else None
    client_error = status is not None and 400 <= status < 500
    if outcome is Outcome.FAILED or (outcome is Outcome.REJECTED and not client_error):
        span.set_status(Status(StatusCode.ERROR, cut(error_type) if error_type is not None else None))
    span.end(end_ns)


def _name(operation: str, model: str | None) -> str:
    return cut(f"{operation} {model}" if model else operation)


def operation_of(record: RequestRecord) -> str:
    """The operation: what the route says, else what the engine's call says."""
    first = record.inferences[0].operation if record.inferences else None
    return record.operation or first or "text_completion"


def model_of(record: RequestRecord) -> str | None:
    """The model that was asked for; unknown for what was refused before the engine."""
    return record.inferences[0].model if record.inferences else None


def phases_of(inference: Inference) -> Iterator[tuple[str, int, int]]:
    """
    Queue, prefill and decode of the choice whose first token came first.

    The engine's differences are laid around its first token as the front end saw it: the two clocks have no common
    zero, and this is the one event that both saw.
    """
    choice = first_choice(inference)
    if choice is None or inference.first_token_ns is None:
        return
    first = inference.first_token_ns
    scheduled = first - _ns(choice.prefill_s)
    if choice.queue_s is not None and choice.prefill_s is not None:
        yield "queue", scheduled - _ns(choice.queue_s), scheduled
    if choice.prefill_s is not None:
        yield "prefill", scheduled, first
    longest = choice.decode_s
    if len(inference.choices) > 1:
        longest = max([c.decode_s for c in inference.choices if c.decode_s is not None], default=None)
    if longest is not None and (inference.output_tokens or 0) > 1:
        yield "decode", first, first + _ns(longest)


def first_choice(inference: Inference) -> Choice | None:
    """The choice whose first token came first."""
    if len(inference.choices) == 1:
        choice = inference.choices[0]
        return choice if choice.first_token_s is not None else None
    timed = [choice for choice in inference.choices if choice.first_token_s is not None]
    if len(timed) == 1:
        return timed[0]
    return min(timed, key=lambda choice: choice.first_token_s or 0.0, default=None)


def _ns(seconds: float | None) -> int:
    return int(seconds * 1e9) if seconds is not None else 0


def request_attributes(record: RequestRecord, engine: str, operation: str, model: str | None) -> Attributes:
    """Everything the request span carries."""
    attributes: Attributes = {semconv.GEN_AI_OPERATION_NAME: operation, semconv.GEN_AI_PROVIDER_NAME: engine}
    if record.outcome is not None:
        attributes[semconv.AI_OTEL_OUTCOME] = record.outcome.value
    if record.error_type is not None:
        attributes[semconv.ERROR_TYPE] = record.error_type
    if record.exchange is not None:
        _add_exchange(attributes, record, record.exchange)
    if len(record.inferences) == 1:
        _add_inference(attributes, record.inferences[0], record.start_ns)
    elif record.inferences:
        _add_sums(attributes, record, model)
    _put(attributes, semconv.AI_OTEL_ENERGY_ABSENCE, record.energy_absence)
    if record.gpu_ids:
        _add_devices(attributes, record)
    return attributes


def _add_devices(attributes: Attributes, record: RequestRecord) -> None:
    attributes[semconv.AI_OTEL_GPU_IDS] = record.gpu_ids
    _put(attributes, semconv.AI_OTEL_GPU_SELECTION, record.gpu_selection)
    energy, cost = record.energy, record.cost
    if energy is not None:
        attributes[semconv.AI_OTEL_ENERGY_GPU] = energy.gpu_j
        _put(attributes, semconv.AI_OTEL_ENERGY_IDLE_SHARE, energy.idle_share)
        attributes[semconv.AI_OTEL_ENERGY_METHOD] = energy.method
        attributes[semconv.AI_OTEL_ENERGY_UNCERTAINTY] = energy.uncertainty
        attributes[semconv.AI_OTEL_GPU_TIME] = energy.gpu_time_s
        _put(attributes, semconv.AI_OTEL_GPU_POWER_MEAN, energy.power_mean_w)
        _put(attributes, semconv.AI_OTEL_GPU_BATCH_MEAN, energy.batch_mean)
    if cost is not None:
        attributes[semconv.AI_OTEL_COST_AMOUNT] = cost.amount
        attributes[semconv.AI_OTEL_COST_CURRENCY] = cost.currency


def _add_exchange(attributes: Attributes, record: RequestRecord, exchange: Exchange) -> None:
    attributes[semconv.HTTP_REQUEST_METHOD] = exchange.method
    _put(attributes, semconv.HTTP_ROUTE, exchange.route)
    _put(attributes, semconv.HTTP_RESPONSE_STATUS_CODE, exchange.status)
    if exchange.server_address is not None:
        attributes[semconv.SERVER_ADDRESS] = exchange.server_address
        _put(attributes, semconv.SERVER_PORT, exchange.server_port)
    streamed = any(inference.stream for inference in record.inferences)
    if streamed and exchange.first_byte_ns is not None:
        first_chunk_s = (exchange.first_byte_ns - record.start_ns) / 1e9
        attributes[semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = first_chunk_s


def _add_sums(attributes: Attributes, record: RequestRecord, model: str | None) -> None:
    inferences = record.inferences
    attributes[semconv.AI_OTEL_REQUEST_INFERENCE_COUNT] = len(inferences)
    _put(attributes, semconv.GEN_AI_REQUEST_MODEL, model)
    if any(inference.stream for inference in inferences):
        attributes[semconv.GEN_AI_REQUEST_STREAM] = True
    for name, values in (
        (semconv.GEN_AI_USAGE_INPUT_TOKENS, [i.input_tokens for i in inferences]),
        (semconv.GEN_AI_USAGE_OUTPUT_TOKENS, [i.output_tokens for i in inferences]),
        (semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, [i.cached_tokens for i in inferences]),
    ):
        # A sum with an unknown part is unknown.
        if all(value is not None for value in values):
            attributes[name] = sum(value or 0 for value in values)


def _add_inference(attributes: Attributes, inference: Inference, start_ns: int) -> None:
    _add_names(attributes, inference)
    _add_parameters(attributes, inference.parameters)
    _add_usage(attributes, inference)
    if inference.finish_reasons:
        reasons = [FINISH_REASON_NAMES.get(reason, reason) for reason in inference.finish_reasons]
        attributes[semconv.GEN_AI_RESPONSE_FINISH_REASONS] = tuple(reasons)
    if inference.first_token_ns is not None:
        # From the span's start: what the API layer did before the engine saw the request is part of the wait.
        attributes[semconv.AI_OTEL_TIME_TO_FIRST_TOKEN] = max(0, inference.first_token_ns - start_ns) / 1e9
    _put(attributes, semconv.AI_OTEL_REQUEST_PREEMPTIONS, _sum(inference, "preemptions"))


# Written out, because a table of names and fields takes four times as long, and this runs for every request.


def _add_names(attributes: Attributes, inference: Inference) -> None:
    if inference.model is not None:
        attributes[semconv.GEN_AI_REQUEST_MODEL] = inference.model
    if inference.response_model is not None:
        attributes[semconv.GEN_AI_RESPONSE_MODEL] = inference.response_model
    if inference.request_id is not None:
        attributes[semconv.GEN_AI_RESPONSE_ID] = inference.request_id
    if inference.stream:
        attributes[semconv.GEN_AI_REQUEST_STREAM] = True
    if inference.lora is not None:
        attributes[semconv.AI_OTEL_LORA_NAME] = inference.lora
    if inference.priority is not None:
        attributes[semconv.AI_OTEL_REQUEST_PRIORITY] = inference.priority
    if inference.engine_index is not None:
        attributes[semconv.AI_OTEL_ENGINE_INDEX] = inference.engine_index


def _add_parameters(attributes: Attributes, asked: Parameters) -> None:
    if asked.max_tokens is not None:
        attributes[semconv.GEN_AI_REQUEST_MAX_TOKENS] = asked.max_tokens
    if asked.temperature is not None:
        attributes[semconv.GEN_AI_REQUEST_TEMPERATURE] = asked.temperature
    if asked.top_p is not None:
        attributes[semconv.GEN_AI_REQUEST_TOP_P] = asked.top_p
    if asked.top_k is not None:
        attributes[semconv.GEN_AI_REQUEST_TOP_K] = asked.top_k
    if asked.seed is not None:
        attributes[semconv.GEN_AI_REQUEST_SEED] = asked.seed
    if asked.stop_sequences is not None:
        attributes[semconv.GEN_AI_REQUEST_STOP_SEQUENCES] = asked.stop_sequences
    if asked.frequency_penalty is not None:
        attributes[semconv.GEN_AI_REQUEST_FREQUENCY_PENALTY] = asked.frequency_penalty
    if asked.presence_penalty is not None:
        attributes[semconv.GEN_AI_REQUEST_PRESENCE_PENALTY] = asked.presence_penalty
    if asked.choice_count is not None:
        attributes[semconv.GEN_AI_REQUEST_CHOICE_COUNT] = asked.choice_count
    if asked.encoding_formats is not None:
        attributes[semconv.GEN_AI_REQUEST_ENCODING_FORMATS] = asked.encoding_formats


def _add_usage(attributes: Attributes, inference: Inference) -> None:
    if inference.input_tokens is not None:
        attributes[semconv.GEN_AI_USAGE_INPUT_TOKENS] = inference.input_tokens
    if inference.output_tokens is not None:
        attributes[semconv.GEN_AI_USAGE_OUTPUT_TOKENS] = inference.output_tokens
    if inference.cached_tokens is not None:
        attributes[semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS] = inference.cached_tokens
    if inference.embedding_dimensions is not None:
        attributes[semconv.GEN_AI_EMBEDDINGS_DIMENSION_COUNT] = inference.embedding_dimensions
    if inference.beam_width is not None:
        attributes[semconv.AI_OTEL_BEAM_WIDTH] = inference.beam_width
        _put(attributes, semconv.AI_OTEL_BEAM_ENGINE_INPUT_TOKENS, _sum(inference, "counted_input_tokens"))
        _put(attributes, semconv.AI_OTEL_BEAM_ENGINE_OUTPUT_TOKENS, _sum(inference, "output_tokens"))


def _sum(inference: Inference, name: str) -> int | None:
    if len(inference.choices) == 1:
        only: int | None = getattr(inference.choices[0], name)
        return only
    values = [getattr(choice, name) for choice in inference.choices]
    return sum(values) if values and None not in values else None


def _put(attributes: Attributes, name: str, value: Any) -> None:
    if value is not None:
        attributes[name] = value
