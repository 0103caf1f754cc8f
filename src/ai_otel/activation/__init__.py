"""
Doors that are only there while we are on.

vLLM turns its statistics on as soon as any stat logger plug-in is installed, even with `--disable-log-stats`.
Installing is not activating, so that entry point is not in our wheel's metadata: it stands in this directory, which is
put on `sys.path` when we are switched on. The directory also holds the `sitecustomize` that `ai-otel run` uses.
"""

from __future__ import annotations

import logging
import multiprocessing
import sys
from importlib.metadata import entry_points
from pathlib import Path

from ai_otel.engines import Engine
from ai_otel.settings import Surroundings

log = logging.getLogger("ai_otel")

DIRECTORY = str(Path(__file__).parent)


def show() -> None:
    """Let `importlib.metadata` find our plug-in entry points from now on."""
    if DIRECTORY not in sys.path:
        sys.path.append(DIRECTORY)


def third_party_engines() -> dict[str, Engine]:
    """Adapters that other distributions offer in the entry point group `ai_otel.engines`."""
    found = {}
    for entry in entry_points(group="ai_otel.engines"):
        try:
            found[entry.name] = Engine(entry.value, tuple(entry.load().packages))
        except (ImportError, AttributeError) as error:
            log.warning("ai-otel: engine adapter %s (%s) cannot be used: %s", entry.name, entry.value, error)
    return found


def tell_shut(engine: str, surroundings: Surroundings) -> None:
    """Say, once, which of our doors the engine's own configuration keeps shut."""
    if engine != "vllm":
        return
    if multiprocessing.parent_process() is not None or "--multiprocessing-fork" in sys.orig_argv:
        return  # the parent, which reads the same variables, has told it (a spawned child learns of its parent late)
    allowed = surroundings.vllm_plugins
    if allowed is not None and "ai_otel" not in [name.strip() for name in allowed.split(",")]:
        wanted = ",".join(filter(None, (allowed, "ai_otel")))
        log.warning(
            "ai-otel: VLLM_PLUGINS=%s shuts our plug-ins out: requests are observed, the engine's own counters and the "
            "running, waiting and KV cache gauges are not. Set VLLM_PLUGINS=%s to have them.",
            allowed,
            wanted,
        )
    if surroundings.rust_front_end:
        log.warning(
            "ai-otel: VLLM_USE_RUST_FRONTEND is on: the front end is not Python, so there are no request spans from "
            "here. Have a Collector scrape vLLM's /metrics, or use --otlp-traces-endpoint."
        )
