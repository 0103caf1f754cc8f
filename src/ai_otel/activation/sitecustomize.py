"""Activates ai-otel in every interpreter below `ai-otel run`, then runs the next `sitecustomize`."""

import os
import sys
from importlib.machinery import PathFinder

_HERE = os.path.normpath(os.path.dirname(__file__))  # noqa: PTH120 - pathlib takes longer to import than all of this


def _activate() -> None:
    try:
        from ai_otel.entrypoints import site
    except ImportError:
        # This interpreter lacks ai-otel.
        return
    site()


def _run_next() -> None:
    """Run the next one on the path. Where that is another ai-otel's, it goes on from its own place."""
    entries = [os.path.normpath(entry) if entry else "" for entry in sys.path]
    first = entries.index(_HERE) if _HERE in entries else -1
    path = [entry for entry in entries[first + 1 :] if entry not in ("", _HERE)]
    spec = PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        from importlib.util import module_from_spec

        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


_activate()
_run_next()
