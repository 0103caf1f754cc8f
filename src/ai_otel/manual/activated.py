"""The handle of this process, started by the first call of the application where ai-otel is switched on."""

from __future__ import annotations

from ai_otel.activation import first_engine
from ai_otel.hooks.forks import FORKS, IMPORTS_S
from ai_otel.start import Handle, current


def activated() -> Handle | None:
    """The handle; `None` where ai-otel is off. A fork waits while the first call starts it."""
    if current() is None:
        with FORKS.held_off(IMPORTS_S):
            first_engine.begin()
    return current()
