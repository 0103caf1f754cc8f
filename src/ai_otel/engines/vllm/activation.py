"""How vLLM loads the recorder: its stat logger plug-in, and the variables of vLLM that disable it."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ai_otel.hooks.guard import Guard
from ai_otel.inputs.shown import shown

if TYPE_CHECKING:
    from ai_otel.engines.vllm.stats import EngineStats
    from ai_otel.recorder import Recorder


class Handle(Protocol):
    """The part of the process's handle that a stat logger reads."""

    @property
    def adapters(self) -> Mapping[str, Any]:
        """Attached adapters by engine."""
        ...

    @property
    def recorder(self) -> Recorder:
        """The recorder of this process."""
        ...


def blocked(variables: Mapping[str, str]) -> Iterator[str]:
    """
    Yield one message for each variable of vLLM that keeps telemetry from being recorded.

    Yields nothing in a child process: its parent reads the same variables and has reported them.
    """
    # A spawned process sets its parent only after the imports of the main module; its command line is known before.
    if multiprocessing.parent_process() is not None or "--multiprocessing-fork" in sys.orig_argv:
        return
    allowed = variables.get("VLLM_PLUGINS")
    if allowed is not None and "ai_otel" not in [name.strip() for name in allowed.split(",")]:
        wanted = ",".join(filter(None, (allowed, "ai_otel")))
        yield (
            f"VLLM_PLUGINS={shown(allowed)} excludes the plug-ins of ai-otel: requests are observed; the engine's "
            "counters and the running, waiting and KV cache gauges are not. "
            f"Set VLLM_PLUGINS={shown(wanted)} to observe them."
        )
    if variables.get("VLLM_USE_RUST_FRONTEND", "").strip().lower() in ("1", "true"):
        yield (
            "VLLM_USE_RUST_FRONTEND is on: the front end is not Python, so ai-otel makes no request spans. "
            "Have a Collector scrape vLLM's /metrics, or use --otlp-traces-endpoint."
        )


def stat_logger_class(current: Callable[[], Handle | None], guard: Guard) -> type[Any]:
    """
    Return the class that vLLM instantiates for each engine, in the API server.

    The class derives from one of vLLM's, so it is made on request. `current` returns the handle of this process, or
    `None` if the process is not instrumented: the stat logger then does nothing.
    """
    from vllm.v1.metrics.loggers import StatLoggerBase

    def follow(vllm_config: Any, engine_index: int) -> EngineStats | None:
        handle = current()
        adapter = handle.adapters.get("vllm") if handle is not None else None
        if handle is None or adapter is None:
            return None
        stats: EngineStats = adapter.follow(handle.recorder, vllm_config, engine_index)
        return stats

    class VllmStatLogger(StatLoggerBase):  # type: ignore[misc, unused-ignore]
        """Follows the statistics of one engine."""

        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            self._stats: EngineStats | None = guard(follow, vllm_config, engine_index)

        def record(
            self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
        ) -> None:
            if self._stats is not None:
                self._stats.record(scheduler_stats, iteration_stats)

        def log_engine_initialized(self) -> None:
            if self._stats is not None:
                self._stats.initialized()

        def record_sleep_state(self, is_awake: int = 0, level: int = 0) -> None:
            # The name of vLLM's first argument is the opposite of what vLLM passes: 1 is asleep.
            if self._stats is not None:
                self._stats.sleep_state(is_awake, level)

    return VllmStatLogger
