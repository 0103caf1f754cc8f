"""The library and the Collectors identify a pod by the same attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from harness.collector.process import Collector, Pages, attributes_of, composed, exports, running
from harness.kubernetes.agent import agent
from harness.kubernetes.cluster import Cluster, Tree
from harness.kubernetes.control_plane import POD_IP
from harness.kubernetes.image import copied, variables
from harness.kubernetes.workloads import identity, ran, server, with_components
from harness.polling import eventually

pytestmark = [
    pytest.mark.requires(part="kubernetes"),
    pytest.mark.requires(part="collector"),
    pytest.mark.requires(command="openssl", why="the API server shows a certificate"),
]

NODE = "identity-1"
PAGE = (Path(__file__).parents[1] / "engines/vllm/page.prom").read_text()
OFTEN = {"AI_OTEL_SCRAPE_INTERVAL": "1s", "AI_OTEL_SCRAPE_TIMEOUT": "1s"}
# What the agent alone can know: the pod says nothing of who made it.
OF_THE_AGENT = {"k8s.deployment.name"}


@pytest.fixture(scope="module")
def page() -> Iterator[Pages]:
    with Pages({"/metrics": PAGE}) as pages:
        yield pages


@pytest.fixture
def pod(cluster: Cluster, namespace: str, page: Pages, tmp_path: Path) -> Iterator[Tree]:
    """As the API server stores it: injected, with a sidecar, and annotated for the agent too, to compare all three."""
    cluster.add_node(NODE)
    cluster.kubectl("cordon", NODE)
    workload = server("python", engine="vllm")
    address, _, port = page.address.partition(":")
    template = workload["spec"]["template"]
    template["metadata"]["annotations"] |= {POD_IP: address, "ai-otel.io/engine": "vllm", "ai-otel.io/port": port}
    template["spec"] |= {"nodeName": NODE, "terminationGracePeriodSeconds": 0}
    parts = ("injection", "sidecar/generated/vllm")
    cluster.apply(yaml.safe_dump_all(with_components(tmp_path / "kustomize", workload, *parts, namespace=namespace)))
    (stored,) = cluster.wait_for(lambda: cluster.running("app=chat", namespace))
    yield stored
    cluster.kubectl("delete", "deployment", "--all", "--namespace", namespace)
    cluster.kubectl("delete", "node", NODE)


@contextmanager
def sidecar(pod: Tree, page: Pages, directory: Path) -> Iterator[Collector]:
    """That of the pod, with the variables of its container."""
    tree = composed(
        role="sidecar", engines=("vllm",), features=("local",), without=("persistence",), backends=("file",)
    )
    (container,) = [each for each in pod["spec"]["initContainers"] if each["name"] == "ai-otel"]
    given = variables(container, pod, directory)
    del given["PATH"], given["AI_OTEL_LIBRARY"]  # so that the endpoint reports all that it can
    with running(tree, directory, {**given, "AI_OTEL_ENGINE_TARGET": page.address, **OFTEN}) as collector:
        yield collector


def resources(directory: Path, signal: str) -> list[Tree]:
    written = exports(directory / "out.jsonl")
    return [attributes_of(each["resource"]) for export in written for each in export.get(signal, ())]


def about(directory: Path, collector: Collector, signal: str) -> Tree:
    """The one resource of the pod's engine that came out."""

    def found() -> list[Tree]:
        return [each for each in resources(directory, signal) if each.get("ai_otel.engine.name") == "vllm"]

    eventually(found, 30, lambda: collector.output()[-4000:])
    return found()[-1]


def shared(one: Tree, other: Tree) -> set[str]:
    """What both say something of; it is the same."""
    both = one.keys() & other.keys()
    assert {key: one[key] for key in both} == {key: other[key] for key in both}
    return both


def test_library_agent_and_sidecar_say_the_same_of_a_pod(
    cluster: Cluster, pod: Tree, page: Pages, injection_image: Path, venv: Callable[..., Path], tmp_path: Path
) -> None:
    (initial,) = [each for each in pod["spec"]["initContainers"] if each["name"] == "ai-otel-injection"]
    given = variables(pod["spec"]["containers"][0], pod, copied(initial, injection_image, tmp_path / "pod"))
    python, said, sent, read = venv(), {}, {}, {}
    for name, started in (
        ("agent", agent(cluster, NODE, tmp_path / "agent")),
        ("sidecar", sidecar(pod, page, tmp_path / "sidecar")),
    ):
        with started as collector:
            read[name] = about(tmp_path / name, collector, "resourceMetrics")
            goal = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.ports['http']}"}
            said[name] = ran(python, {**given, **goal})["resource"]
            sent[name] = about(tmp_path / name, collector, "resourceSpans")
    for name, before in said.items():
        # What passes through a Collector stays as the library said it; the agent adds who made the pod.
        assert shared(before, sent[name]) == set(before)
        print(f"{name} added {sent[name].keys() - before.keys()}")
        assert sent[name].keys() - before.keys() <= OF_THE_AGENT
    for one, other in ((sent["agent"], read["agent"]), (sent["sidecar"], read["sidecar"]), tuple(read.values())):
        both = shared(one, other)
        print(f"shared: {sorted(both)}")
        assert both >= {*identity(pod), "service.name", "ai_otel.engine.name"}
    for each in (*sent.values(), *read.values()):
        assert each.items() >= identity(pod).items()
    assert sent["agent"]["k8s.deployment.name"] == read["agent"]["k8s.deployment.name"] == "chat"
