"""The supported engines. Each engine is one row."""

from __future__ import annotations

from typing import NamedTuple


class EngineEntry(NamedTuple):
    """Where an engine's adapter is, and the packages whose import loads it."""

    adapter: str
    """`module:Class`, imported only when one of the packages is."""
    packages: tuple[str, ...]


ENGINES: dict[str, EngineEntry] = {
    "llama_cpp": EngineEntry("ai_otel.engines.llama_cpp:LlamaCppAdapter", ("llama_cpp", "xllamacpp")),
    "vllm": EngineEntry("ai_otel.engines.vllm:VllmAdapter", ("vllm",)),
}
