# ruff: noqa: INP001 - no package: Python finds it by its name
"""Runs at each interpreter start in an injected pod: loads ai-otel's entry point if it may, then runs the next one.

The image has it in `opentelemetry/instrumentation/auto_instrumentation`, which the Operator puts first on PYTHONPATH.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib costs more than all of this file
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(_HERE)))  # noqa: PTH120


def _hide() -> None:
    """Take our directories off the path: what the server imports, and what it does not find, is as without us."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") not in {_HERE, _ROOT}]  # noqa: PTH100


def _activate() -> None:
    if os.environ.get("AI_OTEL_ENABLED", "").strip().lower() not in {"1", "true", "yes", "on"}:
        return
    try:
        from importlib.machinery import SourceFileLoader

        preflight = type(sys)("ai_otel_preflight")
        SourceFileLoader("ai_otel_preflight", os.path.join(_ROOT, "ai-otel", "preflight.py")).exec_module(preflight)  # noqa: PTH118
        preflight.enter(os.path.join(_ROOT, "ai-otel"))  # noqa: PTH118
    except Exception as error:  # noqa: BLE001 - ai-otel must never keep a server from starting
        sys.stderr.write(f"ai-otel: not started: {error!r}; the server is not affected\n")


def _run_next() -> None:
    """The `sitecustomize` that would have run without this one."""
    own = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        if own is not None:  # the import that runs this file reads its module afterwards
            sys.modules.setdefault("sitecustomize", own)


_hide()
_activate()
_run_next()
