"""`nodes/stats`, live: the chart's agent, unchanged and as in its pod, asks a kubelet that asks the real API server."""

from __future__ import annotations

import copy
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from harness.collector.process import Collector, attributes_of, exports, running
from harness.kubernetes import kubelet as played, service_account as account
from harness.kubernetes.charts import NAMESPACE, Tree, configuration, of_kind, one, rendered
from harness.kubernetes.cluster import Cluster
from harness.polling import eventually

pytestmark = [
    pytest.mark.requires(part="kubernetes"),
    pytest.mark.requires(part="collector"),
    pytest.mark.requires(command="openssl", why="the API server shows a certificate"),
    pytest.mark.requires(command="unshare", why="the service account's files are mounted for the Collector alone"),
]

NODE = "127.0.78.1"  # its name is its address, so that a name can be looked up
AGENT = "ai-otel-agent"
VALUES: Tree = {
    "backends": {"file": {}},
    "tls": {"mode": "off"},
    "gateway": {"enabled": False},
    "gatewayStateful": {"enabled": False},
    "agent": {"engines": ["vllm"], "without": ["persistence"]},
}
RIGHTS = ("ClusterRole", "ClusterRoleBinding")
REFUSAL = ("get", "nodes", "stats")


@dataclass(frozen=True)
class Node:
    """One with a kubelet and a pod."""

    cluster: Cluster
    kubelet: played.Kubelet
    objects: list[Tree]
    pod: Tree


@pytest.fixture(scope="module")
def objects() -> list[Tree]:
    return rendered(VALUES)


@pytest.fixture(scope="module")
def there(cluster: Cluster, objects: list[Tree], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A Deployment's pod on a node of its own, and the accounts of the chart without any right."""
    if reason := account.why_not():
        pytest.skip(reason)
    cluster.add_node(NODE)
    cluster.kubectl("cordon", NODE)
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    cluster.apply(yaml.safe_dump_all([space, *of_kind(objects, "ServiceAccount")]))
    pods = {"nodeName": NODE, "containers": [{"name": "server", "image": "vllm:1"}]}
    template = {"metadata": {"labels": {"app": "chat"}}, "spec": pods}
    spec = {"selector": {"matchLabels": {"app": "chat"}}, "template": template}
    metadata = {"name": "chat", "namespace": NAMESPACE}
    cluster.apply(yaml.safe_dump({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}))
    (pod,) = cluster.wait_for(lambda: cluster.running("app=chat", NAMESPACE))
    with played.kubelet(cluster, NODE, tmp_path_factory.mktemp("kubelet") / "authority") as one_kubelet:
        yield Node(cluster, one_kubelet, objects, pod)
    cluster.kubectl("delete", "deployment", "chat", "--namespace", NAMESPACE)
    cluster.kubectl("delete", "node", NODE)


@pytest.fixture
def node(there: Node) -> Iterator[Node]:
    """The same with the chart's rights, until the test ends."""
    there.cluster.apply(yaml.safe_dump_all(of_kind(there.objects, *RIGHTS)))
    token = there.cluster.token_of(AGENT, NAMESPACE)
    assert there.cluster.wait_for(lambda: asked(there, "/stats/summary", token)[0] == 200)
    there.kubelet.asked.clear()
    yield there
    for kind in RIGHTS:
        there.cluster.kubectl("delete", kind, "--selector", "app.kubernetes.io/part-of=ai-otel", "--wait")


@contextmanager
def agent(node: Node, directory: Path) -> Iterator[Collector]:
    """The chart's configuration, not a word of it changed."""
    inside, variables = account.in_pod(node.cluster, AGENT, NAMESPACE, directory / "account")
    variables |= {"K8S_NODE_NAME": NODE, "AI_OTEL_KUBELET_CA_FILE": str(node.kubelet.certificate)}
    tree = configuration(one(node.objects, "ConfigMap", AGENT))
    with running(tree, directory, variables, inside=inside) as collector:
        yield collector


def of_the_kubelet(directory: Path) -> dict[str, tuple[Tree, Tree]]:
    """Last point of each metric of the node, the pod, or a container, with its resource."""
    points = {}
    for export in exports(directory / "out.jsonl"):
        for each in export["resourceMetrics"]:
            for metric in (metric for scope in each["scopeMetrics"] for metric in scope["metrics"]):
                kind = next(kind for kind in ("gauge", "sum", "histogram") if kind in metric)
                points[metric["name"]] = (metric[kind]["dataPoints"][-1], attributes_of(each["resource"]))
    return {name: point for name, point in points.items() if name.startswith(("k8s.node.", "k8s.pod.", "container."))}


def pod_of(directory: Path) -> Tree:
    """The resource of the last point of a pod."""
    return of_the_kubelet(directory).get("k8s.pod.memory.working_set", ({}, {}))[1]


def refused(log: str) -> set[tuple[str, str, str]]:
    """Verb, resource and part of every refusal in it: the kubelet's, and the API server's."""
    said = log.replace("\\", "")
    by_kubelet = re.findall(
        r"Forbidden \(user=[\w:-]+, verb=(\w+), resource=(\w+), subresource\(s\)=\[([\w ]+)\]\)", said
    )
    return {*by_kubelet, *((verb, kind, "") for verb, kind in re.findall(r'cannot (\w+) resource "([^"]+)"', said))}


# ---------------------------------------------------------------- the kubelet


def asked(node: Node, path: str, token: str) -> tuple[int, str]:
    """How the kubelet answers the holder of a token."""
    context = ssl.create_default_context(cafile=str(node.kubelet.certificate))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"https://{NODE}:{played.PORT}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def test_the_kubelet_answers_only_whom_the_api_server_lets(node: Node) -> None:
    """The agent's account has its statistics and no other part of it; other accounts and strangers have nothing."""
    agents, others = (node.cluster.token_of(name, NAMESPACE) for name in (AGENT, "ai-otel-cluster"))
    assert asked(node, "/stats/summary", agents)[0] == 200
    parts = (
        "/pods",
        "/metrics",
        "/metrics/cadvisor",
        "/configz",
        "/logs/",
        "/run/a/b/server",
        "/containerLogs/a/b/server",
    )
    assert {path: asked(node, path, agents)[0] for path in parts} == dict.fromkeys(parts, 403)
    assert asked(node, "/stats/summary", "")[0] == 401
    assert asked(node, "/stats/summary", agents + "x")[0] == 401
    status, said = asked(node, "/stats/summary", others)
    assert (status, refused(said)) == (403, {REFUSAL})


# ---------------------------------------------------------------- the agent


def test_kubelet_statistics_name_their_pod_with_the_charts_rights(node: Node, tmp_path: Path) -> None:
    with agent(node, tmp_path) as collector:
        # Asked each 30 s; the first time the processor may not have heard of the pod's Deployment yet.
        eventually(lambda: pod_of(tmp_path).get("k8s.deployment.name"), 80, lambda: collector.output()[-4000:])
        assert refused(collector.output()) == set()
    points = of_the_kubelet(tmp_path)
    values = {
        name: int(points[f"{name}.memory.working_set"][0]["asInt"]) for name in ("k8s.node", "k8s.pod", "container")
    }
    assert values == {
        "k8s.node": played.NODE_WORKING_SET_BYTES,
        "k8s.pod": played.POD_WORKING_SET_BYTES,
        "container": played.CONTAINER_WORKING_SET_BYTES,
    }
    assert points["k8s.pod.cpu.time"][0]["asDouble"] == pytest.approx(played.POD_CPU_NS / 1e9)
    assert points["k8s.node.memory.working_set"][1]["k8s.node.name"] == NODE
    wanted = {
        "k8s.namespace.name": NAMESPACE,
        "k8s.pod.name": node.pod["metadata"]["name"],
        "k8s.pod.uid": node.pod["metadata"]["uid"],
        "k8s.deployment.name": "chat",
        "k8s.node.name": NODE,
    }
    assert points["k8s.pod.memory.working_set"][1].items() >= wanted.items()
    assert "k8s.container.name" not in points["k8s.pod.memory.working_set"][1]
    assert points["container.memory.working_set"][1].items() >= {**wanted, "k8s.container.name": "server"}.items()
    assert set(node.kubelet.asked) == {("/stats/summary", 200)}  # nothing else of the kubelet is ever wanted


def test_log_names_nodes_stats_when_it_may_not_be_read(node: Node, tmp_path: Path) -> None:
    """And by then nothing else was refused: the pods were listed and are watched."""
    role = copy.deepcopy(one(node.objects, "ClusterRole", f"{NAMESPACE}-{AGENT}"))
    kept = [rule for rule in role["rules"] if rule["resources"] != ["nodes/stats"]]
    assert len(kept) == len(role["rules"]) - 1
    role["rules"] = kept
    node.cluster.apply(yaml.safe_dump(role))
    token = node.cluster.token_of(AGENT, NAMESPACE)
    assert node.cluster.wait_for(lambda: asked(node, "/stats/summary", token)[0] == 403)
    node.kubelet.asked.clear()
    with agent(node, tmp_path) as collector:
        eventually(lambda: refused(collector.output()), 40, lambda: collector.output()[-4000:])
        assert refused(collector.output()) == {REFUSAL}
        assert "call to /stats/summary endpoint failed" in collector.output()
    assert of_the_kubelet(tmp_path) == {}
    assert set(node.kubelet.asked) == {("/stats/summary", 403)}
