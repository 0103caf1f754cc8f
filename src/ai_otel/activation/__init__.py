"""
Entry points that are visible only while ai-otel is on.

vLLM turns its statistics on as soon as any stat logger plug-in is installed, even with `--disable-log-stats`.
Installing is not activating: that entry point is not in the wheel's metadata but in this directory, which joins
`sys.path` when ai-otel starts. The directory also holds the `sitecustomize` of `ai-otel run`.

Imported at the start of every interpreter where ai-otel is on: at the top, only what is loaded anyway.
"""

from __future__ import annotations

import os
import sys

from ai_otel.engines import EngineEntry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import EntryPoint

DIRECTORY = os.path.dirname(__file__)  # noqa: PTH120 - pathlib takes longer to import than all of this

_logged: set[tuple[str, str]] = set()


def show() -> None:
    """Let `importlib.metadata` find the entry points of this directory."""
    if DIRECTORY not in sys.path:
        sys.path.append(DIRECTORY)


def third_party_engines() -> dict[str, EngineEntry]:
    """Return the adapters that other distributions offer in the entry point group `ai_otel.engines`."""
    from importlib.metadata import entry_points

    from ai_otel.hooks.guard import Guard

    advice = "Update or uninstall the distribution that has it."
    offered = Guard("find engines", advice=advice)(lambda: list(entry_points(group=GROUP))) or []
    loaded = {entry.name: Guard(f"load engine {entry.name}", advice=advice)(_load, entry) for entry in offered}
    return {name: entry for name, entry in loaded.items() if entry is not None}


def _load(entry: EntryPoint) -> EngineEntry | None:
    try:
        # What is no text raises here, and not where its import is waited for.
        return EngineEntry(entry.value, tuple(map(str.strip, entry.load().packages)))
    except (ImportError, AttributeError, TypeError) as error:
        _log_once(entry.name, entry.value, error)
        return None


def _log_once(name: str, value: str, error: Exception) -> None:
    if (name, value) in _logged:
        return
    _logged.add((name, value))
    import logging

    from ai_otel.inputs.shown import shown

    message = "ai-otel: engine adapter %s (%s) cannot be used: %s"
    logging.getLogger("ai_otel").warning(message, name, value, shown(error))


GROUP = "ai_otel.engines"


def may_offer_engines(path: Iterable[object]) -> bool:
    """
    Whether a distribution on `path` may have an entry point in the group, as far as files show.

    `importlib.metadata` says it exactly, and takes 20 ms to import and parse. Where metadata may be in something that
    is no directory, the answer is yes. As the import system does, it leaves out entries that are no text.
    """
    return any(_may_offer(entry or ".") for entry in path if isinstance(entry, str))


def _may_offer(entry: str) -> bool:
    try:
        names = os.listdir(entry)  # noqa: PTH208
    except NotADirectoryError:
        return True  # a zip file
    except (OSError, ValueError):  # the latter for characters that no name of a file has
        return False
    folders = [f"{entry}/{name}" for name in names if name.endswith((".dist-info", ".egg-info"))]
    if entry.endswith(".egg"):
        folders.append(f"{entry}/EGG-INFO")
    return any(_names_group(f"{folder}/entry_points.txt") for folder in folders)


def _names_group(file: str) -> bool:
    try:
        with open(file, "rb") as text:  # noqa: PTH123
            return GROUP.encode() in text.read()
    except OSError:
        return False
