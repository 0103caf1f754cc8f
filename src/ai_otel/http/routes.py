"""Which routes of model servers are inference, and which operation each is."""

from __future__ import annotations

import re

OPERATIONS: dict[str, str] = {
    "/v1/chat/completions": "chat",
    "/v1/chat/completions/batch": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/api/chat": "chat",
    "/chat": "chat",
    "/v1/completions": "text_completion",
    "/completions": "text_completion",
    "/completion": "text_completion",
    "/generate": "text_completion",
    "/generate_stream": "text_completion",
    "/inference/v1/generate": "text_completion",
    "/api/generate": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v2/embed": "embeddings",
    "/embeddings": "embeddings",
    "/embedding": "embeddings",
    "/embed": "embeddings",
    "/pooling": "pooling",
    "/rerank": "rerank",
    "/v1/rerank": "rerank",
    "/v2/rerank": "rerank",
    "/score": "score",
    "/v1/score": "score",
    "/classify": "classify",
    "/v1/audio/transcriptions": "transcription",
    "/v1/audio/translations": "translation",
    "/v1/audio/speech": "speech",
    "/invocations": "text_completion",
}
"""Route → `gen_ai.operation.name`; values that the conventions lack are legal custom ones."""

_BACKGROUND = re.compile(r".*/(health\w*|live|livez|ready|readyz|ping|metrics|docs|redoc|openapi\.json|favicon\.ico)/?")


def operation_of(path: str) -> str | None:
    """The operation of an inference route; `None` for any other path."""
    return OPERATIONS.get(path.rstrip("/") or "/")


def is_background(path: str) -> bool:
    """Whether the path is a health, metrics or documentation page, which make nothing."""
    return _BACKGROUND.fullmatch(path) is not None
