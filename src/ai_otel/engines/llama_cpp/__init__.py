"""
llama.cpp in a Python process: its hook points, and the function of each.

`native.py` reads `xllamacpp.Server`, llama.cpp's own server called in-process; `llama.py` reads `llama_cpp.Llama`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai_otel.engines.llama_cpp.llama import LlamaHooks
from ai_otel.engines.llama_cpp.native import NativeHooks
from ai_otel.hooks.point import HookPoint, Rung

if TYPE_CHECKING:
    from ai_otel.hooks.patch import Patcher
    from ai_otel.recorder import Recorder

# The two packages number their releases apart: xllamacpp 0.2.14, 2026.4, …; llama-cpp-python 0.3.7, …
_NATIVE = ">=0.2.14"
_LLAMA = ">=0.3.7"

HANDLERS = {
    HookPoint(
        f"xllamacpp.xllamacpp:Server.{name}",
        reads=("prompt", "callback") if streams else ("prompt",),
        versions=_NATIVE,
        rung=Rung.PUBLIC,
        why=f"Every {operation} request of llama.cpp's server that Python makes passes here.",
    ): operation
    for name, operation, streams in (
        ("handle_completions", "text_completion", True),
        ("handle_chat_completions", "chat", True),
        ("handle_embeddings", "embeddings", False),
        ("handle_rerank", "rerank", False),
    )
}

_SAMPLING = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "stream",
)
COMPLETION = HookPoint(
    "llama_cpp.llama:Llama.create_completion",
    reads=_SAMPLING,
    versions=_LLAMA,
    rung=Rung.PUBLIC,
    why="Every completion passes here, those of `Llama.__call__` and of chat formats too.",
)
CHAT = HookPoint(
    "llama_cpp.llama:Llama.create_chat_completion",
    reads=_SAMPLING,
    versions=_LLAMA,
    rung=Rung.PUBLIC,
    why="A chat is one request, however many completions its format makes of it.",
)
EMBEDDING = HookPoint(
    "llama_cpp.llama:Llama.create_embedding",
    reads=(),
    versions=_LLAMA,
    rung=Rung.PUBLIC,
    why="Embeddings with a count of their tokens.",
)
EMBED = HookPoint(
    "llama_cpp.llama:Llama.embed",
    reads=(),
    versions=_LLAMA,
    rung=Rung.PUBLIC,
    why="Embeddings that a program asks for directly.",
)
GENERATE = HookPoint(
    "llama_cpp.llama:Llama.generate",
    reads=("tokens",),
    versions=_LLAMA,
    rung=Rung.PUBLIC,
    why="The prompt's tokens and each new one: the only place that knows what a stream has produced, and when.",
)


class LlamaCppAdapter:
    """The adapter of llama.cpp's Python bindings."""

    name = "llama_cpp"
    packages = ("llama_cpp", "xllamacpp")
    distributions = ("llama-cpp-python", "xllamacpp")
    hooks = (*HANDLERS, COMPLETION, CHAT, EMBEDDING, EMBED, GENERATE)
    # Over both packages: llama-cpp-python 0.3.7 to 0.3.36, xllamacpp 0.2.14 to 2026.10.11549.
    tested = ("0.2.14", "2026.10.11549")

    def attach(self, recorder: Recorder, hooks: Patcher) -> None:
        """Register all hooks; nothing of llama.cpp is imported here."""
        native = NativeHooks(recorder)
        for point, operation in HANDLERS.items():
            hooks.answer(point, native.opener(operation), callback="callback")

        llama = LlamaHooks(recorder)
        hooks.answer(COMPLETION, llama.completion)
        hooks.answer(CHAT, llama.chat)
        hooks.answer(EMBEDDING, llama.embedding)
        hooks.answer(EMBED, llama.embed)
        hooks.stream(GENERATE, llama.generate)
