"""Common metrics are derived from other servers' spans, exactly, and never from ai-otel's own: nothing counts twice."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from generator import derived
from generator.model import load
from harness.collector.process import Collector, Tree, composed, exports, running
from harness.polling import eventually
from harness.server import free_port
from harness.telemetry.series import Point, newest, points, total
from harness.telemetry.traffic import ERROR, OK, Batch, Senders, post, span, spans_request

pytestmark = pytest.mark.requires(part="collector")

CONTRACT = load()
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "vllm", "gen_ai.request.model": "m"}
USAGE = {"gen_ai.usage.input_tokens": 300, "gen_ai.usage.output_tokens": 9}
FIRST_TOKEN = "ai_otel.time_to_first_token"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
DURATION = "gen_ai.server.request.duration"
IDENTITY = {"service.name": "engine", "service.instance.id": "pod-1"}


def stateful(*features: str, **choice: Any) -> Tree:
    choice = {"without": ("persistence",), **choice}
    return composed(
        role="gateway_stateful", features=("local", "span_to_metric", *features), backends=("file",), **choice
    )


def places(**more: str) -> dict[str, str]:
    """Its own port, and a short wait."""
    return {"AI_OTEL_DERIVED_LISTEN": f"127.0.0.1:{free_port()}", "AI_OTEL_DERIVED_INTERVAL": "1s", **more}


SOURCE = random.Random(5)


def served(**of: Any) -> Span:
    """A span of a server, ids of its own."""
    of["attributes"] = {**CHAT, **of.get("attributes", {})}
    # Binary fractions, so that sums are exact.
    return span(
        "chat m", SOURCE.randbytes(16), SOURCE.randbytes(8), **{"duration_s": 0.5, "kind": Span.SPAN_KIND_SERVER, **of}
    )


def derive(directory: Path, spans: list[Span], *, scope: str = "vllm") -> dict[str, Point]:
    """Return the metrics that a Collector derives from these spans by name; each name has one series."""
    out = directory / "out.jsonl"
    with running(stateful(), directory, places()) as collector:
        body = spans_request(spans, scope=scope, resource=IDENTITY).SerializeToString()
        assert post(collector.ports["http"], body)[0] == 200
        pass_sentinel(collector, out)
    found = [point for point in newest(out).values() if SENTINEL not in point.attributes]
    assert len({point.name for point in found}) == len(found)
    return {point.name: point for point in found}


SENTINEL = ("gen_ai.request.model", "sentinel")


def pass_sentinel(collector: Collector, out: Path) -> None:
    """
    Send one more span, which is counted and kept by the sampler, and wait until both its metric and its trace are out.

    All that was sent before it has left by then: what is absent afterwards stays absent.
    """
    last = served(status=ERROR, attributes=dict([SENTINEL]))
    body = spans_request([last], resource=IDENTITY).SerializeToString()
    assert post(collector.ports["http"], body)[0] == 200
    eventually(lambda: total(out, DURATION, gen_ai__request__model="sentinel") == 1, 15)
    eventually(lambda: last.span_id in kept_spans(out), 15)


def kept_spans(out: Path) -> set[bytes]:
    """Return the ids of the spans that the file backend wrote."""
    return {
        bytes.fromhex(found["spanId"])
        for export in exports(out)
        for resource_spans in export.get("resourceSpans", ())
        for scope in resource_spans["scopeSpans"]
        for found in scope["spans"]
    }


# ---------------------------------------------------------------- which spans


@pytest.mark.parametrize("scope", [scope["name"] for scope in CONTRACT.scopes])
def test_spans_of_ai_otel_make_nothing(tmp_path, scope) -> None:
    assert derive(tmp_path, [served(attributes=USAGE)], scope=scope) == {}


def test_spans_that_are_no_inference_of_a_server_make_nothing(tmp_path) -> None:
    spans = [
        served(kind=Span.SPAN_KIND_CLIENT, attributes=USAGE),
        served(kind=Span.SPAN_KIND_INTERNAL, attributes=USAGE),
        served(attributes={"gen_ai.operation.name": "invoke_agent", **USAGE}),
        served(attributes={"gen_ai.operation.name": "execute_tool"}),
        span("GET /", SOURCE.randbytes(16), SOURCE.randbytes(8), attributes={"http.route": "/"}),
    ]
    assert derive(tmp_path, spans) == {}


def test_every_operation_is_an_inference_or_is_not() -> None:
    members = CONTRACT.attributes["gen_ai.operation.name"].members
    assert set(members) >= derived.OTHERS
    assert {"chat", "text_completion", "embeddings", "rerank"} <= set(members) - derived.OTHERS


# ---------------------------------------------------------------- what they make


def test_foreign_span_makes_each_metric_as_the_contract_has_it(tmp_path) -> None:
    found = derive(tmp_path, [served(attributes={**USAGE, FIRST_CHUNK: 0.125})])
    for name, point in found.items():
        metric = CONTRACT.metric(name)
        assert metric is not None
        assert point.unit == metric.unit
        assert point.bounds == tuple(metric.buckets or ())
        assert {key for key, _ in point.attributes} <= set(metric.keys)
        assert point.attributes == frozenset(CHAT.items()), "attributes that the span lacks are absent"
        assert point.cumulative
        assert 0 < point.start_ns < point.time_ns
    values = {name: point.value if point.bounds == () else point.value[:2] for name, point in found.items()}
    assert values == {
        DURATION: (1, 0.5),
        "gen_ai.server.time_to_first_token": (1, 0.125),
        "gen_ai.server.time_per_output_token": (1, (0.5 - 0.125) / 8),
        "ai_otel.usage.input_tokens": 300,
        "ai_otel.usage.output_tokens": 9,
        "ai_otel.request.finished": 1,
    }


def test_the_first_token_is_rather_the_token_than_the_chunk(tmp_path) -> None:
    found = derive(tmp_path, [served(attributes={**USAGE, FIRST_TOKEN: 0.25, FIRST_CHUNK: 0.125})])
    assert found["gen_ai.server.time_to_first_token"].value[:2] == (1, 0.25)
    assert found["gen_ai.server.time_per_output_token"].value[:2] == (1, 0.25 / 8)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"gen_ai.usage.output_tokens": 1, FIRST_CHUNK: "soon"},
        {"gen_ai.usage.output_tokens": "many", "gen_ai.usage.input_tokens": -1},
    ],
)
def test_attribute_that_a_span_lacks_is_absent(tmp_path, attributes) -> None:
    found = derive(tmp_path, [served(attributes=attributes)])
    assert found.keys() - {"ai_otel.usage.output_tokens"} == {DURATION, "ai_otel.request.finished"}
    assert ("ai_otel.usage.output_tokens" in found) == (attributes.get("gen_ai.usage.output_tokens") == 1)


def test_one_token_has_no_time_per_token(tmp_path) -> None:
    found = derive(tmp_path, [served(attributes={"gen_ai.usage.output_tokens": 1, FIRST_CHUNK: 0.125})])
    assert "gen_ai.server.time_to_first_token" in found
    assert "gen_ai.server.time_per_output_token" not in found


def test_requests_that_went_wrong_are_counted_by_how(tmp_path) -> None:
    first = {FIRST_CHUNK: 0.125, "gen_ai.usage.output_tokens": 9}
    spans = [
        served(status=OK, attributes=first),
        served(status=ERROR, attributes={**first, "error.type": "OutOfMemoryError"}),
        served(attributes={**first, "error.type": "429"}),
        served(attributes={**first, "error.type": "cancelled"}),
    ]
    out = tmp_path / "out.jsonl"
    with running(stateful(), tmp_path, places()) as collector:
        body = spans_request(spans, resource=IDENTITY).SerializeToString()
        assert post(collector.ports["http"], body)[0] == 200
        eventually(lambda: total(out, DURATION) == 4, 10)
    assert total(out, DURATION, error__type="429") == 1
    assert total(out, "gen_ai.server.time_to_first_token") == 1
    assert total(out, "ai_otel.request.finished") == 2
    assert total(out, "ai_otel.request.finished", error__type="OutOfMemoryError") == 1
    assert total(out, "ai_otel.request.rejected") == total(out, "ai_otel.request.rejected", error__type="429") == 1
    assert total(out, "ai_otel.usage.output_tokens") == 36


# ---------------------------------------------------------------- and how many


COUNTED = {"gen_ai__request__model": "m"}


def work(count: int, sizes: tuple[int, ...] = (1, 5, 50, 150)) -> list[Batch]:
    made = []
    for number in range(count):
        spans = [served(attributes={**USAGE, FIRST_CHUNK: 0.125}) for _ in range(sizes[number % len(sizes)])]
        body = spans_request(spans, resource=IDENTITY).SerializeToString()
        made.append(Batch(tuple(one.span_id for one in spans), body))
    return made


def test_senders_at_the_same_time_and_sampling_cost_no_count(tmp_path) -> None:
    sent, out = work(200), tmp_path / "out.jsonl"
    count = sum(len(batch.ids) for batch in sent)
    tree = stateful("tail_sampling")
    environment = places(
        AI_OTEL_BASELINE_PERCENT="0", AI_OTEL_DECISION_WAIT="1s", AI_OTEL_DECISION_WAIT_AFTER_ROOT="1s"
    )
    with running(tree, tmp_path, environment) as collector:
        with Senders(collector.ports["http"], sent, threads=6) as senders:
            assert senders.join(30)
        eventually(lambda: total(out, DURATION) >= count, 15)
        pass_sentinel(collector, out)
    assert len(kept_spans(out)) == 1, "only the sentinel's trace is kept"
    assert total(out, DURATION, **COUNTED) == total(out, "ai_otel.request.finished", **COUNTED) == count
    assert total(out, "ai_otel.usage.input_tokens") == 300 * count
    assert total(out, "ai_otel.usage.output_tokens") == 9 * count
    # One point for each interval and series, not one for each request.
    assert len(list(points(out))) < 100


def test_a_kill_in_the_midst_of_adding_up_costs_no_count(tmp_path) -> None:
    sent, out = work(100), tmp_path / "out.jsonl"
    count = sum(len(batch.ids) for batch in sent)
    tree, environment = stateful(without=()), places(AI_OTEL_DERIVED_INTERVAL="3s")
    ports = {name: free_port() for name in ("health", "self", "grpc", "http")}
    with running(tree, tmp_path, environment, ports) as collector:
        with Senders(collector.ports["http"], sent[:50]) as senders:
            assert senders.join(30)
        collector.process.kill()
        collector.process.wait()
    assert total(out, DURATION) == 0
    with running(tree, tmp_path, environment, ports) as collector:
        with Senders(collector.ports["http"], sent[50:]) as senders:
            assert senders.join(30)
        eventually(lambda: total(out, DURATION) >= count, 15)
        pass_sentinel(collector, out)
    assert total(out, DURATION, **COUNTED) == count
    assert total(out, "ai_otel.usage.input_tokens") == 300 * count


def test_the_spans_of_one_server_add_up_over_all_instances(tmp_path) -> None:
    with ExitStack() as stack:
        for name, spans in {"stateful-0": 3, "stateful-1": 4}.items():
            environment = places(K8S_POD_NAME=name)
            collector = stack.enter_context(running(stateful(), tmp_path / name, environment))
            body = spans_request([served() for _ in range(spans)], resource=IDENTITY).SerializeToString()
            assert post(collector.ports["http"], body)[0] == 200
        for name, spans in {"stateful-0": 3, "stateful-1": 4}.items():
            out = tmp_path / name / "out.jsonl"
            eventually(lambda: total(out, DURATION) == spans, 10)  # noqa: B023
            assert {instance for _, instance, _ in newest(out)} == {f"pod-1/{name}"}


def test_the_shipped_file_is_what_the_contract_says(root) -> None:
    shipped = (root / "collector-config/generated/features/span_to_metric.yaml").read_text()
    assert shipped == derived.render(CONTRACT)
