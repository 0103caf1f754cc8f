"""The supported engines. Each engine is one row. Read at the start of every interpreter that is on: imports nothing."""


class EngineEntry:
    """Where an engine's adapter is, and the packages whose import loads it."""

    __slots__ = ("adapter", "packages")

    def __init__(self, adapter: str, packages: tuple[str, ...]) -> None:
        self.adapter = adapter
        """`module:Class`, imported only when one of the packages is."""
        self.packages = packages


ENGINES: dict[str, EngineEntry] = {
    "llama_cpp": EngineEntry("ai_otel.engines.llama_cpp:LlamaCppAdapter", ("llama_cpp", "xllamacpp")),
    "vllm": EngineEntry("ai_otel.engines.vllm:VllmAdapter", ("vllm",)),
}
