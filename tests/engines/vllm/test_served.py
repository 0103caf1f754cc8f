"""Real vLLM, served: one span tree for every request, and token counts that agree with the client and the engine."""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import oracle
import pytest

from harness.clients.completions import Client, Sent, stream_one_by_one
from harness.clients.vllm import PROMPT, STREAM, Page, chat, completion, settled
from harness.server import Server
from harness.telemetry.sink import Arrived, Sink

pytestmark = pytest.mark.requires(part="vllm")

SERVER, INTERNAL = 2, 1
ERROR = 2


class Scene:
    """One server under the mixed load, and everything that was seen of it from all three sides."""

    def __init__(self, server: Server, client: Client, sink: Sink, before: Page, after: Page) -> None:
        self.server = server
        self.client = client
        self.sink = sink
        self.before = before
        self.after = after

    def rise(self, name: str, **labels: str) -> float:
        """How much a counter of vLLM's page rose."""
        return self.after.total(name, **labels) - self.before.total(name, **labels)

    def tree(self, sent: Sent) -> Arrived:
        """The one span tree of a request."""
        (root,) = self.sink.trees()[sent.trace_id]
        return root


def mixed_load() -> list[Sent]:
    """
    210 requests of every kind that ends by itself, by the client, or by the API layer.

    What counts chunks is a completion: a chat stream sends nothing for a token that is no text yet, and a random model
    has many of these.
    """
    chats, texts = "/v1/chat/completions", "/v1/completions"
    load: list[Sent] = []
    for i in range(20):
        text = f"{i} {PROMPT * (1 + i % 4)}"
        load += [
            Sent("chat", chats, chat(text, max_tokens=8 + i)),
            Sent("chat stream", chats, chat(text, max_tokens=4 + i, **STREAM)),
            Sent("completion", texts, completion(text, max_tokens=6, temperature=0.5, top_p=0.9, seed=i)),
            Sent("completion stream", texts, completion(text, max_tokens=12, **STREAM)),
            Sent("n=2", chats, chat(text, max_tokens=7, n=2)),
            Sent("two prompts", texts, completion([text, PROMPT], max_tokens=5)),
        ]
    for i in range(10):
        text = f"{PROMPT} again {i}"
        load += [
            Sent("n=2 stream", chats, chat(text, max_tokens=6, n=2, **STREAM)),
            Sent("hang-up", texts, completion(text, max_tokens=1800, **STREAM), hang_up_after=5),
            Sent("too long", texts, completion("word " * 4000, max_tokens=5)),
            Sent("bad parameter", chats, chat(text, temperature=-3)),
            Sent("unknown model", chats, {**chat(text), "model": "nope"}),
            Sent("responses", "/v1/responses", {"model": "tiny", "input": text, "max_output_tokens": 9}),
            Sent("beam", texts, completion(text, max_tokens=4, n=2, use_beam_search=True, temperature=0)),
            Sent("twin", texts, completion([text, PROMPT], max_tokens=10), request_id=f"twin-{i}"),
            Sent("twin", texts, completion([text, PROMPT], max_tokens=300), request_id=f"twin-{i}"),
        ]
    return load


@pytest.fixture(scope="module")
def scene(module_start: Any, module_sink: Sink) -> Iterator[Scene]:
    with module_start("--max-model-len", "2048", "--max-num-queued-reqs", "40") as server:
        client = Client(server.url)
        client.run([Sent("warm-up", "/v1/completions", completion("a", max_tokens=2)) for _ in range(3)], 1)
        before = settled(server)
        client.sent.clear()
        client.run(mixed_load(), concurrency=8)
        client.run(
            [Sent("burst", "/v1/completions", completion(PROMPT, max_tokens=40)) for _ in range(60)], concurrency=60
        )
        after = settled(server)
        assert module_sink.wait(lambda: len(module_sink.trees()) >= len(client.sent) + 3)
        time.sleep(1.5)  # two metric export intervals
        yield Scene(server, client, module_sink, before, after)


def test_every_request_has_one_span_tree_with_its_parent(scene: Scene) -> None:
    """Refusals of the API layer and hang-ups included."""
    trees = scene.sink.trees()
    assert Counter(len(trees[sent.trace_id]) for sent in scene.client.sent) == {1: len(scene.client.sent)}
    for sent in scene.client.sent:
        root = scene.tree(sent)
        assert (root.parent_id, root.kind) == (sent.span_id, SERVER), sent.name


OUTCOMES = {
    "hang-up": ("cancelled", None),
    "too long": ("rejected", 400),
    "bad parameter": ("rejected", 400),
    "unknown model": ("rejected", 404),
}


def expected(sent: Sent) -> tuple[str, int | None]:
    """Outcome and status; of a burst beyond the queue's limit some are refused at admission."""
    if sent.name == "burst" and sent.status == 503:
        return "rejected", 503
    return OUTCOMES.get(sent.name, ("finished", 200))


@pytest.mark.fault("requests", "requests are refused before the engine or by it", "each has one span with its status")
def test_some_were_refused_before_the_engine_and_some_at_admission(scene: Scene) -> None:
    refused = Counter(sent.status for sent in scene.client.sent if expected(sent)[0] == "rejected")
    assert (refused[400], refused[404]) == (20, 10)
    assert refused[503] == scene.rise("vllm:admission_rejections_total") > 0
    assert refused[503] == scene.sink.total("ai_otel.request.rejected", error__type="queue_full")


def test_status_and_outcome_are_right(scene: Scene) -> None:
    for sent in scene.client.sent:
        root = scene.tree(sent)
        outcome, status = expected(sent)
        if sent.name == "hang-up" and not left_in_time(root):
            outcome = "finished"
        assert root.attributes["ai_otel.outcome"] == outcome, (sent, root.attributes)
        assert (root.status == ERROR) == (status == 503), sent.name
        if status is not None:
            assert sent.status == root.attributes["http.response.status_code"] == status, sent.name
        assert ("error.type" in root.attributes) == (outcome != "finished"), sent.name


def left_in_time(root: Arrived) -> bool:
    """Whether the client was gone before the last token: its chunks may come in one piece, too late."""
    return bool(root.attributes["gen_ai.usage.output_tokens"] < 1800)


def test_names_follow_operation_and_model(scene: Scene) -> None:
    for sent in scene.client.sent:
        operation = "text_completion" if sent.path == "/v1/completions" else "chat"
        root = scene.tree(sent)
        model = root.attributes.get("gen_ai.request.model")
        assert root.name == (f"{operation} {model}" if model else operation), sent.name
        # What is refused before the engine names a model that only the client knows.
        assert model == "tiny" or expected(sent)[1] in (400, 404, 503), sent.name


def test_span_tokens_equal_the_clients_usage(scene: Scene) -> None:
    checked = Counter[str]()
    for sent in scene.client.sent:
        if sent.usage is None:
            continue
        root = scene.tree(sent).attributes
        usage = sent.usage
        reported = (
            usage.get("prompt_tokens", usage.get("input_tokens")),
            usage.get("completion_tokens", usage.get("output_tokens")),
        )
        assert (root["gen_ai.usage.input_tokens"], root["gen_ai.usage.output_tokens"]) == reported, sent.name
        checked[sent.name] += 1
    assert set(checked) >= {
        "chat",
        "chat stream",
        "completion",
        "n=2",
        "n=2 stream",
        "two prompts",
        "beam",
        "responses",
        "twin",
    }


def engine_tokens(root: Arrived) -> tuple[int, int]:
    """What the engine counted for this tree: the prompt once per choice, beams with all their steps."""
    spans = [c for c in root.children if "gen_ai.operation.name" in c.attributes] or [root]
    inputs = outputs = 0
    for span in spans:
        seen = span.attributes
        if "ai_otel.beam.width" in seen:
            inputs += seen["ai_otel.beam.engine.input_tokens"]
            outputs += seen["ai_otel.beam.engine.output_tokens"]
        elif "gen_ai.usage.output_tokens" in seen:
            inputs += seen["gen_ai.usage.input_tokens"] * seen.get("gen_ai.request.choice.count", 1)
            outputs += seen["gen_ai.usage.output_tokens"]
    return inputs, outputs


def test_span_tokens_add_up_to_the_engines_counters_exactly(scene: Scene) -> None:
    """Hang-ups included, at what the engine had produced when the abort reached it."""
    counted = [engine_tokens(scene.tree(sent)) for sent in scene.client.sent]
    assert sum(inputs for inputs, _ in counted) == scene.rise("vllm:prompt_tokens_total")
    assert sum(outputs for _, outputs in counted) == scene.rise("vllm:generation_tokens_total")
    left = [scene.tree(sent) for sent in scene.client.sent if sent.name == "hang-up"]
    assert all(engine_tokens(root)[1] >= 5 for root in left), "each client had read five"


SAME = {
    "ai_otel.usage.input_tokens": "vllm:prompt_tokens_total",
    "ai_otel.usage.output_tokens": "vllm:generation_tokens_total",
    "ai_otel.usage.cache_read.input_tokens": "vllm:prompt_tokens_cached_total",
    "ai_otel.request.preempted": "vllm:num_preemptions_total",
    "ai_otel.prefix_cache.queried_tokens": "vllm:prefix_cache_queries_total",
    "ai_otel.prefix_cache.hit_tokens": "vllm:prefix_cache_hits_total",
    "ai_otel.request.running": "vllm:num_requests_running",
    "ai_otel.request.waiting": "vllm:num_requests_waiting",
    "ai_otel.kv_cache.utilization": "vllm:kv_cache_usage_perc",
    "ai_otel.request.finished": "vllm:request_success_total",
}
SAME_HISTOGRAMS = {
    "ai_otel.request.queue.duration": "vllm:request_queue_time_seconds",
    "ai_otel.request.prefill.duration": "vllm:request_prefill_time_seconds",
    "ai_otel.request.decode.duration": "vllm:request_decode_time_seconds",
    "ai_otel.request.inference.duration": "vllm:request_inference_time_seconds",
    "ai_otel.request.input_tokens": "vllm:request_prompt_tokens",
    "ai_otel.request.output_tokens": "vllm:request_generation_tokens",
}


@pytest.mark.parametrize(("emitted", "theirs"), SAME.items())
def test_our_sums_and_states_equal_vllms_page(scene: Scene, emitted: str, theirs: str) -> None:
    assert scene.sink.points(emitted), "nothing was emitted under this name"
    assert scene.sink.total(emitted) == pytest.approx(scene.after.total(theirs), abs=1e-9)


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_our_finish_reasons_equal_vllms_page(scene: Scene, reason: str) -> None:
    theirs = scene.after.total("vllm:request_success_total", finished_reason=reason)
    assert scene.sink.total("ai_otel.request.finished", ai_otel__finish_reason=reason) == theirs


@pytest.mark.parametrize(("emitted", "theirs"), SAME_HISTOGRAMS.items())
def test_our_histograms_equal_vllms_page(scene: Scene, emitted: str, theirs: str) -> None:
    points = scene.sink.points(emitted).values()
    assert sum(point.count for point in points) == scene.after.total(f"{theirs}_count")
    assert sum(point.sum for point in points) == pytest.approx(scene.after.total(f"{theirs}_sum"), rel=1e-9, abs=1e-9)


def test_the_duration_metric_counts_every_request_once(scene: Scene) -> None:
    outcomes = Counter(expected(sent)[0] for sent in scene.client.sent)
    duration = "gen_ai.server.request.duration"
    assert scene.sink.total(duration) == len(scene.client.sent) + 3
    left = [sent for sent in scene.client.sent if sent.name == "hang-up" and left_in_time(scene.tree(sent))]
    assert scene.sink.total(duration, error__type="cancelled") == len(left) <= outcomes["cancelled"]
    assert scene.sink.total("ai_otel.request.rejected") == outcomes["rejected"]


def test_phases_lie_inside_the_request_and_follow_each_other(scene: Scene) -> None:
    names = Counter[tuple[str, ...]]()
    for sent in scene.client.sent:
        if sent.name not in ("chat", "chat stream", "completion", "completion stream", "n=2"):
            continue
        root = scene.tree(sent)
        phases = sorted(root.children, key=lambda span: span.start_ns)
        names[tuple(phase.name for phase in phases)] += 1
        assert root.start_ns <= phases[0].start_ns
        assert phases[-1].end_ns <= root.end_ns
        assert all(a.end_ns <= b.start_ns for a, b in itertools.pairwise(phases))
    assert set(names) == {("queue", "prefill", "decode")}


def test_exemplars_lead_from_metric_points_to_traces(scene: Scene) -> None:
    sent = {request.trace_id for request in scene.client.sent}
    exemplars = scene.sink.exemplars("gen_ai.server.time_to_first_token")
    assert exemplars
    assert exemplars & sent


def test_everything_emitted_conforms(scene: Scene) -> None:
    assert oracle.check_spans(scene.sink.traces) == []
    assert oracle.check_metrics(scene.sink.metrics) == []


def test_first_token_is_never_later_than_the_client_saw_it(scene: Scene) -> None:
    for sent in scene.client.sent:
        if sent.first_token_ns is None:
            continue
        assert first_token_ns(scene.tree(sent)) <= sent.first_token_ns, sent.name


def first_token_ns(root: Arrived) -> int:
    """Where prefill ends."""
    return min(span.end_ns for span in root.children if span.name == "prefill")


class Alone:
    """Streams sent one after the other: one choice each, all finished."""

    def __init__(self, scene: Scene, count: int, max_tokens: int = 4) -> None:
        self.requests = [
            Sent("alone", "/v1/completions", completion(f"{i} {PROMPT}", max_tokens=max_tokens, **STREAM))
            for i in range(count)
        ]
        self.before, self.emitted_before = settled(scene.server), self._emitted(scene)
        stream_one_by_one(scene.server.url, self.requests)
        self.after = settled(scene.server)
        assert scene.sink.wait(lambda: all(r.trace_id in scene.sink.trees() for r in self.requests))
        assert scene.sink.wait(lambda: self._emitted(scene)[FIRST][0] == self.emitted_before[FIRST][0] + count)
        self.emitted_after = self._emitted(scene)

    @staticmethod
    def _emitted(scene: Scene) -> dict[str, tuple[float, float]]:
        points = {name: scene.sink.points(name).values() for name in (FIRST, PER_TOKEN, DURATION)}
        return {name: (sum(p.count for p in found), sum(p.sum for p in found)) for name, found in points.items()}

    def emitted(self, name: str) -> tuple[float, float]:
        """How much count and sum of our histogram rose."""
        return tuple(a - b for a, b in zip(self.emitted_after[name], self.emitted_before[name], strict=True))

    def theirs(self, name: str) -> tuple[float, float]:
        """The same of vLLM's."""
        return tuple(
            self.after.total(f"{name}_{part}") - self.before.total(f"{name}_{part}") for part in ("count", "sum")
        )


FIRST, PER_TOKEN = "gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token"
DURATION = "gen_ai.server.request.duration"


@pytest.fixture(scope="module")
def alone(scene: Scene) -> Alone:
    return Alone(scene, 100)


def test_first_token_at_concurrency_1(scene: Scene) -> None:
    """The median difference to what the client saw is at most 2.5 ms, and never negative."""
    differences: list[float] = []
    while min(differences, default=9) > 2.5 and len(differences) < 4:
        # Of one token each: a longer stream may reach the client in one piece, at its end. What else runs on this
        # machine can only add to the difference: so it is measured again in a quieter moment.
        differences.append(difference_ms(scene, Alone(scene, 100, max_tokens=1)))
    assert min(differences) <= 2.5, differences


def difference_ms(scene: Scene, alone: Alone) -> float:
    """How much later the client saw the first token than the span says, in the median."""
    seen = [(r.first_token_ns or 0) - r.sent_ns for r in alone.requests]
    emitted = [scene.tree(r).attributes["ai_otel.time_to_first_token"] * 1e9 for r in alone.requests]
    assert all(s >= o for s, o in zip(seen, emitted, strict=True))
    engine = alone.theirs("vllm:time_to_first_token_seconds")
    difference = statistics.median(s - o for s, o in zip(seen, emitted, strict=True)) / 1e6
    print(
        f"first token at concurrency 1, {len(seen)} requests: client {statistics.median(seen) / 1e6:.2f} ms (median), "
        f"span {difference:.2f} ms less; vLLM's own figure is {engine[1] / engine[0] * 1e3:.2f} ms (mean)"
    )
    return difference


@pytest.mark.parametrize(
    ("name", "theirs"),
    [(FIRST, "vllm:time_to_first_token_seconds"), (PER_TOKEN, "vllm:request_time_per_output_token_seconds")],
)
def test_the_conventional_histograms_equal_vllms_page(alone: Alone, name: str, theirs: str) -> None:
    assert alone.emitted(name) == pytest.approx(alone.theirs(theirs), rel=1e-9)


def test_durations_are_vllms_own_and_the_api_layer(alone: Alone) -> None:
    """From arrival to the last byte: never less than the engine's, never more than the client's, counted as often."""
    count, total = alone.emitted(DURATION)
    engine_count, engine_total = alone.theirs("vllm:e2e_request_latency_seconds")
    assert count == engine_count
    client_total = sum((request.ended_ns or 0) - request.sent_ns for request in alone.requests) / 1e9
    assert engine_total <= total <= client_total


@pytest.mark.fault("requests", "vLLM's engine process dies", "its requests have failed spans, each once")
def test_engine_death_fails_the_requests_in_flight(scene: Scene) -> None:
    """The last test of this server: its engine process is killed while every one of them generates."""
    path, body = "/v1/completions", completion(PROMPT, max_tokens=1800)
    streams = [Sent("doomed stream", path, {**body, **STREAM}) for _ in range(5)]
    requests = [*streams, *(Sent("doomed", path, body) for _ in range(5))]
    engine = engine_process(scene.server)
    client = Client(scene.server.url)
    thread = threading.Thread(target=client.run, args=(requests, 10))
    thread.start()
    while thread.is_alive() and not all(sent.chunks for sent in streams):
        time.sleep(0.001)
    os.kill(engine, signal.SIGKILL)
    thread.join()
    assert scene.sink.wait(lambda: all(r.trace_id in scene.sink.trees() for r in requests))
    # A stream that has begun keeps its status 200; what it lacks is its end.
    doomed = [sent for sent in requests if sent.usage is None]
    assert len(doomed) >= 5, "most had ended before the kill"
    for sent in doomed:
        root = scene.tree(sent)
        assert (root.attributes["ai_otel.outcome"], root.status) == ("failed", ERROR), sent
        assert root.attributes["error.type"] == "EngineDeadError"


def engine_process(server: Server) -> int:
    """The child that runs the engine."""
    table = subprocess.run(["ps", "-eo", "pid,pgid,args"], capture_output=True, text=True, check=True).stdout
    for line in table.splitlines()[1:]:
        pid, pgid, command = line.split(None, 2)
        if int(pgid) == server.process.pid and "EngineCore" in command:
            return int(pid)
    raise AssertionError(f"no engine process:\n{table}")
