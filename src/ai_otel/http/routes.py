"""Which routes of model servers are inference, and which operation each is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

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
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
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


class Classified(NamedTuple):
    """What a path is."""

    route: str | None
    """The inference route; `None` for any other path."""
    operation: str | None
    background: bool
    """A health, metrics or documentation page."""


class Routes:
    """Which paths are inference: those of `OPERATIONS`, and `extra` ones, by template, which win over them."""

    def __init__(self, extra: Mapping[str, str] | None = None) -> None:
        self._extra = [(_pattern(template), template, operation) for template, operation in (extra or {}).items()]
        self.of = lru_cache(maxsize=512)(self._classify)
        """What a path is; called for every request."""

    def of_scope(self, scope: Mapping[str, Any]) -> Classified:
        """What an ASGI scope's path is: the one below `root_path`, which servers include in `path` or leave out."""
        path: str = scope["path"]
        root: str | None = scope.get("root_path")
        if root:
            root = root.rstrip("/")
            if root and path.startswith(f"{root}/"):
                path = path[len(root) :]
        return self.of(path)

    def _classify(self, path: str) -> Classified:
        for pattern, template, operation in self._extra:
            if pattern.fullmatch(path):
                return Classified(template, operation, background=False)
        # Gateways and mounts put a prefix before the engine's route. A route of one segment (`/chat`, `/score`) must be
        # the whole path: below a prefix, the word may mean anything.
        background = _BACKGROUND.fullmatch(path) is not None
        path = path.rstrip("/")
        start = 0
        while start >= 0:
            route = path[start:]
            if route in OPERATIONS and (start == 0 or route.count("/") > 1):
                return Classified(route, OPERATIONS[route], background)
            start = path.find("/", start + 1)
        return Classified(None, None, background)


def _pattern(template: str) -> re.Pattern[str]:
    """Below a prefix only if it has several segments, as routes of `OPERATIONS`."""
    parts = re.split(r"(\{\w+(?::path)?\})", template)
    inner = "".join(_ANY.get(part[-6:], "[^/]+") if part[:1] == "{" else re.escape(part) for part in parts)
    return re.compile(rf"(?:/.*)?{inner}/?" if template.count("/") > 1 else rf"{inner}/?", re.DOTALL)


_ANY = {":path}": ".+"}

ROUTES = Routes()
"""Without extra ones."""


def route_and_kind(scope: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Return the route of `OPERATIONS` that an ASGI scope's path ends with, and whether it is a background page."""
    found = ROUTES.of_scope(scope)
    return found.route, found.background
