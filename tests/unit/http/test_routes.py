from __future__ import annotations

import pytest

from ai_otel import semconv
from ai_otel.http.routes import OPERATIONS, route_and_kind


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
