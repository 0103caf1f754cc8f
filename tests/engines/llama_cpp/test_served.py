"""A real server over llama.cpp, below `ai-otel run`: one span tree a request, and counts that agree with the client."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.clients.completions import Client, Sent
from harness.server import free_port, serving
from harness.telemetry.sink import Arrived, Sink, listening

pytestmark = [pytest.mark.requires(module="xllamacpp"), pytest.mark.requires(module="gguf")]

SERVER = 2
CHATS, TEXTS = "/v1/chat/completions", "/v1/completions"
PROMPT = "the people write about the house and the water"
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def chat(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": PROMPT}], "ignore_eos": True, **more}


def text(**more: Any) -> dict[str, Any]:
    return {"prompt": PROMPT, "ignore_eos": True, **more}


def mixed_load() -> list[Sent]:
    load: list[Sent] = []
    for i in range(8):
        load += [
            Sent("chat", CHATS, chat(max_tokens=8 + i)),
            Sent("chat stream", CHATS, chat(max_tokens=4 + i, **STREAM)),
            Sent("completion", TEXTS, text(max_tokens=6, temperature=0.5, seed=i)),
            Sent("completion stream", TEXTS, text(max_tokens=12, **STREAM)),
            Sent("embeddings", "/v1/embeddings", {"input": PROMPT}),
            Sent("hang-up", CHATS, chat(max_tokens=1500, **STREAM), hang_up_after=5),
        ]
    load += [
        Sent("too long", TEXTS, text(prompt="the people " * 2000)),
        Sent("too long stream", TEXTS, text(prompt="the people " * 2000, **STREAM)),
        Sent("bad request", CHATS, {"max_tokens": 3}),
        Sent("unknown model", CHATS, chat(model="nope")),
    ]
    return load


class Scene:
    """What was sent, and what arrived."""

    def __init__(self, client: Client, sink: Sink) -> None:
        self.client = client
        self.trees = sink.trees()
        self.sink = sink

    def tree(self, sent: Sent) -> Arrived:
        (root,) = self.trees[sent.trace_id]
        return root


def command(model: Path, port: int) -> list[str | Path]:
    """The demo's server, below `ai-otel run`."""
    run = [sys.executable, "-m", "ai_otel.cli", "run", "--", sys.executable, "-m", "ai_otel.demo.server"]
    return [*run, "--model", model, "--port", str(port)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    from ai_otel.demo.gguf import write_model

    directory = tmp_path_factory.mktemp("served")
    model = write_model(directory / "words.gguf")
    with listening() as sink:
        port = free_port()
        telemetry = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
            "OTEL_METRIC_EXPORT_INTERVAL": "300",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with serving(command(model, port), port, telemetry, directory / "server.log") as server:
            client = Client(server.url)
            client.run(mixed_load(), concurrency=6)
            assert sink.wait(lambda: len(sink.trees()) >= len(client.sent)), server.output()
            time.sleep(0.8)
            yield Scene(client, sink)


def test_every_request_has_one_span_tree_with_its_parent(scene: Scene) -> None:
    for sent in scene.client.sent:
        root = scene.tree(sent)
        assert (root.parent_id, root.kind) == (sent.span_id, SERVER), sent.name


def test_every_request_ends_as_its_client_saw_it(scene: Scene) -> None:
    outcomes = {
        "hang-up": "cancelled",
        "too long": "rejected",
        "too long stream": "rejected",
        "bad request": "rejected",
        "unknown model": "rejected",
    }
    for sent in scene.client.sent:
        attributes = scene.tree(sent).attributes
        assert attributes["ai_otel.outcome"] == outcomes.get(sent.name, "finished"), sent.name
        assert attributes["http.response.status_code"] == sent.status, sent.name


def test_the_tokens_are_those_that_the_client_received(scene: Scene) -> None:
    reported = [sent for sent in scene.client.sent if sent.usage is not None]
    assert Counter(sent.name for sent in reported)["chat stream"] == 8
    for sent in reported:
        assert sent.usage is not None
        attributes = scene.tree(sent).attributes
        assert attributes["gen_ai.usage.input_tokens"] == sent.usage["prompt_tokens"], sent.name
        assert attributes.get("gen_ai.usage.output_tokens") == sent.usage.get("completion_tokens"), sent.name


def test_a_client_that_hangs_up_is_charged_for_what_was_generated(scene: Scene) -> None:
    for sent in scene.client.sent:
        if sent.name == "hang-up":
            produced = scene.tree(sent).attributes["gen_ai.usage.output_tokens"]
            assert sent.chunks <= produced < 1500


def test_prefill_and_decode_lie_inside_their_request(scene: Scene) -> None:
    for sent in scene.client.sent:
        root = scene.tree(sent)
        if sent.name in ("chat", "chat stream", "completion", "completion stream", "hang-up"):
            assert [child.name for child in sorted(root.children, key=lambda span: span.start_ns)] == [
                "prefill",
                "decode",
            ]
        for child in root.children:
            assert root.start_ns <= child.start_ns <= child.end_ns <= root.end_ns


def test_the_first_token_comes_no_later_than_the_client_saw_it(scene: Scene) -> None:
    for sent in scene.client.sent:
        if sent.first_token_ns is not None:
            root = scene.tree(sent)
            first_s = root.attributes["ai_otel.time_to_first_token"]
            assert first_s <= (sent.first_token_ns - sent.sent_ns) / 1e9, sent.name
            assert first_s <= root.attributes["gen_ai.response.time_to_first_chunk"] + 0.005, sent.name


def test_the_counters_are_the_sum_of_the_spans(scene: Scene) -> None:
    roots = [scene.tree(sent).attributes for sent in scene.client.sent]
    produced = sum(attributes.get("gen_ai.usage.output_tokens", 0) for attributes in roots)
    read = sum(attributes.get("gen_ai.usage.input_tokens", 0) for attributes in roots)
    assert scene.sink.total("ai_otel.usage.output_tokens") == produced
    assert scene.sink.total("ai_otel.usage.input_tokens") == read
    assert scene.sink.total("gen_ai.server.request.duration") == len(roots)
    assert scene.sink.total("ai_otel.request.rejected") == 4


def test_nothing_that_a_client_invents_becomes_a_label(scene: Scene) -> None:
    points = scene.sink.points("gen_ai.server.request.duration")
    models = {dict(labels).get("gen_ai.request.model") for _, labels in points}
    assert models <= {"words", None}


def test_no_hook_failed(scene: Scene) -> None:
    assert scene.sink.points("ai_otel.hook.errors") == {}


def test_a_server_that_is_stopped_flushes(tmp_path: Path) -> None:
    """SIGTERM, as Kubernetes stops a pod: uvicorn dies of it, and no exit handler runs."""
    from ai_otel.demo.gguf import write_model

    port, model = free_port(), write_model(tmp_path / "words.gguf")
    with listening() as sink:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url}
        with serving(command(model, port), port, environment, tmp_path / "server.log") as server:
            Client(server.url).run([Sent("chat", CHATS, chat(max_tokens=5))], concurrency=1)
            server.process.terminate()
            server.process.wait(20)
        assert [span.name for span in sink.spans if not span.name.startswith(("prefill", "decode"))] == ["chat words"]
        assert sink.total("gen_ai.server.request.duration") == 1
