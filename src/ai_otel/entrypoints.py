"""
The entry points: thin, guarded, and without effect unless `AI_OTEL_ENABLED` is true.

Nothing heavy is imported at the top: they run at the start of every interpreter, in processes that may never serve.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ai_otel.hooks.guard import Guard

if TYPE_CHECKING:
    from ai_otel.start import Handle

_guard = Guard("door")


def site() -> None:
    """The `.pth` file, and the `sitecustomize` of `ai-otel run`."""
    _guard(_enter)


def vllm_general_plugin() -> None:
    """`vllm.general_plugins`: called once in each of vLLM's processes. An exception here would end vLLM."""
    _guard(_enter)


class AiOtelInstrumentor:
    """
    `opentelemetry_instrumentor`: what `opentelemetry-instrument` and the Operator load.

    It has the methods of OpenTelemetry's `BaseInstrumentor`. It never raises: the loader skips every instrumentor after
    one that raises.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return none: each engine is checked by its version."""
        return ()

    def instrument(self, **options: Any) -> None:
        """Observe the model servers of this process, through the given or the global providers."""
        passed = {name: options[name] for name in ("tracer_provider", "meter_provider") if name in options}
        _guard(lambda: _enter(**passed))

    def uninstrument(self, **_: Any) -> None:
        """Undo `instrument`."""
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
    if name == "VllmStatLogger":
        from ai_otel.engines.vllm.activation import stat_logger_class
        from ai_otel.start import current

        return stat_logger_class(current, _guard)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
