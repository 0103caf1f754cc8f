"""
Metrics of requests and engines.

Histograms are recorded once a request, in the context of its span, so that each point has its trace as an exemplar.
Sums and states are observed when they are collected: adding to them costs no OpenTelemetry call.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from opentelemetry.context import Context
from opentelemetry.metrics import Meter, Observation

from ai_otel import semconv
from ai_otel.direct.binding import Bound, recorder
from ai_otel.emit.spans import model_of, operation_of
from ai_otel.engine_counters import EngineCounters, Labels
from ai_otel.export.limits import OTHER, Attributes, Vocabulary
from ai_otel.instruments import histogram, observable
from ai_otel.record import FINISH_REASON_NAMES, Choice, Inference, Outcome, RequestRecord

_ENGINE_QUEUE = {semconv.AI_OTEL_QUEUE: "engine"}
_KEPT = 1024
"""Sets of bound series that are kept: of the last operations, engines and models."""

_INPUT_TOKENS = (semconv.AI_OTEL_USAGE_INPUT_TOKENS.name, ())
_OUTPUT_TOKENS = (semconv.AI_OTEL_USAGE_OUTPUT_TOKENS.name, ())
_CACHED_TOKENS = (semconv.AI_OTEL_USAGE_CACHE_READ_INPUT_TOKENS.name, ((semconv.AI_OTEL_CACHE_TIER, "device"),))
_PREEMPTED = (semconv.AI_OTEL_REQUEST_PREEMPTED.name, ())

_Values = list[tuple[Bound, float]]


class _Series(NamedTuple):
    """The histograms of requests, bound to one operation, engine and model."""

    model: str | None
    duration: Bound
    first_token: Bound
    per_token: Bound
    queue: Bound
    prefill: Bound
    decode: Bound
    inference: Bound
    input: Bound
    output: Bound


class MetricEmitter:
    """Records the points of closed records, and observes the counters."""

    def __init__(self, gen_ai: Meter, own: Meter, counters: EngineCounters) -> None:
        self._counters = counters
        self._models, self._operations, self._errors = Vocabulary(), Vocabulary(), Vocabulary()
        self._duration = histogram(gen_ai, semconv.GEN_AI_SERVER_REQUEST_DURATION)
        self._first_token = histogram(gen_ai, semconv.GEN_AI_SERVER_TIME_TO_FIRST_TOKEN)
        self._per_token = histogram(gen_ai, semconv.GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN)
        self._queue = histogram(own, semconv.AI_OTEL_REQUEST_QUEUE_DURATION)
        self._prefill = histogram(own, semconv.AI_OTEL_REQUEST_PREFILL_DURATION)
        self._decode = histogram(own, semconv.AI_OTEL_REQUEST_DECODE_DURATION)
        self._inference = histogram(own, semconv.AI_OTEL_REQUEST_INFERENCE_DURATION)
        self._input = histogram(own, semconv.AI_OTEL_REQUEST_INPUT_TOKENS)
        self._output = histogram(own, semconv.AI_OTEL_REQUEST_OUTPUT_TOKENS)
        self._energy = histogram(own, semconv.AI_OTEL_REQUEST_ENERGY)
        self._record = recorder(
            (
                *(self._duration, self._first_token, self._per_token, self._queue, self._prefill),
                *(self._decode, self._inference, self._input, self._output, self._energy),
            )
        )
        # Most requests are like one before.
        self._series = functools.lru_cache(_KEPT)(self._bind)
        self._duration_of_failed = functools.lru_cache(_KEPT)(self._bind_failed)
        self._energy_by_method = functools.lru_cache(_KEPT)(self._bind_energy)
        for metric in semconv.METRICS:
            if _is_counted_by_engines(metric):
                observable(own, metric, functools.partial(_observe, counters, metric.name))

    def _bind(self, operation: str, engine: str, model: str | None) -> _Series:
        attributes = _attributes(operation, engine, model)
        return _Series(
            model,
            duration=self._duration.bind(attributes),
            first_token=self._first_token.bind(attributes),
            per_token=self._per_token.bind(attributes),
            queue=self._queue.bind({**_ENGINE_QUEUE, **attributes}),
            prefill=self._prefill.bind(attributes),
            decode=self._decode.bind(attributes),
            inference=self._inference.bind(attributes),
            input=self._input.bind(attributes),
            output=self._output.bind(attributes),
        )

    def _bind_failed(self, operation: str, engine: str, model: str | None, error: str) -> Bound:
        return self._duration.bind({**_attributes(operation, engine, model), semconv.ERROR_TYPE: error})

    def _bind_energy(self, operation: str, engine: str, model: str | None, method: str) -> Bound:
        return self._energy.bind({**_attributes(operation, engine, model), semconv.AI_OTEL_ENERGY_METHOD: method})

    def emit(self, record: RequestRecord, engine: str, context: Context | None) -> None:
        """Record one call."""
        operation = self._operations.of(operation_of(record))
        model = self._model(model_of(record))
        series = self._series(operation, engine, model)
        duration = series.duration
        if record.error_type is not None:
            duration = self._duration_of_failed(operation, engine, model, self._errors.of(record.error_type))
        values = [(duration, record.duration_s)]
        if record.energy is not None:
            energy = self._energy_by_method(operation, engine, model, record.energy.method)
            values.append((energy, record.energy.gpu_j))
        successful = record.outcome is Outcome.FINISHED
        for inference in record.inferences:
            other = self._model(inference.model)
            same = other is None or other == model
            its = series if same else self._series(operation, engine, other)
            _add_inference(values, inference, its, rates=successful and inference.beam_width is None)
        self._record(values, context)
        self._count(record, engine)

    def _model(self, model: str | None) -> str | None:
        return None if model is None else self._models.of(model)

    def _count(self, record: RequestRecord, engine: str) -> None:
        if record.outcome is Outcome.REJECTED:
            label: Labels = ((semconv.ERROR_TYPE, self._errors.of(record.error_type or OTHER)),)
            counter = self._counters.of(_labels(engine, self._model(model_of(record))))
            counter.add(semconv.AI_OTEL_REQUEST_REJECTED.name, 1, label)
        for inference in record.inferences:
            # The engine's own statistics are the better source; without them the record is the only one.
            if not inference.counted_by_engine and inference.outcome is not Outcome.REJECTED:
                self._count_inference(inference)

    def _count_inference(self, inference: Inference) -> None:
        add = self._counters.of(_labels(inference.engine, self._model(inference.model))).add_to
        for choice in inference.choices:
            if choice.counted_input_tokens is not None:
                add(_INPUT_TOKENS, choice.counted_input_tokens)
            if choice.output_tokens is not None:
                add(_OUTPUT_TOKENS, choice.output_tokens)
            if choice.cached_tokens is not None:
                add(_CACHED_TOKENS, choice.cached_tokens)
            if choice.completed:
                add(_finished(choice.finish_reason), 1)
            if choice.preemptions:
                add(_PREEMPTED, choice.preemptions)


def _add_inference(values: _Values, inference: Inference, series: _Series, *, rates: bool) -> None:
    first_s = None
    for choice in inference.choices:
        at_s = choice.first_token_s
        if at_s is not None and (first_s is None or at_s < first_s):
            first_s = at_s
        if choice.completed:
            _add_choice(values, choice, series, rates=rates)
    if rates and first_s is not None:
        values.append((series.first_token, first_s))


def _add_choice(values: _Values, choice: Choice, series: _Series, *, rates: bool) -> None:
    add, prefill_s, decode_s, output_tokens = values.append, choice.prefill_s, choice.decode_s, choice.output_tokens
    if choice.queue_s is not None:
        add((series.queue, choice.queue_s))
    if prefill_s is not None:
        add((series.prefill, prefill_s))
    if decode_s is not None:
        add((series.decode, decode_s))
        if prefill_s is not None:
            add((series.inference, prefill_s + decode_s))
    if choice.counted_input_tokens is not None:
        add((series.input, choice.counted_input_tokens))
    if output_tokens is None:
        return
    add((series.output, output_tokens))
    if rates and decode_s is not None and output_tokens > 1:
        add((series.per_token, decode_s / (output_tokens - 1)))


def _attributes(operation: str, engine: str, model: str | None) -> Attributes:
    attributes = {semconv.GEN_AI_OPERATION_NAME: operation, semconv.GEN_AI_PROVIDER_NAME: engine}
    return attributes if model is None else {**attributes, semconv.GEN_AI_REQUEST_MODEL: model}


@functools.lru_cache(_KEPT)
def _finished(reason: str | None) -> tuple[str, Labels]:
    labels: Labels = ()
    if reason is not None:
        labels = ((semconv.AI_OTEL_FINISH_REASON, FINISH_REASON_NAMES.get(reason, reason)),)
    return semconv.AI_OTEL_REQUEST_FINISHED.name, labels


@functools.lru_cache(_KEPT)
def _labels(engine: str, model: str | None) -> Labels:
    provider: Labels = ((semconv.GEN_AI_PROVIDER_NAME, engine),)
    return provider if model is None else (*provider, (semconv.GEN_AI_REQUEST_MODEL, model))


def _observe(counters: EngineCounters, name: str) -> Iterator[Observation]:
    for labels, value in counters.values(name):
        yield Observation(value, labels)


def _is_counted_by_engines(metric: semconv.Metric) -> bool:
    # Devices and ai-otel itself are observed elsewhere.
    observed = metric.scope == semconv.SCOPE and metric.subject not in ("hardware", "health")
    return observed and metric.instrument != "histogram"
