"""What the library really emits, for one of everything that can happen to a request, against the contract."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import oracle
import pytest

from ai_otel import resource, semconv
from ai_otel.engines.vllm.stats import EngineStats
from ai_otel.export.counts import ExportCounts
from ai_otel.hooks import guard
from ai_otel.record import RequestRecord
from ai_otel.settings import Environment
from ai_otel.testing import Captured, captured
from records import EVERY_KIND, deliver

SOURCE = Path(semconv.__file__).parent
ENGINE = "vllm"


@pytest.fixture
def telemetry() -> Iterator[Captured]:
    with captured(attach=False, engine=ENGINE) as telemetry:
        yield telemetry


def made(kind: str) -> RequestRecord:
    """A record of this kind, of an engine that the contract knows."""
    record = EVERY_KIND[kind]()
    for inference in record.inferences:
        inference.engine = ENGINE
    return record


def follow_an_engine(telemetry: Captured) -> None:
    """Everything that vLLM's statistics may say in one iteration."""
    config = SimpleNamespace(
        model_config=SimpleNamespace(served_model_name="tiny"),
        cache_config=SimpleNamespace(num_gpu_blocks=10, block_size=16),
    )
    cache = SimpleNamespace(queries=10, hits=4)
    drafts = SimpleNamespace(num_drafts=2, num_draft_tokens=6, num_accepted_tokens_per_pos=[2, 1, 0])
    scheduler = SimpleNamespace(
        num_running_reqs=1,
        num_waiting_reqs=2,
        num_skipped_waiting_reqs=1,
        kv_cache_usage=0.25,
        prefix_cache_stats=cache,
        connector_prefix_cache_stats=cache,
        spec_decoding_stats=drafts,
    )
    iteration = SimpleNamespace(
        num_prompt_tokens=7,
        num_generation_tokens=5,
        num_preempted_reqs=1,
        prompt_token_stats=SimpleNamespace(local_cache_hit=3, external_kv_transfer=1, cached_tokens=4),
        finished_requests=[SimpleNamespace(finish_reason=reason) for reason in ("stop", "length", "abort")],
    )
    stats = EngineStats(telemetry.recorder, config, 0)
    stats.initialized()
    stats.record(scheduler, iteration)


def break_health(telemetry: Captured) -> None:
    """Everything that health can be about."""
    telemetry.recorder.dropped.update(dict.fromkeys(semconv.DROP_REASONS, 1))
    telemetry.handle.pipeline.exports = exports = ExportCounts()
    for counts in (exports.sent, exports.failed, exports.dropped):
        counts.update(traces=1, metrics=1)
    guard.errors["some hook"] += 1
    guard.disabled.add("some hook")


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_the_telemetry_of_every_kind_of_request_fits_the_contract(telemetry: Captured, kind: str) -> None:
    deliver(telemetry, made(kind))
    assert oracle.check_spans(telemetry.spans) == []
    assert oracle.check_metrics(telemetry.metrics()) == []
    assert len(telemetry.spans) >= 1


def test_what_an_engine_says_of_itself_is_as_the_contract_says(telemetry: Captured) -> None:
    follow_an_engine(telemetry)
    assert oracle.check_metrics(telemetry.metrics()) == []


def test_health_metrics_fit_the_contract(telemetry: Captured) -> None:
    break_health(telemetry)
    assert oracle.check_metrics(telemetry.metrics()) == []


@pytest.mark.parametrize("environment", [{}, {"K8S_POD_NAME": "p", "K8S_NAMESPACE_NAME": "n", "K8S_NODE_NAME": "node"}])
def test_who_is_speaking_is_as_the_contract_says(environment: dict[str, str]) -> None:
    built = resource.build(Environment.read(environment), "vllm", "0.32.0")
    assert oracle.check_resource(built.attributes) == []


# ---------------------------------------------------------------- nothing is forgotten


def names_in_code(*parts: str) -> set[str]:
    """Every `semconv.NAME` that the code of these parts mentions."""
    trees = [ast.parse(path.read_text()) for part in parts for path in (SOURCE / part).rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "semconv"}


def claimed() -> tuple[set[str], set[str]]:
    """The metrics and the attributes that we have code for."""
    values: list[Any] = [getattr(semconv, name) for name in names_in_code("emit", "engines") if hasattr(semconv, name)]
    metrics = {value.name for value in values if isinstance(value, semconv.Metric)}
    attributes = {value for value in values if isinstance(value, str) and value in oracle.ATTRIBUTES}
    return metrics, attributes


def test_these_records_touch_every_metric_and_attribute_of_the_contract(telemetry: Captured) -> None:
    """One that is never emitted here is never judged."""
    deliver(telemetry, *map(made, EVERY_KIND))
    follow_an_engine(telemetry)
    spans = telemetry.spans
    break_health(telemetry)
    data = telemetry.metrics()
    assert data is not None
    emitted = [metric for each in data.resource_metrics for scope in each.scope_metrics for metric in scope.metrics]
    used = {key for span in spans for key in span.attributes or {}}
    used |= {key for metric in emitted for point in metric.data.data_points for key in point.attributes or {}}
    metrics, attributes = claimed()
    assert metrics - {metric.name for metric in emitted} == set()
    assert attributes - used == set()


def test_every_outcome_is_among_them(telemetry: Captured) -> None:
    deliver(telemetry, *map(made, EVERY_KIND))
    assert {(span.attributes or {}).get("ai_otel.outcome") for span in telemetry.spans} >= set(semconv.OUTCOMES)
