"""The demo's server: an ordinary one, which answers as OpenAI's interface does and knows nothing of us."""

from __future__ import annotations

import ast
import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import ai_otel.demo
from harness.server import free_port, serving

pytestmark = [pytest.mark.requires(module="xllamacpp"), pytest.mark.requires(module="gguf")]

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """As its user starts it, without us."""
    from ai_otel.demo.gguf import TINY, write_model

    directory = tmp_path_factory.mktemp("server")
    model = write_model(directory / "tiny.gguf", TINY)
    port = free_port()
    command: list[str | Path] = [sys.executable, "-m", "ai_otel.demo.server", "--model", model, "--port", str(port)]
    with (
        serving([*command, "--context", "512"], port, {}, directory / "server.log") as server,
        httpx.Client(base_url=server.url, timeout=30) as http,
    ):
        yield http


def test_it_imports_neither_ai_otel_nor_opentelemetry() -> None:
    tree = ast.parse((Path(ai_otel.demo.__file__).parent / "server.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in imports if isinstance(node, ast.ImportFrom)}
    assert {name for name in names if name.partition(".")[0] in {"ai_otel", "opentelemetry"}} == set()


def test_it_answers_whole(client: Any) -> None:
    chat = client.post(CHAT, json={"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}).json()
    assert (chat["usage"]["completion_tokens"], chat["model"]) == (4, "tiny")
    assert client.post(TEXT, json={"prompt": "hello", "max_tokens": 3, "model": "tiny"}).json()["choices"][0]["text"]
    embeddings = client.post("/v1/embeddings", json={"input": ["a", "b"]}).json()
    assert len(embeddings["data"]) == 2
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
    assert client.get("/health").json() == {"status": "ok"}


def test_it_streams_events(client: Any) -> None:
    body = {"prompt": "hello", "max_tokens": 5, "stream": True, "ignore_eos": True}
    with client.stream("POST", TEXT, json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (CHAT, b"{", 400),
        (CHAT, b"[]", 400),
        (CHAT, b"{}", 400),
        (CHAT, b'{"stream": true}', 400),
        (TEXT, b'{"max_tokens": 3}', 400),
        (TEXT, json.dumps({"prompt": "hello " * 2000}).encode(), 400),
        (TEXT, json.dumps({"prompt": "hello " * 2000, "stream": True}).encode(), 400),
        (TEXT, b'{"prompt": "hello", "model": "other"}', 404),
        ("/v1/embeddings", b"{}", 400),
    ],
)
def test_what_it_cannot_serve_it_refuses_in_openais_words(client: Any, path: str, body: bytes, status: int) -> None:
    response = client.post(path, content=body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, status)
    assert response.json()["error"]["message"]


class Engine:
    """Generates until the callback stops it."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def handle(self, _body: Any, callback: Any) -> None:
        while not callback({"choices": [{"text": "a"}]}):
            pass
        self.stopped.set()


def test_a_client_that_leaves_stops_the_engine() -> None:
    """And the request is over only when the engine has stopped: else its slot would be given away too early."""
    from ai_otel.demo.server import Stream

    async def leave(engine: Engine) -> bool:
        stream = Stream(engine.handle, {})
        events = stream.events(await stream.first())
        await anext(events)
        await events.aclose()
        return engine.stopped.is_set()

    assert asyncio.run(leave(Engine()))
