from __future__ import annotations

import pytest

from ai_otel import semconv
from ai_otel.http.routes import OPERATIONS, Routes, route_and_kind


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/chat/completions/", "chat"),
        ("/v1/messages", "chat"),
        ("/v1/responses", "chat"),
        ("/v1/completions", "text_completion"),
        ("/generate", "text_completion"),
        ("/v1/embeddings", "embeddings"),
        ("/api/embed", "embeddings"),
        ("/ollama/api/embeddings", "embeddings"),
        ("/rerank", "rerank"),
        ("/score", "score"),
        ("/v1/audio/transcriptions", "transcription"),
        ("/", None),
        ("", None),
        ("/v1/models", None),
        ("/v1/load_lora_adapter", None),
        ("/tokenize", None),
        ("/v1/chat/completions/extra", None),
        ("/prefix/v1/chat/completions", "chat"),
        ("/openai/v1/chat/completions", "chat"),
        ("/a/b/c/v1/embeddings", "embeddings"),
        ("/cohere/v2/chat", "chat"),
        ("/generative_scoring", "score"),
        ("/admin/score", None),
        ("/support/chat", None),
        ("/xv1/chat/completions", None),
        ("//v1/chat/completions", "chat"),
    ],
)
def test_a_route_is_an_operation_or_none(path: str, operation: str | None) -> None:
    route, _ = route_and_kind({"path": path})
    assert (route and OPERATIONS[route]) == operation


def test_every_operation_is_known_to_the_contract() -> None:
    assert set(OPERATIONS.values()) <= set(semconv.OPERATIONS)


@pytest.mark.parametrize("path", ["/health", "/v1/health/", "/healthz", "/metrics", "/ping", "/api/ready", "/docs"])
def test_pages_about_the_server_are_background(path: str) -> None:
    assert route_and_kind({"path": path})[1]


@pytest.mark.parametrize("path", [*OPERATIONS, "/", "/metrics/other", "/healthy/things"])
def test_nothing_else_is(path: str) -> None:
    assert not route_and_kind({"path": path})[1]


# ---------------------------------------------------------------- routes of the user's


MORE = Routes({"/predict": "text_completion", "/v1/models/{name}:predict": "chat", "/f/{rest:path}": "speech"})


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/predict", ("/predict", "text_completion", False)),
        ("/predict/", ("/predict", "text_completion", False)),
        ("/v2/predict", (None, None, False)),
        ("/v1/models/tiny:predict", ("/v1/models/{name}:predict", "chat", False)),
        ("/gateway/v1/models/tiny:predict", ("/v1/models/{name}:predict", "chat", False)),
        ("/v1/models/a/b:predict", (None, None, False)),
        ("/v1/models/:predict", (None, None, False)),
        ("/f/a/b/health", ("/f/{rest:path}", "speech", False)),
        ("/v1/chat/completions", ("/v1/chat/completions", "chat", False)),
        ("/health", (None, None, True)),
    ],
)
def test_more_routes(path: str, expected: tuple[str | None, str | None, bool]) -> None:
    assert MORE.of(path) == expected


def test_the_users_routes_win() -> None:
    assert Routes({"/v1/completions": "chat", "/ping": "chat"}).of("/v1/completions").operation == "chat"
    assert Routes({"/ping": "chat"}).of("/ping") == ("/ping", "chat", False)
