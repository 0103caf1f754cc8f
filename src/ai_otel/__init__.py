"""
ai-otel: OpenTelemetry for self-hosted AI model servers.

`instrument()` observes the model servers of this process without a change to them; `ai-otel run -- CMD` and the
environment variable `AI_OTEL_ENABLED=true` do the same from outside.
"""

from __future__ import annotations

from ai_otel.version import __version__

TYPE_CHECKING = False  # imported at every interpreter start, where `typing` would be most of the cost
if TYPE_CHECKING:
    from ai_otel.manual import Carrier, Request, asgi, attach, batch, carry, inference, wsgi
    from ai_otel.settings import Settings, SettingsError
    from ai_otel.start import Handle, instrument, uninstrument

__all__ = [
    "Carrier",
    "Handle",
    "Request",
    "Settings",
    "SettingsError",
    "__version__",
    "asgi",
    "attach",
    "batch",
    "carry",
    "inference",
    "instrument",
    "uninstrument",
    "wsgi",
]

_HOMES = {
    **dict.fromkeys(("Carrier", "Request", "asgi", "attach", "batch", "carry", "inference", "wsgi"), "ai_otel.manual"),
    "Handle": "ai_otel.start",
    "Settings": "ai_otel.settings",
    "SettingsError": "ai_otel.settings",
    "instrument": "ai_otel.start",
    "uninstrument": "ai_otel.start",
}


def __getattr__(name: str) -> object:
    # Lazy, because entry points import this package at every interpreter start.
    if name in _HOMES:
        found = globals()[name] = getattr(_imported(_HOMES[name]), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _imported(module: str) -> object:
    import importlib

    from ai_otel.hooks.forks import FORKS, IMPORTS_S

    # The first request may be reported while another thread forks: the import lock would stay locked in the child.
    with FORKS.held_off(IMPORTS_S):
        return importlib.import_module(module)
