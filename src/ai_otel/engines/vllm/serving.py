"""
Requests of vLLM's API server: one listener on each `generate` and `encode` stream.

No token is touched while it streams: the engine keeps timings and counts of each request. These are read once, on the
recorder's thread, after the request has ended.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

from ai_otel.engines.vllm.reading import (
    fill,
    finished_by_engine,
    is_stream,
    judge,
    pooling_operation,
    read_sampling,
    reasons_of,
    refusal_of,
)
from ai_otel.engines.vllm.request_states import InFlight, RequestState, RequestStates, read_progress
from ai_otel.engines.vllm.stats import StatsState
from ai_otel.hooks.arguments import Arguments
from ai_otel.record import Inference, Progress, clock
from ai_otel.recorder import Recorder

# Beam search gives each of its one-token requests the id `<call>-<random>-beam-<index>`.
_BEAM = re.compile(r"(?P<call>.+)-[^-]+-beam-\d+")


class ModelConfig(Protocol):
    """The attributes of the model's configuration that are read."""

    served_model_name: str | list[str]


class ObservabilityConfig(Protocol):
    """Whether vLLM's own tracing is on."""

    otlp_traces_endpoint: str | None


class AsyncLLM(Protocol):
    """The attributes of the engine's front end that are read."""

    model_config: ModelConfig
    observability_config: ObservabilityConfig
    log_stats: bool


class ServedListener:
    """Observes one stream and fills one inference."""

    __slots__ = (
        "_arguments",
        "_engine",
        "_hooks",
        "_params",
        "_reasons",
        "_tokens",
        "inference",
        "item",
        "last",
        "states",
    )

    def __init__(
        self,
        hooks: ServingHooks,
        inference: Inference,
        engine: AsyncLLM,
        arguments: Arguments,
        params: Any,
        *,
        every_item: bool = False,
    ) -> None:
        self._hooks = hooks
        self._engine = engine
        self._arguments = arguments
        self._params = params
        self._reasons: dict[int, str] = {}
        self._tokens: dict[int, int] = {}
        self.inference = inference
        self.states: list[RequestState] = []
        self.last: Any = None
        self.item: Callable[[Any], None] | None = self._item if every_item else None
        inference.read_engine = self._read_engine
        inference.progress = self._progress

    def _item(self, output: Any) -> None:
        # Only if the last output is not enough: choices that end at different steps, or no statistics.
        self._reasons.update(reasons_of(output))
        for answer in output.outputs if isinstance(output.outputs, list) else ():
            before = self._tokens.get(answer.index, 0) if self.inference.stream else 0
            self._tokens[answer.index] = before + len(answer.token_ids)
        if self.inference.stream and self.inference.first_token_ns is None:
            self.inference.first_token_ns = clock(self.inference)

    def ended(self, error: BaseException | None, *, closed: bool) -> None:
        """The stream has ended."""
        inference = self.inference
        self._hooks.forget(inference)
        self._reasons.update(reasons_of(self.last))
        outcome, error_type = judge(
            error,
            self._reasons,
            finished=bool(getattr(self.last, "finished", False)),
            produced=self.last is not None,
            closed=closed,
        )
        self._hooks.recorder.end(inference, outcome, error_type)

    def _progress(self) -> Progress | None:
        if self.inference.model is None:
            self._describe(self.inference)  # the model must be known from the start
        return read_progress(self.states)

    def _read_engine(self, inference: Inference) -> None:
        self._describe(inference)
        inference.traced = self._is_traced() and finished_by_engine(self.last, self.states)
        if hasattr(self._params, "n"):
            inference.parameters = read_sampling(self._params)
        fill(inference, self.states, self.last, self._reasons)
        if inference.output_tokens is None and self._tokens:
            inference.output_tokens = sum(self._tokens.values())

    def _is_traced(self) -> bool:
        # vLLM's own tracing leaves out what it pools.
        return self._engine.observability_config.otlp_traces_endpoint is not None and self.inference.operation is None

    def _describe(self, inference: Inference) -> None:
        arguments = self._arguments
        served = self._engine.model_config.served_model_name
        model = served if isinstance(served, str) else served[0]
        lora = getattr(arguments.get("lora_request"), "lora_name", None)
        inference.model = lora or model
        inference.response_model = model
        inference.lora = lora
        inference.priority = arguments.get("priority") or None
        inference.engine_index = arguments.get("data_parallel_rank")


class BeamListener(ServedListener):
    """Observes one beam search: its many engine requests are the choices of one inference."""

    __slots__ = ("_steps",)

    def __init__(self, hooks: ServingHooks, inference: Inference, engine: AsyncLLM, arguments: Arguments) -> None:
        super().__init__(hooks, inference, engine, arguments, arguments.get("params"))
        self._steps: list[str] = []

    def step(self, request_id: str) -> None:
        """One more engine request of this search begins."""
        self._steps.append(request_id)
        self._hooks.states.expect(request_id, owner_of(self.inference), self.states.append)

    def ended(self, error: BaseException | None, *, closed: bool) -> None:
        """The search has ended, and all its steps with it."""
        for request_id in self._steps:
            self._hooks.states.release(request_id, owner_of(self.inference))
        super().ended(error, closed=closed)

    def _read_engine(self, inference: Inference) -> None:
        self._describe(inference)
        inference.traced = self._is_traced() and self.last is not None
        answers = getattr(self.last, "outputs", None) or []
        # Every step was a request of its own and was finished by the engine.
        fill(inference, self.states, self.last, dict.fromkeys(range(len(self.states)), "length"))
        prompt = getattr(self.last, "prompt_token_ids", None)
        inference.input_tokens = len(prompt) if prompt is not None else None
        inference.output_tokens = sum(len(answer.token_ids) for answer in answers) if answers else None
        inference.cached_tokens = None
        inference.finish_reasons = tuple(answer.finish_reason or "length" for answer in answers) or None
        inference.beam_width = getattr(self._params, "beam_width", None)
        inference.parameters.max_tokens = getattr(self._params, "max_tokens", None)


def owner_of(inference: Inference) -> int:
    """Return a key that distinguishes the requests of one call from those of another call with the same id."""
    return id(inference.record)


class ServingHooks:
    """The functions that answer at the hook points of the API server."""

    def __init__(self, recorder: Recorder, stats: StatsState) -> None:
        self.recorder = recorder
        self.states = RequestStates()
        self._stats = stats
        self._beams: InFlight[BeamListener] = InFlight()

    def generate(self, engine: AsyncLLM, arguments: Arguments) -> ServedListener | None:
        """`AsyncLLM.generate` is called."""
        request_id = arguments.get("request_id")
        beam = self._beam_of(request_id)
        if beam is not None:
            beam.step(request_id)
            return None
        params = arguments.get("sampling_params")
        every_item = not engine.log_stats or getattr(params, "n", 1) > 1
        inference = self._begin(arguments, stream=is_stream(params))
        return self._expect_states(ServedListener(self, inference, engine, arguments, params, every_item=every_item))

    def encode(self, engine: AsyncLLM, arguments: Arguments) -> ServedListener:
        """`AsyncLLM.encode` is called."""
        params = arguments.get("pooling_params")
        inference = self._begin(arguments, operation=pooling_operation(params))
        return self._expect_states(ServedListener(self, inference, engine, arguments, params))

    def beam_search(self, server: Any, arguments: Arguments) -> BeamListener:
        """A beam search begins; the requests that it makes are its own."""
        engine = server.engine_client
        inference = self._begin(arguments)
        listener = BeamListener(self, inference, engine, arguments)
        if inference.request_id is not None:
            self._beams.add(inference.request_id, owner_of(inference), listener)
        return listener

    def admission(self, _result: Any, error: BaseException | None) -> None:
        """`AsyncLLM.check_admission` returned, or raised because it refuses the request."""
        reason = refusal_of(error)
        if reason is not None:
            self.recorder.refuse(reason)

    def forget(self, inference: Inference) -> None:
        """Forget an inference that has ended."""
        if inference.request_id is not None:
            self.states.release(inference.request_id, owner_of(inference))
            self._beams.remove(inference.request_id, owner_of(inference))

    def _begin(self, arguments: Arguments, operation: str | None = None, *, stream: bool | None = None) -> Inference:
        # Values that do not change while the request runs are read after it has ended.
        inference = Inference(
            engine="vllm",
            operation=operation,
            request_id=arguments.get("request_id"),
            stream=stream,
            counted_by_engine=self._stats.attached,
        )
        return self.recorder.begin(inference, arguments.get("trace_headers"))

    def _expect_states(self, listener: ServedListener) -> ServedListener:
        if listener.inference.request_id is not None:
            self.states.expect(listener.inference.request_id, owner_of(listener.inference), listener.states.append)
        return listener

    def _beam_of(self, request_id: Any) -> BeamListener | None:
        if not self._beams or not isinstance(request_id, str):
            return None
        match = _BEAM.fullmatch(request_id)
        return self._beams.get(match["call"]) if match else None
