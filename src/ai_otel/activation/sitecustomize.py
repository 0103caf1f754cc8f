"""Runs at the start of every interpreter below `ai-otel run`: opens our door, then has the next `sitecustomize` run."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

_HERE = str(Path(__file__).parent)


def _open_door() -> None:
    try:
        from ai_otel.entrypoints import site
    except ImportError:
        # An interpreter that lacks us or what we need; it is none of our business.
        return
    site()


def _run_next() -> None:
    path = [entry for entry in sys.path if entry and str(Path(entry)) != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


_open_door()
_run_next()
