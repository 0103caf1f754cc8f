"""What the vLLM adapter takes for granted, held against vLLM's own wheels: nothing of vLLM is imported or run."""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from types import ModuleType
from typing import Any, Protocol
from unittest.mock import Mock

import pytest

import environments
import sources
from ai_otel.engines.vllm import VllmAdapter, offline, reading, request_states, serving, stats
from ai_otel.hooks.point import HookPoint, in_range

from .source_tree import Absent, Kind, SourceTree

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MODULES = (offline, reading, serving, request_states, stats)
VERSIONS = sources.SOURCES["vllm"].versions
PAGE = environments.ROOT / "docs/engines/vllm.md"

# Which class of vLLM each Protocol of the adapter stands for.
STANDS_FOR = {
    offline.LLM: "vllm.entrypoints.llm:LLM",
    reading.CompletionOutput: "vllm.outputs:CompletionOutput",
    reading.RequestOutput: "vllm.outputs:RequestOutput",
    reading.SamplingParams: "vllm.sampling_params:SamplingParams",
    serving.AsyncLLM: "vllm.v1.engine.async_llm:AsyncLLM",
    serving.ModelConfig: "vllm.config.model:ModelConfig",
    serving.ObservabilityConfig: "vllm.config.observability:ObservabilityConfig",
    request_states.EngineRequest: "vllm.v1.engine:EngineCoreRequest",
    request_states.OutputProcessor: "vllm.v1.engine.output_processor:OutputProcessor",
    request_states.ParentRequest: "vllm.v1.engine.parallel_sampling:ParentRequest",
    request_states.RequestState: "vllm.v1.engine.output_processor:RequestState",
    request_states.RequestStateStats: "vllm.v1.metrics.stats:RequestStateStats",
    stats.FinishedRequestStats: "vllm.v1.metrics.stats:FinishedRequestStats",
    stats.IterationStats: "vllm.v1.metrics.stats:IterationStats",
    stats.PrefixCacheStats: "vllm.v1.metrics.stats:PrefixCacheStats",
    stats.SchedulerStats: "vllm.v1.metrics.stats:SchedulerStats",
}

# What the adapter reads where it is: fields that came later, and those of objects that it gets without a type.
WHERE_PRESENT = (
    ("vllm.config.cache:CacheConfig", "num_gpu_blocks block_size", ""),
    ("vllm.config.cache:CacheConfig", "kv_cache_size_tokens", ">=0.24"),
    ("vllm.config.cache:CacheConfig", "mamba_block_size", ""),
    ("vllm.config.device:DeviceConfig", "device_type", ""),
    (
        "vllm.config.parallel:ParallelConfig",
        "_api_process_count nnodes distributed_executor_backend world_size data_parallel_size",
        "",
    ),
    ("vllm.config.vllm:VllmConfig", "model_config cache_config parallel_config device_config", ""),
    ("vllm.lora.request:LoRARequest", "lora_name", ""),
    ("vllm.outputs:PoolingRequestOutput", "outputs prompt_token_ids finished", ""),
    ("vllm.pooling_params:PoolingParams", "task", ""),
    ("vllm.sampling_params:BeamSearchParams", "beam_width max_tokens", ""),
    ("vllm.sampling_params:RequestOutputKind", "DELTA", ""),
    ("vllm.v1.engine:EngineCoreRequest", "external_req_id", ">=0.14"),
    ("vllm.v1.engine.llm_engine:LLMEngine", "model_config", ""),
    ("vllm.v1.engine.output_processor:RequestOutputCollector", "output", ""),
    ("vllm.v1.engine.output_processor:RequestState", "parent_req queue", ""),
    ("vllm.v1.engine.parallel_sampling:ParentRequest", "external_req_id", ">=0.14"),
    ("vllm.v1.metrics.stats:IterationStats", "prompt_token_stats", ">=0.16"),
    ("vllm.v1.metrics.stats:PromptTokenStats", "cached_tokens local_cache_hit external_kv_transfer", ">=0.16"),
    ("vllm.v1.metrics.stats:RequestStateStats", "num_preemptions", ">=0.30"),
    ("vllm.v1.metrics.stats:SchedulerStats", "connector_prefix_cache_stats spec_decoding_stats", ""),
    ("vllm.v1.metrics.stats:SchedulerStats", "num_skipped_waiting_reqs", ">=0.20"),
    ("vllm.v1.spec_decode.metrics:SpecDecodingStats", "num_drafts num_draft_tokens num_accepted_tokens_per_pos", ""),
)

# The exceptions that the adapter knows by name.
EXCEPTIONS = (
    ("vllm.v1.engine.exceptions:EngineGenerateError", ""),
    ("vllm.exceptions:VLLMValidationError", ">=0.14"),
    ("vllm.exceptions:VLLMClientError", ">=0.28"),
    ("vllm.exceptions:GracefulHTTPError", ">=0.29"),
    ("vllm.exceptions:MaxQueuedTokensError", ">=0.29"),
    ("vllm.exceptions:QueueOverflowError", ">=0.29"),
)

# What a function must return at once for each way of listening to it.
LISTENS_TO = {
    "call": Kind.FUNCTION,
    "after_call": Kind.FUNCTION,
    "call_ended": Kind.FUNCTION,
    "defaults": Kind.FUNCTION,
    "coroutine": Kind.COROUTINE,
    "stream": Kind.GENERATOR,
    "async_stream": Kind.ASYNC_GENERATOR,
}


@pytest.fixture(params=VERSIONS)
def vllm_tree(request: pytest.FixtureRequest, tree_of: Callable[[str, str], SourceTree]) -> SourceTree:
    return tree_of("vllm", request.param)


def rows(tree: SourceTree) -> list[HookPoint]:
    return [point for point in VllmAdapter.hooks if point.covers(tree.version)]


def unlike(tree: SourceTree, point: HookPoint, ways: dict[HookPoint, str]) -> list[str]:
    """What of a row is not so in this version."""
    try:
        function = tree.function(point.target)
    except Absent as absent:
        return [str(absent)]
    found = [f"{tree.version}: {point.target} takes no {name}" for name in point.reads if not function.takes(name)]
    if function.kind is not LISTENS_TO[ways[point]]:
        found.append(f"{tree.version}: {point.target} is a {function.kind.value}, we listen by {ways[point]}")
    return found


def ways_of_listening() -> dict[HookPoint, str]:
    """Which method of the patcher the adapter calls for each row."""
    patcher = Mock()
    VllmAdapter().attach(Mock(), patcher)
    return {call.args[0]: call[0] for call in patcher.method_calls}


# ---------------------------------------------------------------- the rows


def test_a_row_finds_its_function_its_parameters_and_its_kind(vllm_tree: SourceTree) -> None:
    ways = ways_of_listening()
    assert [what for point in rows(vllm_tree) for what in unlike(vllm_tree, point, ways)] == []


def test_the_adapter_listens_at_every_row_and_nowhere_else() -> None:
    assert set(ways_of_listening()) == set(VllmAdapter.hooks)


def test_one_function_has_one_row(vllm_tree: SourceTree) -> None:
    """A method that two rows reach, one through a subclass, would be counted twice."""
    places = [vllm_tree.function(point.target).node for point in rows(vllm_tree)]
    assert len(places) == len(set(places))


def test_a_row_holds_no_less_than_it_could(vllm_tree: SourceTree) -> None:
    """Outside its bounds a row finds nothing, or what another row has: else the bounds are too narrow."""
    ways = ways_of_listening()
    covered = {vllm_tree.function(point.target).node for point in rows(vllm_tree)}
    others = [point for point in VllmAdapter.hooks if not point.covers(vllm_tree.version)]
    fitting = [point for point in others if not unlike(vllm_tree, point, ways)]
    assert [point.target for point in fitting if vllm_tree.function(point.target).node not in covered] == []


def test_the_adapter_claims_what_is_checked_here() -> None:
    assert VllmAdapter.tested == (VERSIONS[0], VERSIONS[-1])
    unused = [point.target for point in VllmAdapter.hooks if not any(map(point.covers, VERSIONS))]
    assert unused == []


def test_the_rows_name_every_argument_that_is_read() -> None:
    read = {name for module in MODULES for name in names_asked_for(module, "arguments.get", 0)}
    assert read == {name for point in VllmAdapter.hooks for name in point.reads}


@pytest.mark.parametrize("change", ["target", "reads"])
def test_a_misspelt_row_is_found(vllm_tree: SourceTree, change: str) -> None:
    """The check can fail: one wrong letter in a name is reported, in every version."""
    point = VllmAdapter.hooks[0]
    ways = {point: "async_stream"}
    assert unlike(vllm_tree, point, ways) == []
    wrong = HookPoint(
        target=point.target.replace("generate", "generat") if change == "target" else point.target,
        reads=("trace_header",) if change == "reads" else (),
        versions=point.versions,
        rung=point.rung,
        why="",
    )
    assert len(unlike(vllm_tree, wrong, {wrong: "async_stream"})) == 1
    assert len(unlike(vllm_tree, point, {point: "coroutine"})) == 1


# ---------------------------------------------------------------- the fields


def lacking(tree: SourceTree, protocol: type, target: str) -> set[str]:
    """Fields of a Protocol that the class in this version does not have."""
    return set(inspect.get_annotations(protocol)) - tree.fields(target)


def test_every_field_of_a_protocol_is_in_the_class_that_it_stands_for(vllm_tree: SourceTree) -> None:
    missing = {target: lacking(vllm_tree, protocol, target) for protocol, target in STANDS_FOR.items()}
    assert {target: names for target, names in missing.items() if names} == {}


def test_a_misspelt_field_is_found(vllm_tree: SourceTree) -> None:
    class Misspelt(Protocol):
        queued_ts: float
        schedule_ts: float

    assert lacking(vllm_tree, Misspelt, STANDS_FOR[request_states.RequestStateStats]) == {"schedule_ts"}


def test_a_field_that_came_later_came_when_we_say(vllm_tree: SourceTree) -> None:
    for target, names, versions in WHERE_PRESENT:
        try:
            fields = vllm_tree.fields(target)
        except Absent:
            fields = frozenset()
        found = [name for name in names.split() if name in fields]
        assert found == (names.split() if in_range(vllm_tree.version, versions) else []), target


def test_no_protocol_and_no_loosely_read_field_is_forgotten_here() -> None:
    protocols = {each for module in MODULES for each in vars(module).values() if getattr(each, "_is_protocol", False)}
    of_vllm = {each for each in protocols if each.__module__.startswith("ai_otel.engines.vllm")} - {
        request_states.Collector
    }
    assert of_vllm == set(STANDS_FOR)
    known = {name for protocol in STANDS_FOR for name in inspect.get_annotations(protocol)}
    known |= {name for _, names, _ in WHERE_PRESENT for name in names.split()}
    known |= {"name"}  # of an enum's member
    assert {name for module in MODULES for name in loosely_read(module)} - known == set()


def loosely_read(module: ModuleType) -> set[str]:
    """Names in `getattr(x, "name", …)` and `hasattr(x, "name")`."""
    return {*names_asked_for(module, "getattr", 1), *names_asked_for(module, "hasattr", 1)}


def names_asked_for(module: ModuleType, function: str, position: int) -> Iterator[str]:
    """String constants that stand at `position` in a call of `function`."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == function:
            name = node.args[position]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value


# ---------------------------------------------------------------- words, ids, exceptions


def test_finish_reasons_are_words_that_we_translate_or_keep(vllm_tree: SourceTree) -> None:
    statement = vllm_tree.module("vllm.v1.engine").names["FINISH_REASON_STRINGS"]
    assert isinstance(statement, ast.Assign)
    assert set(ast.literal_eval(statement.value)) <= {"stop", "length", "abort", "error", "repetition"}


def test_the_requests_of_a_beam_search_are_recognized_by_their_ids(vllm_tree: SourceTree) -> None:
    (point,) = [point for point in rows(vllm_tree) if point.path.endswith("beam_search")]
    holder = f"{point.module}:{point.path.partition('.')[0]}"
    body = ast.unparse(vllm_tree.function(point.target).node)
    assert "f'{request_id}-{random_uuid()}'" in body
    assert "f'{request_id_batch}-beam-{i}'" in body
    assert "engine_client" in vllm_tree.fields(holder)
    assert serving._BEAM.fullmatch("cmpl-7-0-9f86d081884c7d65-beam-3")["call"] == "cmpl-7-0"


def test_an_exception_is_where_and_when_we_say(vllm_tree: SourceTree) -> None:
    for target, versions in EXCEPTIONS:
        assert exists(vllm_tree, target) == in_range(vllm_tree.version, versions), target


def exists(tree: SourceTree, target: str) -> bool:
    try:
        tree.a_class(target)
    except Absent:
        return False
    return True


def test_no_exception_is_known_by_a_name_that_is_not_checked_here() -> None:
    named = {*reading._REFUSALS, *reading._CLIENT_ERRORS}
    checked = {target.partition(":")[2] for target, _ in EXCEPTIONS}
    assert {name for name in named if not hasattr(builtins, name)} <= checked


# ---------------------------------------------------------------- plug-ins


def our_plugin_groups() -> set[str]:
    """The groups of vLLM's in which we stand: in our metadata, or only while we are on."""
    project: dict[str, Any] = tomllib.loads((environments.ROOT / "pyproject.toml").read_text())["project"]
    while_on = ConfigParser()
    assert while_on.read(environments.ROOT / "src/ai_otel/activation/ai_otel_activation-0.dist-info/entry_points.txt")
    return {group for group in (*project["entry-points"], *while_on.sections()) if group.startswith("vllm.")}


def test_every_plugin_group_that_we_stand_in_is_read(vllm_tree: SourceTree) -> None:
    """In 0.11.1 the name of the stat loggers' group stands beside their loader."""
    names = vllm_tree.strings("vllm.plugins") | vllm_tree.strings("vllm.v1.metrics.loggers")
    assert len(our_plugin_groups()) == 2
    assert our_plugin_groups() - names == set()


def test_a_stat_logger_is_called_as_emitted_expects(vllm_tree: SourceTree) -> None:
    base = "vllm.v1.metrics.loggers:StatLoggerBase"
    parameters = {
        "__init__": ("vllm_config", "engine_index"),
        "record": ("scheduler_stats", "iteration_stats", "mm_cache_stats", "engine_idx"),
        "log_engine_initialized": (),
        # Misnamed here: vLLM passes 1 where the engine fell asleep, as its own logger reads it.
        "record_sleep_state": ("is_awake", "level"),
    }
    assert {name: vllm_tree.function(f"{base}.{name}").parameters for name in parameters} == parameters
    own = vllm_tree.function("vllm.v1.metrics.loggers:PrometheusStatLogger.record_sleep_state")
    assert own.parameters == ("sleep", "level")


# ---------------------------------------------------------------- the page


def test_the_page_shows_every_row() -> None:
    lines = PAGE.read_text().splitlines()
    for point in VllmAdapter.hooks:
        cells = (f"`{point.target}`", point.rung.value, f"`{point.versions}`")
        assert any(all(f"| {cell} " in line for cell in cells) for line in lines), f"{PAGE}: no line with {cells}"


def test_the_page_names_the_versions_that_are_checked() -> None:
    text = PAGE.read_text()
    assert [version for version in VERSIONS if version not in text] == []
