"""vLLM's statistics, as sums and states."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ai_otel.engine_counters import EngineCounter
from ai_otel.engines.vllm.stats import EngineStats, capacity_of

CAPACITY = "ai_otel.kv_cache.capacity"
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
    assert [value for (name, _), value in counter.states.items() if name == CAPACITY] == ([tokens] if tokens else [])


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
    assert [value for (name, _), value in counter.sums.items() if name == CACHED] == [192]
