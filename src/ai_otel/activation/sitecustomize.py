"""Activates ai-otel in every interpreter below `ai-otel run`, then runs the next `sitecustomize`."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

_HERE = str(Path(__file__).parent)


def _activate() -> None:
    try:
        from ai_otel.entrypoints import site
    except ImportError:
        # This interpreter lacks ai-otel or one of its dependencies.
        return
    site()


def _run_next() -> None:
    path = [entry for entry in sys.path if entry and str(Path(entry)) != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


_activate()
_run_next()
