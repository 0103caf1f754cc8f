"""
Requests of vLLM's API server: one listener on each `generate` and `encode` stream.

No token is touched while it streams: the engine keeps timings and counts of each request. These are read once, on the
recorder's thread, after the request has ended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ai_otel.engines.vllm.reading import (
    ended_output,
    fill,
    finished_by_engine,
    is_stream,
    judge,
    pooling_operation,
    read_sampling,
    reasons_of,
    refusal_of,
    sampled,
)
from ai_otel.engines.vllm.request_states import InFlight, RequestStates, State, ended_states, read_progress
from ai_otel.engines.vllm.stats import StatsState
from ai_otel.export.limits import MAX_CHARACTERS, cut
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
        "_engine",
        "_hooks",
        "_lora",
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
        self._lora = arguments.get("lora_request")
        self._params = params
        self._reasons: dict[int, str] = {}
        self._tokens: dict[int, int] = {}
        self.inference = inference
        self.states: list[State] = []
        self.last: Any = None
        self.item: Callable[[Any], None] | None = self._item if every_item else None
        inference.priority = arguments.get("priority") or None
        inference.engine_index = arguments.get("data_parallel_rank")
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
        inference, states, last = self.inference, self.states, self.last
        self._hooks.forget(inference)
        kept = self.last = ended_output(last, self._reasons)
        outcome, error_type = judge(
            error,
            self._reasons,
            finished=kept is not None and kept.finished,
            produced=kept is not None,
            closed=closed,
        )
        try:
            self._let_go(inference, states, last)
        finally:
            self._hooks.recorder.end(inference, outcome, error_type)

    def _let_go(self, inference: Inference, states: Sequence[State], last: Any) -> None:
        """Keep what is read later, and not what holds prompt and answer: the record may wait for long."""
        self.states = ended_states(states)
        self._params = sampled(self._params)
        if inference.request_id is not None and len(inference.request_id) > MAX_CHARACTERS:
            inference.request_id = cut(inference.request_id)
        inference.traced = self._is_traced(states, last)

    def _progress(self) -> Progress | None:
        if self.inference.model is None:
            self._describe(self.inference)  # the model must be known from the start
        return read_progress(self.states)

    def _read_engine(self, inference: Inference) -> None:
        # The call may still run, if the client left: its objects are live then.
        states, last, kept = self.states, ended_output(self.last), sampled(self._params)
        self._describe(inference)
        if inference.outcome is None:
            inference.traced = self._is_traced(states, self.last)
        if kept is not None:
            inference.parameters = read_sampling(kept)
        fill(inference, states, last, self._reasons_of(states))
        if inference.output_tokens is None and self._tokens:
            inference.output_tokens = sum(self._tokens.values())

    def _reasons_of(self, _states: Sequence[State]) -> Mapping[int, str]:
        return self._reasons

    def _is_traced(self, states: Sequence[State], last: Any) -> bool:
        if self._engine.observability_config.otlp_traces_endpoint is None:
            return False
        # vLLM's own tracing leaves out what it pools.
        return self.inference.operation is None and self._was_finished(states, last)

    def _was_finished(self, states: Sequence[State], last: Any) -> bool:
        return finished_by_engine(last, states)

    def _describe(self, inference: Inference) -> None:
        served = self._engine.model_config.served_model_name
        model = served if isinstance(served, str) else served[0]
        lora = getattr(self._lora, "lora_name", None)
        inference.model = lora or model
        inference.response_model = model
        inference.lora = lora


class BeamListener(ServedListener):
    """Observes one beam search: its many engine requests are the choices of one inference."""

    __slots__ = ("_answers", "_live", "_steps")

    def __init__(self, hooks: ServingHooks, inference: Inference, engine: AsyncLLM, arguments: Arguments) -> None:
        super().__init__(hooks, inference, engine, arguments, arguments.get("params"))
        inference.beam_width = getattr(self._params, "beam_width", None)
        inference.parameters.max_tokens = getattr(self._params, "max_tokens", None)
        self._steps: list[str] = []
        self._live = 0
        self._answers: list[tuple[int, str]] = []

    def step(self, request_id: str) -> None:
        """One more engine request of this search begins."""
        if request_id.endswith("-beam-0"):
            # A new round of requests: those of the round before have ended. Each holds the whole prompt.
            self.states[self._live :] = ended_states(self.states[self._live :])
            self._live = len(self.states)
        self._steps.append(request_id)
        self._hooks.states.add(request_id, owner_of(self.inference), self.states.append)

    def ended(self, error: BaseException | None, *, closed: bool) -> None:
        """The search has ended, and all its steps with it."""
        for request_id in self._steps:
            self._hooks.states.remove(request_id, owner_of(self.inference))
        self._steps = []
        self._hooks.forget_beam(self.inference)
        super().ended(error, closed=closed)

    def _let_go(self, inference: Inference, states: Sequence[State], last: Any) -> None:
        answers = getattr(last, "outputs", None) or []
        self._answers = [(len(answer.token_ids), answer.finish_reason or "length") for answer in answers]
        super()._let_go(inference, states, last)

    def _was_finished(self, _states: Sequence[State], last: Any) -> bool:
        return last is not None

    def _reasons_of(self, states: Sequence[State]) -> Mapping[int, str]:
        # Every step was a request of its own and was finished by the engine.
        return dict.fromkeys(range(len(states)), "length")

    def _read_engine(self, inference: Inference) -> None:
        super()._read_engine(inference)
        answers, last = self._answers, ended_output(self.last)
        inference.input_tokens = last.prompt_tokens if last is not None else None
        inference.output_tokens = sum(tokens for tokens, _ in answers) if answers else None
        inference.cached_tokens = None
        inference.finish_reasons = tuple(reason for _, reason in answers) or None


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
            self.states.remove(inference.request_id, owner_of(inference))

    def forget_beam(self, inference: Inference) -> None:
        """Forget a beam search that has ended."""
        if inference.request_id is not None:
            self._beams.remove(inference.request_id, owner_of(inference))

    def _begin(self, arguments: Arguments, operation: str | None = None, *, stream: bool | None = None) -> Inference:
        # Values that do not change while the request runs are read after it has ended.
        inference = Inference.started(
            "vllm",
            operation,
            arguments.get("request_id"),
            stream=stream,
            counted_by_engine=self._stats.attached,
        )
        return self.recorder.begin(inference, arguments.get("trace_headers"))

    def _expect_states(self, listener: ServedListener) -> ServedListener:
        if listener.inference.request_id is not None:
            self.states.add(listener.inference.request_id, owner_of(listener.inference), listener.states.append)
        return listener

    def _beam_of(self, request_id: Any) -> BeamListener | None:
        if not self._beams or not isinstance(request_id, str):
            return None
        match = _BEAM.fullmatch(request_id)
        return self._beams.get(match["call"]) if match else None
