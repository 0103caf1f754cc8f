"""Which routes of model servers are inference, and which operation each is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

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
    "/v2/chat": "chat",
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
    "/generative_scoring": "score",
    "/classify": "classify",
    "/v1/audio/transcriptions": "transcription",
    "/v1/audio/translations": "translation",
    "/v1/audio/speech": "speech",
    "/invocations": "text_completion",
}
"""Route → `gen_ai.operation.name`; values that the conventions lack are legal custom ones."""

_BACKGROUND = re.compile(r".*/(health\w*|live|livez|ready|readyz|ping|metrics|docs|redoc|openapi\.json|favicon\.ico)/?")


@lru_cache(maxsize=512)
def _route_and_kind(path: str) -> tuple[str | None, bool]:
    # Gateways and mounts put a prefix before the engine's route. A route of one segment (`/chat`, `/score`) must be the
    # whole path: below a prefix, the word may mean anything.
    background = _BACKGROUND.fullmatch(path) is not None
    path = path.rstrip("/")
    start = 0
    while start >= 0:
        route = path[start:]
        if route in OPERATIONS and (start == 0 or route.count("/") > 1):
            return route, background
        start = path.find("/", start + 1)
    return None, background


def route_and_kind(scope: Mapping[str, Any]) -> tuple[str | None, bool]:
    """
    Return the route of `OPERATIONS` that an ASGI scope's path ends with, `None` where it is no inference, and whether
    the path is a background page: health, metrics or documentation.

    The path is the one below `root_path`, which servers include in `path` or leave out.
    """
    path: str = scope["path"]
    root: str | None = scope.get("root_path")
    if root:
        root = root.rstrip("/")
        if root and path.startswith(f"{root}/"):
            path = path[len(root) :]
    return _route_and_kind(path)
