"""
vLLM's statistics of each iteration, followed through its stat logger plug-in.

vLLM calls `record` in the task that feeds every answer to its client, once per iteration: here that is a handful of
additions to plain numbers. They are the source of vLLM's own metrics endpoint, so both agree to the token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ai_otel import semconv
from ai_otel.engine_counters import EngineCounter
from ai_otel.hooks.guard import Guard
from ai_otel.record import FINISH_REASON_NAMES
from ai_otel.recorder import Recorder

_REMOTE = ((semconv.AI_OTEL_CACHE_TIER, "remote"),)
_DEVICE = ((semconv.AI_OTEL_CACHE_TIER, "device"),)
_CAPACITY = ((semconv.AI_OTEL_WAIT_REASON, "capacity"),)
_DEFERRED = ((semconv.AI_OTEL_WAIT_REASON, "deferred"),)


class PrefixCacheStats(Protocol):
    """Tokens looked up and found since the last report."""

    queries: int
    hits: int


class SchedulerStats(Protocol):
    """The scheduler's state after one step. Fields come and go between releases; these stayed."""

    num_running_reqs: int
    num_waiting_reqs: int
    kv_cache_usage: float
    prefix_cache_stats: PrefixCacheStats | None


class FinishedRequestStats(Protocol):
    """One choice that the engine finished."""

    finish_reason: Any


class IterationStats(Protocol):
    """What one iteration produced."""

    num_prompt_tokens: int
    num_generation_tokens: int
    num_preempted_reqs: int
    finished_requests: list[FinishedRequestStats]


@dataclass
class StatsState:
    """Whether the stat logger of ai-otel runs in this process, and how many front ends share the engine."""

    attached: bool = False
    front_ends: int = 1


class EngineStats:
    """
    Follows one engine (one data-parallel rank) of one model.

    With several front ends (`--api-server-count`) each sees its own requests, so sums add up; but the scheduler reports
    each of its steps to only one of them, so running, waiting and KV cache use are unknown here and stay absent.
    """

    def __init__(self, recorder: Recorder, vllm_config: Any, engine_index: int, *, front_ends: int = 1) -> None:
        served = vllm_config.model_config.served_model_name
        model = served if isinstance(served, str) else served[0]
        self._counter: EngineCounter = recorder.counter(
            (
                (semconv.GEN_AI_PROVIDER_NAME, "vllm"),
                (semconv.GEN_AI_REQUEST_MODEL, model),
                (semconv.AI_OTEL_ENGINE_INDEX, engine_index),
            )
        )
        # Kept, because each step of the engine writes them.
        cell = self._counter.cell
        self._running = cell(semconv.AI_OTEL_REQUEST_RUNNING.name)
        waiting = semconv.AI_OTEL_REQUEST_WAITING.name
        self._waiting, self._waiting_capacity, self._waiting_deferred = (
            cell(waiting, labels) for labels in ((), _CAPACITY, _DEFERRED)
        )
        self._kv_cache = cell(semconv.AI_OTEL_KV_CACHE_UTILIZATION.name, _DEVICE)
        self._queried = cell(semconv.AI_OTEL_PREFIX_CACHE_QUERIED_TOKENS.name, _DEVICE)
        self._hit = cell(semconv.AI_OTEL_PREFIX_CACHE_HIT_TOKENS.name, _DEVICE)
        self._input = cell(semconv.AI_OTEL_USAGE_INPUT_TOKENS.name)
        self._output = cell(semconv.AI_OTEL_USAGE_OUTPUT_TOKENS.name)
        self._cached = cell(semconv.AI_OTEL_USAGE_CACHE_READ_INPUT_TOKENS.name, _DEVICE)
        self._preempted = cell(semconv.AI_OTEL_REQUEST_PREEMPTED.name)
        self._guard = Guard("vllm stat logger")
        self._sees_scheduler = front_ends == 1
        self._vllm_config = vllm_config

    def initialized(self) -> None:
        """The engine is up: its KV cache has a size now, and it is awake."""
        self._guard(self._set_capacity)
        self.sleep_state(0, 0)

    def record(self, scheduler_stats: SchedulerStats | None, iteration_stats: IterationStats | None) -> None:
        """Add one iteration."""
        if scheduler_stats is not None:
            self._guard(self._add_scheduler, scheduler_stats)
        if iteration_stats is not None:
            self._guard(self._add_iteration, iteration_stats)

    def sleep_state(self, asleep: int, level: int) -> None:
        """The engine fell asleep or woke up."""
        self._guard(self._set_sleep, asleep, level)

    def _add_scheduler(self, stats: SchedulerStats) -> None:
        if self._sees_scheduler:
            self._running.value = stats.num_running_reqs
            # From 0.20 on, waiting requests are split by reason; before, they are one sum.
            deferred = getattr(stats, "num_skipped_waiting_reqs", None)
            if deferred is None:
                self._waiting.value = stats.num_waiting_reqs
            else:
                self._waiting_capacity.value = stats.num_waiting_reqs
                self._waiting_deferred.value = deferred
            self._kv_cache.value = stats.kv_cache_usage
        cache = stats.prefix_cache_stats
        if cache is not None:
            self._queried.add(cache.queries)
            self._hit.add(cache.hits)
        remote = getattr(stats, "connector_prefix_cache_stats", None)
        if remote is not None:
            self._counter.add(semconv.AI_OTEL_PREFIX_CACHE_QUERIED_TOKENS.name, remote.queries, _REMOTE)
            self._counter.add(semconv.AI_OTEL_PREFIX_CACHE_HIT_TOKENS.name, remote.hits, _REMOTE)
        drafts = getattr(stats, "spec_decoding_stats", None)
        if drafts is not None:
            self._add_drafts(drafts)

    def _add_drafts(self, stats: Any) -> None:
        counter = self._counter
        counter.add(semconv.AI_OTEL_SPEC_DECODE_DRAFTS.name, stats.num_drafts)
        counter.add(semconv.AI_OTEL_SPEC_DECODE_DRAFT_TOKENS.name, stats.num_draft_tokens)
        for position, accepted in enumerate(stats.num_accepted_tokens_per_pos):
            label = ((semconv.AI_OTEL_SPEC_DECODE_POSITION, position),)
            counter.add(semconv.AI_OTEL_SPEC_DECODE_ACCEPTED_TOKENS.name, accepted, label)

    def _add_iteration(self, stats: IterationStats) -> None:
        self._input.add(stats.num_prompt_tokens)
        self._output.add(stats.num_generation_tokens)
        self._preempted.add(stats.num_preempted_reqs)
        prompts = getattr(stats, "prompt_token_stats", None)  # from 0.16 on
        if prompts is not None:
            self._cached.add(prompts.local_cache_hit)
            if prompts.external_kv_transfer:
                name = semconv.AI_OTEL_USAGE_CACHE_READ_INPUT_TOKENS.name
                self._counter.add(name, prompts.external_kv_transfer, _REMOTE)
        for finished in stats.finished_requests:
            reason = str(finished.finish_reason)
            label = ((semconv.AI_OTEL_FINISH_REASON, FINISH_REASON_NAMES.get(reason, reason)),)
            self._counter.add(semconv.AI_OTEL_REQUEST_FINISHED.name, 1, label)

    def _set_capacity(self) -> None:
        capacity = capacity_of(getattr(self._vllm_config, "cache_config", None))
        if capacity and self._sees_scheduler:
            self._counter.set(semconv.AI_OTEL_KV_CACHE_CAPACITY.name, capacity, _DEVICE)

    def _set_sleep(self, asleep: int, level: int) -> None:
        present = "awake" if not asleep else {1: "weights_offloaded", 2: "weights_discarded"}.get(level, "asleep")
        for state in ("awake", "weights_offloaded", "weights_discarded"):
            label = ((semconv.AI_OTEL_STATE, state),)
            self._counter.set(semconv.AI_OTEL_ENGINE_STATE.name, int(state == present), label)


def capacity_of(cache: Any) -> int | None:
    """
    Return how many tokens the KV cache holds; `None` if that is unknown.

    Blocks times their size is the capacity of a model whose layers are all alike. In a hybrid model a token takes
    blocks in several groups of layers, and a block of state holds no certain number of tokens.
    """
    if hasattr(cache, "kv_cache_size_tokens"):  # newer vLLM says it
        tokens = cache.kv_cache_size_tokens
        return tokens if isinstance(tokens, int) else None
    blocks, size = getattr(cache, "num_gpu_blocks", None), getattr(cache, "block_size", None)
    if blocks and size and getattr(cache, "mamba_block_size", None) is None:
        return int(blocks * size)
    return None


def front_ends_of(vllm_config: Any) -> int:
    """How many API servers share the engine."""
    count = getattr(getattr(vllm_config, "parallel_config", None), "_api_process_count", 1)
    return count if isinstance(count, int) and count > 0 else 1


def devices_of(vllm_config: Any) -> int | None:
    """
    Return how many of the visible GPUs the engine computes on, which are the first ones; `None` if that is unknown.

    Of several data-parallel ranks some may run on other hosts, and Ray assigns devices itself.
    """
    parallel = getattr(vllm_config, "parallel_config", None)
    kind = getattr(getattr(vllm_config, "device_config", None), "device_type", None)
    ranks, backend = (
        getattr(parallel, "data_parallel_size", None),
        getattr(parallel, "distributed_executor_backend", None),
    )
    count = getattr(parallel, "world_size", None)
    local = ranks == 1 and getattr(parallel, "nnodes", 1) == 1 and backend in (None, "mp", "uni")
    return count if kind == "cuda" and local and isinstance(count, int) and count > 0 else None
