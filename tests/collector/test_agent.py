"""
The agent's way from a pod's annotations to its metrics.

Pods are described as Kubernetes' discovery does, by labels that begin with `__meta_kubernetes_pod_`; everything behind
that is the real thing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.collector.agent import agent, pod
from harness.collector.process import Pages, attributes_of, exports, running
from harness.polling import eventually

pytestmark = pytest.mark.requires(part="collector")

ENGINES = Path(__file__).parents[1] / "engines"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Mapping[str, Any]]]:
    """Of each pod: its resource, and the names that came from it."""
    directory = tmp_path_factory.mktemp("agent")
    page = {engine: (ENGINES / engine / "page.prom").read_text() for engine in ("vllm", "tgi")}
    with Pages({"/metrics": page["vllm"], "/inner": page["tgi"]}) as pages:
        port = pages.address.rpartition(":")[2]
        pods = [
            pod("chat-0", engine="vllm", port=port),
            pod("chat-0", engine="vllm", port=port),  # a second port of the same pod
            pod("chat-1", engine="vllm", port=port, library="true"),
            pod("text-0", engine="tgi", port=port, path="/inner", model="falcon", operation="text_completion"),
            pod("done-0", phase="Succeeded", engine="vllm", port=port),
            pod("other-0"),
            pod("triton-0", engine="triton"),
            pod("rt-0", engine="tensorrt_llm"),
        ]
        environment = {"AI_OTEL_SCRAPE_INTERVAL": "1s", "AI_OTEL_SCRAPE_TIMEOUT": "1s", "K8S_NODE_NAME": "node-1"}
        with running(agent(pods), directory, environment) as collector:
            wanted = {"chat-0", "chat-1", "text-0", "triton-0", "rt-0"}
            eventually(lambda: wanted <= by_pod(directory).keys(), 30, lambda: collector.output()[-3000:])
            yield by_pod(directory)


def by_pod(directory: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for export in exports(directory / "out.jsonl"):
        for each in export["resourceMetrics"]:
            attributes = attributes_of(each["resource"])
            one = found.setdefault(attributes["k8s.pod.name"], {"resource": attributes, "points": {}})
            for scope in each["scopeMetrics"]:
                for metric in scope["metrics"]:
                    kind = next(kind for kind in ("gauge", "sum", "histogram") if kind in metric)
                    one["points"][metric["name"]] = metric[kind]["dataPoints"]
    return found


def test_annotated_pods_that_run_are_read_and_no_others(seen: Mapping[str, Any]) -> None:
    assert set(seen) == {"chat-0", "chat-1", "text-0", "triton-0", "rt-0"}


def test_pod_is_named_and_read_once_with_any_number_of_ports(seen: Mapping[str, Any]) -> None:
    assert (
        seen["chat-0"]["resource"].items()
        >= {
            "k8s.namespace.name": "llm",
            "k8s.pod.name": "chat-0",
            "k8s.pod.uid": "uid-of-chat-0",
            "ai_otel.engine.name": "vllm",
            "service.name": "vllm",
            "service.instance.id": "llm.chat-0",
        }.items()
    )
    assert len(seen["chat-0"]["points"]["ai_otel.usage.output_tokens"]) == 1


def test_path_model_and_operation_are_the_annotations(seen: Mapping[str, Any]) -> None:
    (point,) = seen["text-0"]["points"]["ai_otel.usage.output_tokens"]
    attributes = attributes_of(point)
    assert (attributes["gen_ai.request.model"], attributes["gen_ai.operation.name"]) == ("falcon", "text_completion")


def test_where_the_library_runs_only_the_rest_is_taken(seen: Mapping[str, Any]) -> None:
    assert "ai_otel.usage.output_tokens" not in seen["chat-1"]["points"]
    assert "ai_otel.batch.tokens" in seen["chat-1"]["points"]


@pytest.mark.parametrize(("name", "port"), [("triton-0", "8002"), ("rt-0", "8000")])
def test_default_port_is_scraped_without_annotation_and_silence_shown(
    seen: Mapping[str, Any], name: str, port: str
) -> None:
    (up,) = seen[name]["points"]["up"]
    assert up["asDouble"] == 0
    assert seen[name]["resource"]["server.port"] == port
