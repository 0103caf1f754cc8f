"""
Entry points that are visible only while ai-otel is on.

vLLM turns its statistics on as soon as any stat logger plug-in is installed, even with `--disable-log-stats`.
Installing is not activating: that entry point is not in the wheel's metadata but in this directory, which joins
`sys.path` when ai-otel is switched on. The directory also holds the `sitecustomize` of `ai-otel run`.
"""

from __future__ import annotations

import logging
import sys
from importlib.metadata import entry_points
from pathlib import Path

from ai_otel.engines import EngineEntry
from ai_otel.inputs.shown import shown

log = logging.getLogger("ai_otel")

DIRECTORY = str(Path(__file__).parent)


def show() -> None:
    """Let `importlib.metadata` find the entry points of this directory."""
    if DIRECTORY not in sys.path:
        sys.path.append(DIRECTORY)


def third_party_engines() -> dict[str, EngineEntry]:
    """Return the adapters that other distributions offer in the entry point group `ai_otel.engines`."""
    found = {}
    for entry in entry_points(group="ai_otel.engines"):
        try:
            found[entry.name] = EngineEntry(entry.value, tuple(entry.load().packages))
        except (ImportError, AttributeError) as error:
            log.warning("ai-otel: engine adapter %s (%s) cannot be used: %s", entry.name, entry.value, shown(error))
    return found
