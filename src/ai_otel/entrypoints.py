"""
The doors through which others call us: thin, guarded, and shut unless `AI_OTEL_ENABLED` is true.

Nothing heavy is imported at the top: these run at the start of every interpreter, in processes that may never serve.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ai_otel.hooks.guard import Guard

if TYPE_CHECKING:
    from ai_otel.start import Handle

log = logging.getLogger("ai_otel")

_guard = Guard("door")


def site() -> None:
    """The `.pth` file, and the `sitecustomize` of `ai-otel run`."""
    _guard(_enter)


def vllm_general_plugin() -> None:
    """`vllm.general_plugins`: called once in each of vLLM's processes. vLLM does not survive what it raises."""
    _guard(_enter)


class AiOtelInstrumentor:
    """
    `opentelemetry_instrumentor`: what `opentelemetry-instrument` and the Operator load.

    It has the methods of OpenTelemetry's `BaseInstrumentor` and never raises: the loader skips every instrumentor after
    one that does.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """None: engines are gated one by one, by their versions."""
        return ()

    def instrument(self, **options: Any) -> None:
        """Observe the model servers of this process, through the given or the global providers."""
        passed = {name: options[name] for name in ("tracer_provider", "meter_provider") if name in options}
        _guard(lambda: _enter(**passed))

    def uninstrument(self, **_: Any) -> None:
        """Undo it."""
        _guard(_leave)


def _enter(**providers: Any) -> Handle | None:
    from ai_otel.settings import Settings

    if not Settings.switched_on():
        return None
    from ai_otel.start import instrument

    return instrument(**providers)


def _leave() -> None:
    from ai_otel.start import uninstrument

    uninstrument()


def __getattr__(name: str) -> Any:
    # A class that derives from vLLM's can only be made where vLLM is.
    if name == "VllmStatLogger":
        return _vllm_stat_logger()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _vllm_stat_logger() -> type[Any]:
    from vllm.v1.metrics.loggers import StatLoggerBase

    from ai_otel.engines.vllm.stats import EngineStats
    from ai_otel.start import current

    class VllmStatLogger(StatLoggerBase):  # type: ignore[misc, unused-ignore]
        """Follows one engine's statistics. vLLM makes one for each engine, in the API server."""

        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            self._stats: EngineStats | None = _guard(self._attach, vllm_config, engine_index)

        @staticmethod
        def _attach(vllm_config: Any, engine_index: int) -> EngineStats | None:
            handle = current()
            adapter: Any = handle.adapters.get("vllm") if handle is not None else None
            if handle is None or adapter is None:
                return None
            stats: EngineStats = adapter.follow(handle.recorder, vllm_config, engine_index)
            return stats

        def record(
            self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
        ) -> None:
            if self._stats is not None:
                self._stats.record(scheduler_stats, iteration_stats)

        def log_engine_initialized(self) -> None:
            if self._stats is not None:
                self._stats.initialized()

        def record_sleep_state(self, is_awake: int = 0, level: int = 0) -> None:
            # vLLM's own name for the first argument says the opposite of what it passes: 1 is asleep.
            if self._stats is not None:
                self._stats.sleep_state(is_awake, level)

    return VllmStatLogger
