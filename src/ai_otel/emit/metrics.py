"""
Metrics of requests and engines.

Histograms are recorded once a request, in the context of its span, so that each point has its trace as an exemplar.
Sums and states are observed when they are collected: adding to them costs no OpenTelemetry call.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from opentelemetry.context import Context
from opentelemetry.metrics import Meter, Observation

from ai_otel import semconv
from ai_otel.emit.spans import model_of, operation_of
from ai_otel.engine_counters import EngineCounters, Labels
from ai_otel.export.limits import OTHER, Attributes, Vocabulary
from ai_otel.instruments import histogram, observable
from ai_otel.record import FINISH_REASON_NAMES, Choice, Inference, Outcome, RequestRecord

_ENGINE_QUEUE = {semconv.AI_OTEL_QUEUE: "engine"}


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
        for metric in semconv.METRICS:
            if _is_counted_by_engines(metric):
                observable(own, metric, functools.partial(_observe, counters, metric.name))

    def emit(self, record: RequestRecord, engine: str, context: Context | None) -> None:
        """Record one call."""
        attributes = {
            semconv.GEN_AI_OPERATION_NAME: self._operations.of(operation_of(record)),
            semconv.GEN_AI_PROVIDER_NAME: engine,
        }
        model = self._model(model_of(record))
        if model is not None:
            attributes[semconv.GEN_AI_REQUEST_MODEL] = model
        failed = attributes
        if record.error_type is not None:
            failed = {**attributes, semconv.ERROR_TYPE: self._errors.of(record.error_type)}
        self._duration.record(record.duration_s, failed, context)
        if record.energy is not None:
            by_method = {**attributes, semconv.AI_OTEL_ENERGY_METHOD: record.energy.method}
            self._energy.record(record.energy.gpu_j, by_method, context)
        successful = record.outcome is Outcome.FINISHED
        for inference in record.inferences:
            self._emit_inference(inference, attributes, context, successful=successful)
        self._count(record, engine)

    def _model(self, model: str | None) -> str | None:
        return None if model is None else self._models.of(model)

    def _emit_inference(
        self, inference: Inference, attributes: Attributes, context: Context | None, *, successful: bool
    ) -> None:
        model = self._model(inference.model)
        if model is not None and model != attributes.get(semconv.GEN_AI_REQUEST_MODEL):
            attributes = {**attributes, semconv.GEN_AI_REQUEST_MODEL: model}
        if successful and inference.beam_width is None:
            first = [choice.first_token_s for choice in inference.choices if choice.first_token_s is not None]
            if first:
                self._first_token.record(min(first), attributes, context)
        rates = successful and inference.beam_width is None
        for choice in inference.choices:
            if choice.completed:
                self._emit_choice(choice, attributes, context, rates=rates)

    def _emit_choice(self, choice: Choice, attributes: Attributes, context: Context | None, *, rates: bool) -> None:
        if choice.queue_s is not None:
            self._queue.record(choice.queue_s, {**_ENGINE_QUEUE, **attributes}, context)
        if choice.prefill_s is not None:
            self._prefill.record(choice.prefill_s, attributes, context)
        if choice.decode_s is not None:
            self._decode.record(choice.decode_s, attributes, context)
        inference_s = choice.inference_s
        if inference_s is not None:
            self._inference.record(inference_s, attributes, context)
        if choice.counted_input_tokens is not None:
            self._input.record(choice.counted_input_tokens, attributes, context)
        if choice.output_tokens is None:
            return
        self._output.record(choice.output_tokens, attributes, context)
        if rates and choice.decode_s is not None and choice.output_tokens > 1:
            self._per_token.record(choice.decode_s / (choice.output_tokens - 1), attributes, context)

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
        counter = self._counters.of(_labels(inference.engine, self._model(inference.model)))
        for choice in inference.choices:
            if choice.counted_input_tokens is not None:
                counter.add(semconv.AI_OTEL_USAGE_INPUT_TOKENS.name, choice.counted_input_tokens)
            if choice.output_tokens is not None:
                counter.add(semconv.AI_OTEL_USAGE_OUTPUT_TOKENS.name, choice.output_tokens)
            if choice.cached_tokens is not None:
                tier: Labels = ((semconv.AI_OTEL_CACHE_TIER, "device"),)
                counter.add(semconv.AI_OTEL_USAGE_CACHE_READ_INPUT_TOKENS.name, choice.cached_tokens, tier)
            if choice.completed:
                counter.add(semconv.AI_OTEL_REQUEST_FINISHED.name, 1, _reason(choice))
            if choice.preemptions:
                counter.add(semconv.AI_OTEL_REQUEST_PREEMPTED.name, choice.preemptions)


def _reason(choice: Choice) -> Labels:
    if choice.finish_reason is None:
        return ()
    return ((semconv.AI_OTEL_FINISH_REASON, FINISH_REASON_NAMES.get(choice.finish_reason, choice.finish_reason)),)


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
