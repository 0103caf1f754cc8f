"""
The entry points: thin, guarded, and without effect unless `AI_OTEL_ENABLED` is true.

`site` runs at the start of every interpreter, in processes that may never serve: what it imports is in the standard
library's start already. The others start ai-otel at once.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # `typing` takes longer to import than all that `site` needs
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    from ai_otel.hooks.guard import Guard
    from ai_otel.start import Handle

_guard: Guard | None = None


def site() -> None:
    """The `.pth` file, and the `sitecustomize` of `ai-otel run`: starts ai-otel when an engine is imported."""
    from ai_otel.inputs.flag import flag

    try:
        on = flag(os.environ.get("AI_OTEL_ENABLED", ""))
    except ValueError:
        _guarded(_enter)  # logs it
        return
    if on:
        from ai_otel.activation import first_engine

        first_engine.wait(lambda: _guarded(_enter))


def vllm_general_plugin() -> None:
    """`vllm.general_plugins`: called once in each of vLLM's processes. An exception here would end vLLM."""
    _guarded(_enter)


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
        _guarded(lambda: _enter(**passed))

    def uninstrument(self, **_: Any) -> None:
        """Undo `instrument`."""
        _guarded(_leave)


def _guarded(call: Callable[[], object]) -> None:
    try:
        guard = _own_guard()
    except ImportError:
        return  # ai-otel was uninstalled or replaced since this process started
    guard(call)


def _own_guard() -> Guard:
    """The guard of all entry points, made when one does something."""
    global _guard  # noqa: PLW0603
    if _guard is None:
        from ai_otel.hooks.guard import Guard

        _guard = Guard("door")
    return _guard


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

        return stat_logger_class(current, _own_guard())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
