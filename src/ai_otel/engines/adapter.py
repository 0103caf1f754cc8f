"""The interface of an engine adapter: implement this and nothing more to make an engine observable."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ai_otel.hooks.patch import Patcher
    from ai_otel.hooks.point import HookPoint
    from ai_otel.recorder import Recorder

log = logging.getLogger("ai_otel")


class EngineAdapter(Protocol):
    """One engine. Importing the adapter's module must not import the engine."""

    name: str
    """The engine's name in telemetry (`gen_ai.provider.name`), and of its schema, example, tests and page."""
    packages: tuple[str, ...]
    """Importable packages of the engine; the adapter attaches when one of them is imported."""
    distributions: tuple[str, ...]
    """Distributions that carry these packages, most common first."""
    hooks: tuple[HookPoint, ...]
    tested: tuple[str, str]
    """Oldest and newest version in the test matrix."""

    def attach(self, recorder: Recorder, hooks: Patcher) -> None:
        """Register the hooks. Runs once; what it registers waits for the modules that it names."""
        ...


def warn_blocked(adapter: EngineAdapter, variables: Mapping[str, str]) -> None:
    """Log which of the engine's own variables keep telemetry from being recorded; `blocked` is optional."""
    blocked = getattr(adapter, "blocked", None)
    for message in blocked(variables) if blocked is not None else ():
        log.warning("ai-otel: %s", message)


def warn_out_of_range(name: str, version: str | None, adapter: EngineAdapter) -> None:
    """Log a warning if no hook of an engine covers its installed version."""
    if version is None or not adapter.hooks or any(point.covers(version) for point in adapter.hooks):
        return
    known = " or ".join(dict.fromkeys(point.versions for point in adapter.hooks))
    log.warning(
        "ai-otel: %s %s is not observed: the hooks cover %s. Use such a version, or upgrade ai-otel.",
        name,
        version,
        known,
    )
