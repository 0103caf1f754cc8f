"""The shape of vLLM's front end: the classes, parameters and fields that the adapter's hook points name, and no model.

Loaded under the names of vLLM's own modules. Answers are ready at once: what is measured is the way to them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any


class OutputKind:
    """vLLM's `RequestOutputKind`, as far as it is read."""

    def __init__(self, name: str) -> None:
        self.name = name


@dataclass
class SamplingParams:
    """What a chat client usually sends."""

    n: int = 1
    max_tokens: int | None = 256
    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    output_kind: OutputKind = field(default_factory=lambda: OutputKind("FINAL_ONLY"))


@dataclass
class CompletionOutput:
    """One answer."""

    index: int
    token_ids: list[int]
    finish_reason: str | None = None


@dataclass
class RequestOutput:
    """What `generate` yields."""

    outputs: list[CompletionOutput]
    prompt_token_ids: list[int]
    finished: bool
    num_cached_tokens: int | None = 16


@dataclass
class Stats:
    """vLLM's `RequestStateStats`: two clocks."""

    arrival_time: float
    num_generation_tokens: int = 128
    num_preemptions: int = 0
    queued_ts: float = 100.0
    scheduled_ts: float = 100.002
    first_token_ts: float = 100.052
    last_token_ts: float = 101.322
    first_token_latency: float = 0.055


@dataclass
class State:
    """vLLM's `RequestState`."""

    request_id: str
    stats: Stats
    prompt_len: int = 512
    is_prefilling: bool = False
    num_cached_tokens: int = 16
    parent_req: Any = None


@dataclass
class EngineRequest:
    """What is sent to the engine process."""

    request_id: str
    external_req_id: str


class OutputProcessor:
    """Keeps the states of running requests."""

    def __init__(self) -> None:
        self.request_states: dict[str, State] = {}

    def add_request(
        self,
        request: EngineRequest,
        prompt: str | None,
        parent_req: Any = None,
        request_index: int = 0,
        queue: Any = None,
    ) -> None:
        """Make the state of one choice."""
        self.request_states[request.request_id] = State(request.request_id, Stats(time.time()))


@dataclass
class ModelConfig:
    """The model's configuration."""

    served_model_name: str = "meta-llama/Llama-3.1-8B-Instruct"


@dataclass
class ObservabilityConfig:
    """vLLM's own tracing is off."""

    otlp_traces_endpoint: str | None = None


@dataclass
class VllmConfig:
    """What the stat logger is given."""

    model_config: ModelConfig = field(default_factory=ModelConfig)
    cache_config: None = None
    parallel_config: None = None


@dataclass
class PrefixCacheStats:
    """Tokens looked up and found."""

    queries: int = 512
    hits: int = 16


@dataclass
class SchedulerStats:
    """The scheduler's state after one step."""

    num_running_reqs: int = 64
    num_waiting_reqs: int = 3
    num_skipped_waiting_reqs: int = 0
    kv_cache_usage: float = 0.42
    prefix_cache_stats: PrefixCacheStats = field(default_factory=PrefixCacheStats)
    connector_prefix_cache_stats: None = None
    spec_decoding_stats: None = None


@dataclass
class PromptTokenStats:
    """Where the prompt's tokens came from."""

    local_cache_hit: int = 16
    external_kv_transfer: int = 0


@dataclass
class FinishedRequestStats:
    """One choice that ended in this step."""

    finish_reason: str = "stop"


@dataclass
class IterationStats:
    """What one step of 64 running requests produced."""

    num_prompt_tokens: int = 512
    num_generation_tokens: int = 64
    num_preempted_reqs: int = 0
    prompt_token_stats: PromptTokenStats = field(default_factory=PromptTokenStats)
    finished_requests: list[FinishedRequestStats] = field(default_factory=lambda: [FinishedRequestStats()])


class StatLoggerBase:
    """What a stat logger plug-in derives from."""


class AsyncLLM:
    """The engine's front end: `chunks` partial answers, then the last one."""

    def __init__(self, chunks: int = 0) -> None:
        self.model_config = ModelConfig()
        self.observability_config = ObservabilityConfig()
        self.log_stats = True
        self.output_processor = OutputProcessor()
        prompt = list(range(512))
        self._chunk = RequestOutput([CompletionOutput(0, [7])], prompt, finished=False)
        self._last = RequestOutput([CompletionOutput(0, [7] * 128, "stop")], prompt, finished=True)
        self._chunks = chunks

    async def generate(
        self,
        prompt: str,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        prompt_text: str | None = None,
        lora_request: Any = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        trace_headers: dict[str, str] | None = None,
        priority: int = 0,
        data_parallel_rank: int | None = None,
    ) -> AsyncIterator[RequestOutput]:
        """Run one request."""
        inside = request_id + "-1a2b3c4d"
        self.output_processor.add_request(EngineRequest(inside, request_id), prompt, None, 0, None)
        for _ in range(self._chunks):
            yield self._chunk
        self.output_processor.request_states.pop(inside)
        yield self._last

    async def encode(self, prompt: str, pooling_params: Any, request_id: str) -> AsyncIterator[RequestOutput]:
        """Not measured."""
        yield self._last

    async def check_admission(self) -> None:
        """Not measured."""
