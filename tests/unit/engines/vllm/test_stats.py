"""vLLM's statistics, as sums and states."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ai_otel.engine_counters import EngineCounter, EngineCounters
from ai_otel.engines.vllm.stats import EngineStats, capacity_of, devices_of

CAPACITY = "ai_otel.kv_cache.capacity"
WAITING = "ai_otel.request.waiting"
QUERIED = "ai_otel.prefix_cache.queried_tokens"
CACHED = "ai_otel.usage.cache_read.input_tokens"


class Recorder:
    """The part of the recorder that statistics use."""

    def __init__(self) -> None:
        self.counters: list[EngineCounter] = []

    def counter(self, labels: Any) -> EngineCounter:
        self.counters.append(EngineCounter(labels))
        return self.counters[-1]


def stats_of(**cache: Any) -> tuple[EngineStats, EngineCounter]:
    recorder: Any = Recorder()
    model = SimpleNamespace(served_model_name="m")
    stats = EngineStats(recorder, SimpleNamespace(model_config=model, cache_config=SimpleNamespace(**cache)), 0)
    return stats, recorder.counters[0]


@pytest.mark.fault(
    "engines",
    "vLLM serves a hybrid model, whose KV cache does not hold blocks times their size",
    "the capacity is the number of tokens that vLLM says, and absent in versions that do not say it",
)
@pytest.mark.parametrize(
    ("cache", "tokens"),
    [
        ({"num_gpu_blocks": 9271, "block_size": 4, "kv_cache_size_tokens": 150912}, 150912),
        ({"num_gpu_blocks": 9271, "block_size": 4, "kv_cache_size_tokens": None}, None),
        ({"num_gpu_blocks": 8192, "block_size": 128}, 1048576),
        ({"num_gpu_blocks": 8192, "block_size": 128, "mamba_block_size": None}, 1048576),
        ({"num_gpu_blocks": 8192, "block_size": 128, "mamba_block_size": 512}, None),
        ({"num_gpu_blocks": None, "block_size": 128}, None),
        ({}, None),
    ],
    ids=["hybrid", "no attention", "older", "older, all layers alike", "older hybrid", "not yet known", "unknown"],
)
def test_the_capacity_is_what_the_engine_says(cache: dict[str, Any], tokens: int | None) -> None:
    assert capacity_of(SimpleNamespace(**cache)) == tokens
    stats, counter = stats_of(**cache)
    stats.initialized()
    assert [cell.value for (name, _), cell in counter.cells.items() if name == CAPACITY] == ([tokens] if tokens else [])


@pytest.mark.fault(
    "engines",
    "vLLM reports fewer cached tokens than none (-7680) for one iteration",
    "the sum stays as it was, and never goes down",
)
def test_a_negative_increment_does_not_lower_a_sum() -> None:
    stats, counter = stats_of()
    for hit in (128, -7680, 64):
        tokens = SimpleNamespace(local_cache_hit=hit, external_kv_transfer=0)
        iteration: Any = SimpleNamespace(
            num_prompt_tokens=1,
            num_generation_tokens=1,
            num_preempted_reqs=0,
            finished_requests=[],
            prompt_token_stats=tokens,
        )
        stats.record(None, iteration)
    assert [cell.value for (name, _), cell in counter.cells.items() if name == CACHED] == [192]


@pytest.mark.parametrize("split", [True, False], ids=["from 0.20 on", "older"])
def test_what_the_engine_does_not_report_is_absent(*, split: bool) -> None:
    counters = EngineCounters()
    recorder: Any = SimpleNamespace(counter=counters.of)
    stats = EngineStats(recorder, SimpleNamespace(model_config=SimpleNamespace(served_model_name="m")), 0)
    assert [list(counters.values(name)) for name in (WAITING, QUERIED, CACHED)] == [[], [], []]
    scheduler: Any = SimpleNamespace(
        num_running_reqs=2, num_waiting_reqs=0, kv_cache_usage=0.5, prefix_cache_stats=None
    )
    if split:
        scheduler.num_skipped_waiting_reqs = 3
    stats.record(scheduler, None)
    waiting = {labels.get("ai_otel.wait.reason"): value for labels, value in counters.values(WAITING)}
    assert waiting == ({"capacity": 0, "deferred": 3} if split else {None: 0})
    assert list(counters.values(QUERIED)) == []
    scheduler.prefix_cache_stats = scheduler.connector_prefix_cache_stats = SimpleNamespace(queries=5, hits=0)
    stats.record(scheduler, None)
    stats.record(scheduler, None)
    assert [value for _, value in counters.values(QUERIED)] == [10, 10]


def config(**changes: Any) -> Any:
    """What vLLM's configuration says of devices."""
    parallel = {"world_size": 2, "data_parallel_size": 1, "nnodes": 1, "distributed_executor_backend": "mp"}
    device = SimpleNamespace(device_type=changes.pop("device_type", "cuda"))
    return SimpleNamespace(device_config=device, parallel_config=SimpleNamespace(**{**parallel, **changes}))


def test_the_devices_of_a_local_engine_are_counted() -> None:
    assert devices_of(config()) == 2
    assert devices_of(config(distributed_executor_backend="uni", world_size=1)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"data_parallel_size": 2},
        {"nnodes": 2},
        {"distributed_executor_backend": "ray"},
        {"distributed_executor_backend": type},
        {"device_type": "cpu"},
        {"world_size": None},
    ],
)
def test_devices_that_the_engine_does_not_choose_by_number_are_unknown(changes: dict[str, Any]) -> None:
    assert devices_of(config(**changes)) is None
    assert devices_of(SimpleNamespace()) is None
