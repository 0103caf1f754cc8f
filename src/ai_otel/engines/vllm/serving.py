"""
Requests of vLLM's API server: one listener on each `generate` and `encode` stream.

No token is touched while it streams: the engine keeps timings and counts of each request. These are read once, on the
recorder's thread, after the request has ended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

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
from ai_otel.engines.vllm.request_states import InFlight, RequestStates, State, let_go_of, read_progress
from ai_otel.engines.vllm.stats import StatsState
from ai_otel.export.limits import MAX_CHARACTERS, cut
from ai_otel.hooks.arguments import Arguments
from ai_otel.record import Choice, Inference, Parameters, Progress, clock
from ai_otel.recorder import Recorder

# Beam search gives each of its one-token requests the id `<call>-<random>-beam-<index>`.
_BEAM = re.compile(r"(?P<call>.+)-[^-]+-beam-\d+")


Listener = TypeVar("Listener", bound="ServedListener")


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


class ServedListener(Inference):
    """
    Observes one stream: an inference that is filled from what the engine keeps of it.

    It is one object with its inference, because every object that a request has costs time on its path.
    """

    engine = "vllm"
    parameters: Parameters = Parameters()
    choices: list[Choice] = ()  # type: ignore[assignment]  # `fill` sets it
    item: Callable[[Any], None] | None = None
    last: Any = None
    _llm: AsyncLLM | None
    _lora: Any = None
    _reasons: dict[int, str]
    _tokens: dict[int, int] | None = None
    owner: int = 0
    """Distinguishes the requests of one call from those of another call with the same id."""

    def __init__(
        self,
        hooks: ServingHooks,
        llm: AsyncLLM,
        arguments: Arguments,
        params: Any,
        operation: str | None = None,
    ) -> None:
        # As `Inference.started`: what is not set here has the class's value. Values that do not change while the
        # request runs are read after it has ended.
        self.operation = operation
        self.request_id = arguments.get("request_id")
        self.counted_by_engine = hooks.stats.attached
        self.priority = arguments.get("priority") or None
        self.engine_index = arguments.get("data_parallel_rank")
        self.states: list[State] = []
        self._hooks = hooks
        self._llm = llm
        self._lora = arguments.get("lora_request")
        self._params = params
        self._reasons = {}

    def see_every_item(self) -> None:
        """The last output is not enough: choices that end at different steps, or no statistics."""
        self.stream = is_stream(self._params)
        self._tokens = {}
        self.item = self._item

    def _item(self, output: Any) -> None:
        self._reasons.update(reasons_of(output))
        tokens = self._tokens if self._tokens is not None else {}
        for answer in output.outputs if isinstance(output.outputs, list) else ():
            before = tokens.get(answer.index, 0) if self.stream else 0
            tokens[answer.index] = before + len(answer.token_ids)
        if self.stream and self.first_token_ns is None:
            self.first_token_ns = clock(self)

    def ended(self, error: BaseException | None, *, closed: bool) -> None:
        """The stream has ended."""
        states, last, reasons, hooks = self.states, self.last, self._reasons, self._hooks
        if self.request_id is not None:
            hooks.states.remove(self.request_id, self.owner)
        kept = self.last = ended_output(last, reasons)
        finished = kept is not None and kept.finished
        outcome, error_type = judge(error, reasons, finished=finished, produced=kept is not None, closed=closed)
        try:
            self._let_go(states, last)
        finally:
            hooks.recorder.end(self, outcome, error_type)

    def _let_go(self, states: list[State], last: Any) -> None:
        """Keep what is read later, and not what holds prompt and answer: the record may wait for long."""
        self.item = None  # the bound method
        if self._is_traced(states, last):  # reads what is let go
            self.traced = True
        self._params = sampled(self._params)
        if states:
            let_go_of(states)
        if self.request_id is not None and len(self.request_id) > MAX_CHARACTERS:
            self.request_id = cut(self.request_id)

    def release(self) -> None:
        """Let go of the engine's objects."""
        super().release()
        self._llm = self._lora = self._params = self.last = self.item = None
        self.states = []

    def progress(self) -> Progress | None:
        """How far the engine is; read from any thread."""
        if self.model is None:
            self._describe()  # the model must be known from the start
        return read_progress(self.states)

    def read_engine(self, _inference: Inference) -> None:
        """Fill the inference from what was kept of the engine's objects."""
        # The call may still run, if the client left: its objects are live then.
        states, last, kept = self.states, ended_output(self.last), sampled(self._params)
        if self.operation is None:
            self.stream = is_stream(kept)
        self._describe()
        if self.outcome is None:
            self.traced = self._is_traced(states, self.last)
        if kept is not None:
            self.parameters = read_sampling(kept)
        fill(self, states, last, self._reasons_of(states))
        if self.output_tokens is None and self._tokens:
            self.output_tokens = sum(self._tokens.values())

    def _reasons_of(self, _states: Sequence[State]) -> Mapping[int, str]:
        return self._reasons

    def _is_traced(self, states: Sequence[State], last: Any) -> bool:
        if self._llm is None or self._llm.observability_config.otlp_traces_endpoint is None:
            return False
        # vLLM's own tracing leaves out what it pools.
        return self.operation is None and self._was_finished(states, last)

    def _was_finished(self, states: Sequence[State], last: Any) -> bool:
        return finished_by_engine(last, states)

    def _describe(self) -> None:
        if self._llm is None:
            return
        served = self._llm.model_config.served_model_name
        model = served if isinstance(served, str) else served[0]
        lora = getattr(self._lora, "lora_name", None)
        self.model = lora or model
        self.response_model = model
        self.lora = lora


class BeamListener(ServedListener):
    """Observes one beam search: its many engine requests are the choices of one inference."""

    def __init__(self, hooks: ServingHooks, llm: AsyncLLM, arguments: Arguments) -> None:
        super().__init__(hooks, llm, arguments, arguments.get("params"))
        self.beam_width = getattr(self._params, "beam_width", None)
        self.parameters = Parameters(max_tokens=getattr(self._params, "max_tokens", None))
        self._steps: list[str] = []
        self._live = 0
        self._answers: list[tuple[int, str]] = []

    def step(self, request_id: str) -> None:
        """One more engine request of this search begins."""
        if request_id.endswith("-beam-0"):
            # A new round of requests: those of the round before have ended. Each holds the whole prompt.
            let_go_of(self.states, self._live)
            self._live = len(self.states)
        self._steps.append(request_id)
        self._hooks.states.add(request_id, self.owner, self, alone=self.owns_record)

    def ended(self, error: BaseException | None, *, closed: bool) -> None:
        """The search has ended, and all its steps with it."""
        for request_id in self._steps:
            self._hooks.states.remove(request_id, self.owner)
        self._steps = []
        self._hooks.forget_beam(self)
        super().ended(error, closed=closed)

    def _let_go(self, states: list[State], last: Any) -> None:
        answers = getattr(last, "outputs", None) or []
        self._answers = [(len(answer.token_ids), answer.finish_reason or "length") for answer in answers]
        super()._let_go(states, last)

    def _was_finished(self, _states: Sequence[State], last: Any) -> bool:
        return last is not None

    def _reasons_of(self, states: Sequence[State]) -> Mapping[int, str]:
        # Every step was a request of its own and was finished by the engine.
        return dict.fromkeys(range(len(states)), "length")

    def read_engine(self, inference: Inference) -> None:
        """Fill the inference; its tokens are those of the answers, not of all beams."""
        super().read_engine(inference)
        answers, last = self._answers, ended_output(self.last)
        self.input_tokens = last.prompt_tokens if last is not None else None
        self.output_tokens = sum(tokens for tokens, _ in answers) if answers else None
        self.cached_tokens = None
        self.finish_reasons = tuple(reason for _, reason in answers) or None


class ServingHooks:
    """The functions that answer at the hook points of the API server."""

    def __init__(self, recorder: Recorder, stats: StatsState) -> None:
        self.recorder = recorder
        self.states = RequestStates()
        self.stats = stats
        self._beams: InFlight[BeamListener] = InFlight()

    def generate(self, engine: AsyncLLM, arguments: Arguments) -> ServedListener | None:
        """`AsyncLLM.generate` is called."""
        if self._beams:
            request_id = arguments.get("request_id")
            beam = self._beam_of(request_id)
            if beam is not None:
                beam.step(request_id)
                return None
        params = arguments.get("sampling_params")
        listener = ServedListener(self, engine, arguments, params)
        if not engine.log_stats or getattr(params, "n", 1) > 1:
            listener.see_every_item()
        return self._begin(listener, arguments, self.states)

    def encode(self, engine: AsyncLLM, arguments: Arguments) -> ServedListener:
        """`AsyncLLM.encode` is called."""
        params = arguments.get("pooling_params")
        return self._begin(
            ServedListener(self, engine, arguments, params, pooling_operation(params)), arguments, self.states
        )

    def beam_search(self, server: Any, arguments: Arguments) -> BeamListener:
        """A beam search begins; the requests that it makes are its own."""
        listener = BeamListener(self, server.engine_client, arguments)
        self._begin(listener, arguments, self._beams)
        return listener

    def admission(self, _result: Any, error: BaseException | None) -> None:
        """`AsyncLLM.check_admission` returned, or raised because it refuses the request."""
        reason = None if error is None else refusal_of(error)
        if reason is not None:
            self.recorder.refuse(reason)

    def forget_beam(self, listener: BeamListener) -> None:
        """Forget a beam search that has ended."""
        if listener.request_id is not None:
            self._beams.remove(listener.request_id, listener.owner)

    def _begin(self, listener: Listener, arguments: Arguments, running: InFlight[Any]) -> Listener:
        self.recorder.begin(listener, arguments.get("trace_headers"))
        listener.owner = id(listener.record)
        if listener.request_id is not None:
            running.add(listener.request_id, listener.owner, listener, alone=listener.owns_record)
        return listener

    def _beam_of(self, request_id: Any) -> BeamListener | None:
        match = _BEAM.fullmatch(request_id) if isinstance(request_id, str) else None
        return self._beams.get(match["call"]) if match else None
