"""The `LLM` class: one call with many prompts is one record with one inference per prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Token
from functools import partial
from typing import Any, Protocol

from ai_otel.engines.vllm.reading import ended_output, fill, judge, read_sampling, reasons_of, sampled
from ai_otel.engines.vllm.request_states import OFFLINE, RequestState, State, ended_states, read_progress
from ai_otel.hooks.arguments import Arguments
from ai_otel.record import Inference, RequestRecord
from ai_otel.recorder import CURRENT, Recorder


class LLM(Protocol):
    """The attributes of the offline class that are read."""

    llm_engine: Any


class OfflineCall:
    """One running call; vLLM's methods call each other, only the outermost one opens a call."""

    def __init__(self, recorder: Recorder, llm: LLM, operation: str, params: Any) -> None:
        self._recorder = recorder
        kept = sampled(params)
        self._parameters = read_sampling(kept) if kept is not None else None
        self._operation = operation
        served = llm.llm_engine.model_config.served_model_name
        self._model = served if isinstance(served, str) else served[0]
        self.record: RequestRecord = recorder.open(operation)
        self._tokens: tuple[Token[Any], Token[Any]] = (CURRENT.set(self.record), OFFLINE.set(self.collect))
        self._inferences: dict[str, tuple[Inference, list[State]]] = {}

    def collect(self, state: RequestState) -> None:
        """The engine made a state for one choice of one prompt."""
        parent = getattr(state, "parent_req", None)
        request_id = parent.request_id if parent is not None else state.request_id
        if request_id not in self._inferences:
            inference = Inference("vllm", self._operation, request_id, self._model, self._model)
            states: list[State] = []
            inference.progress = partial(read_progress, states)
            self._inferences[request_id] = (self._recorder.begin(inference), states)
        self._inferences[request_id][1].append(state)

    def close(self, outputs: Any, error: BaseException | None) -> None:
        """The call returned or raised: outputs come in the order of the prompts, as the states did."""
        CURRENT.reset(self._tokens[0])
        OFFLINE.reset(self._tokens[1])
        results = outputs if isinstance(outputs, list) else [outputs]
        if len(results) != len(self._inferences):
            results = [None] * len(self._inferences)  # score(): one result for two prompts
        for (inference, states), output in zip(self._inferences.values(), results, strict=True):
            self._end(inference, states, output, error)
        if not self._inferences and error is not None:
            self.record.outcome, self.record.error_type = judge(error, {}, finished=False, produced=False, closed=False)
        self._recorder.close(self.record)

    def _end(self, inference: Inference, states: list[State], output: Any, error: BaseException | None) -> None:
        reasons = dict(reasons_of(output))
        parameters = self._parameters
        # The record may wait for long: what it keeps holds neither prompts nor answers.
        states[:] = ended_states(states)
        last = ended_output(output)

        def read_engine(ended: Inference) -> None:
            if parameters is not None:
                ended.parameters = parameters
            fill(ended, states, last, reasons)

        inference.read_engine = read_engine
        if error is None:
            outcome, error_type = judge(None, reasons, finished=True, produced=True, closed=False)
        else:
            outcome, error_type = judge(error, reasons, finished=False, produced=bool(states), closed=True)
        self._recorder.end(inference, outcome, error_type)


class OfflineHooks:
    """The functions that answer at the hook points of the `LLM` class."""

    OPERATIONS: Mapping[str, str] = {
        "generate": "text_completion",
        "chat": "chat",
        "encode": "encode",
        "embed": "embeddings",
        "classify": "classify",
        "score": "score",
    }

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    @staticmethod
    def init_defaults(_llm: Any, arguments: Arguments) -> Mapping[str, Any] | None:
        """Leave the engine's statistics on: without them nothing is known of queue, prefill and decode."""
        return {"disable_log_stats": False} if arguments.get("disable_log_stats") is None else None

    def opener(self, method: str) -> Callable[[LLM, Arguments], OfflineCall | None]:
        """What to do when `method` is called."""

        def before(llm: LLM, arguments: Arguments) -> OfflineCall | None:
            if OFFLINE.get() is not None:
                return None
            return OfflineCall(self._recorder, llm, self.OPERATIONS[method], arguments.get("sampling_params"))

        return before

    @staticmethod
    def ended(call: OfflineCall, outputs: Any, error: BaseException | None) -> None:
        """The call returned or raised."""
        call.close(outputs, error)
