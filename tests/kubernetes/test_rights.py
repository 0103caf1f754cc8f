"""The rights of agent and cluster role, on a real API server with the real Collector: enough, and not too much."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from ai_otel.agent.api_server import ApiServer, ApiServerError
from ai_otel.agent.slices import read_slices
from harness.collector.process import Collector, Pages, attributes_of, exports, running
from harness.kubernetes.charts import NAMESPACE, Tree, configuration, of_kind, one, rendered
from harness.kubernetes.cluster import Cluster, Refused
from harness.kubernetes.control_plane import POD_IP
from harness.polling import eventually, wait_until

pytestmark = [
    pytest.mark.requires(part="kubernetes"),
    pytest.mark.requires(part="collector"),
    pytest.mark.requires(command="openssl", why="the API server shows a certificate"),
]

PAGE = (Path(__file__).parents[1] / "engines/vllm/page.prom").read_text()
# The chart's, but for where it is run: outside of a pod, without a kubelet, and with a file that can be read here.
HERE: Tree = {
    "backends": {"file": {}},
    "tls": {"mode": "off"},
    "gateway": {"enabled": False},
    "gatewayStateful": {"enabled": False},
    "agent": {
        "engines": ["vllm"],
        "without": ["persistence"],
        "config": {
            "processors": {"k8s_attributes": {"auth_type": "kubeConfig"}},
            "exporters": {"file/backend": {"flush_interval": "50ms"}},
            "service": {"pipelines": {"metrics/kubelet": None}},
        },
    },
    "cluster": {
        "without": ["persistence"],
        "config": {
            "receivers": {"k8s_cluster": {"auth_type": "kubeConfig", "collection_interval": "1s"}},
            "extensions": {"k8s_leader_elector": {"auth_type": "kubeConfig"}},
            "exporters": {"file/backend": {"flush_interval": "50ms"}},
        },
    },
}
RIGHTS = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


@pytest.fixture(scope="module")
def objects() -> list[Tree]:
    return rendered(HERE)


@pytest.fixture
def accounts(cluster: Cluster, objects: list[Tree]) -> Iterator[Cluster]:
    """With the service accounts of the chart; rights come with the tests, and go with them."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    cluster.apply(yaml.safe_dump_all([space, *of_kind(objects, "ServiceAccount")]))
    yield cluster
    for kind in RIGHTS:
        cluster.kubectl("delete", kind, "--all-namespaces", "--selector", "app.kubernetes.io/part-of=ai-otel", "--wait")


@contextmanager
def as_account(component: str, cluster: Cluster, objects: list[Tree], directory: Path) -> Iterator[Collector]:
    """The Collector with the chart's configuration, and the token of its service account."""
    kubeconfig = cluster.kubeconfig_of(f"ai-otel-{component}", NAMESPACE)
    tree = configuration(one(objects, "ConfigMap", f"ai-otel-{component}"))
    for job in tree["receivers"].get("prometheus/pages", {"config": {"scrape_configs": []}})["config"][
        "scrape_configs"
    ]:
        (discovery,) = job["kubernetes_sd_configs"]
        discovery["kubeconfig_file"] = str(kubeconfig)
    variables = {
        "KUBECONFIG": str(kubeconfig),
        "K8S_NODE_NAME": "node-1",
        "K8S_NAMESPACE_NAME": NAMESPACE,
        "AI_OTEL_LEASE_NAME": "ai-otel-cluster-lease",
        "AI_OTEL_SCRAPE_INTERVAL": "1s",
        "AI_OTEL_SCRAPE_TIMEOUT": "1s",
    }
    with running(tree, directory, variables) as collector:
        yield collector


def forbidden(collector: Collector) -> set[tuple[str, str]]:
    """What it was refused to list: resource and group."""
    said = collector.output().replace("\\", "")
    return set(re.findall(r'cannot (?:list|watch|get|create|update) resource "([^"]+)" in API group "([^"]*)"', said))


def resources_of(component: str, objects: list[Tree]) -> set[tuple[str, str]]:
    """What its ClusterRole lets it list."""
    rules = one(objects, "ClusterRole", f"{NAMESPACE}-ai-otel-{component}")["rules"]
    return {
        (resource, rule["apiGroups"][0]) for rule in rules if "list" in rule["verbs"] for resource in rule["resources"]
    }


def resources(directory: Path) -> list[Tree]:
    """The resources that came out."""
    told = exports(directory / "out.jsonl")
    return [attributes_of(each["resource"]) for export in told for each in export["resourceMetrics"]]


def grant(cluster: Cluster, objects: list[Tree], *kinds: str) -> None:
    cluster.apply(yaml.safe_dump_all(of_kind(objects, *kinds)))


# ---------------------------------------------------------------- enough


def test_the_agent_reads_annotated_pods_and_knows_whose_they_are(
    accounts: Cluster, namespace: str, objects: list[Tree], tmp_path: Path
) -> None:
    grant(accounts, objects, *RIGHTS)
    with Pages({"/metrics": PAGE}) as pages:
        address, _, port = pages.address.partition(":")
        asked = {POD_IP: address, "ai-otel.io/engine": "vllm", "ai-otel.io/port": port}
        metadata = {"labels": {"app": "chat"}, "annotations": asked}
        template = {"metadata": metadata, "spec": {"containers": [{"name": "server", "image": "vllm:1"}]}}
        spec = {"selector": {"matchLabels": {"app": "chat"}}, "template": template}
        chat = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "chat", "namespace": namespace}}
        accounts.apply(yaml.safe_dump({**chat, "spec": spec}))
        (pod,) = accounts.wait_for(lambda: accounts.running("app=chat", namespace))
        with as_account("agent", accounts, objects, tmp_path) as collector:
            eventually(lambda: len(resources(tmp_path)) >= 2, 30, lambda: collector.output()[-4000:])
            assert forbidden(collector) == set()
    assert (
        resources(tmp_path)[-1].items()
        >= {
            "k8s.namespace.name": namespace,
            "k8s.pod.name": pod["metadata"]["name"],
            "k8s.pod.uid": pod["metadata"]["uid"],
            "k8s.node.name": "node-1",
            "k8s.deployment.name": "chat",
            "ai_otel.engine.name": "vllm",
            "service.instance.id": f"{namespace}.{pod['metadata']['name']}.server",
        }.items()
    )


def test_the_cluster_role_takes_the_lease_and_counts(accounts: Cluster, objects: list[Tree], tmp_path: Path) -> None:
    grant(accounts, objects, *RIGHTS)
    with as_account("cluster", accounts, objects, tmp_path) as collector:
        eventually(lambda: len(resources(tmp_path)) > 5, 40, lambda: collector.output()[-4000:])
        assert forbidden(collector) == set()
    (lease,) = accounts.get("lease", "ai-otel-cluster-lease", namespace=NAMESPACE)
    assert lease["spec"]["holderIdentity"]
    accounts.kubectl("delete", "lease", "ai-otel-cluster-lease", "--namespace", NAMESPACE)
    assert "node-1" in {each.get("k8s.node.name") for each in resources(tmp_path)}


# ---------------------------------------------------------------- not too much


@pytest.mark.parametrize("component", ["agent", "cluster"])
def test_without_rights_it_asks_for_exactly_those_that_it_has(
    component: str, accounts: Cluster, objects: list[Tree], tmp_path: Path
) -> None:
    """Whatever it would list is refused then, and told in its log: the same resources that the chart lets it list."""
    grant(accounts, objects, "Role", "RoleBinding")
    wanted = resources_of(component, objects)
    with as_account(component, accounts, objects, tmp_path) as collector:
        wait_until(lambda: forbidden(collector) >= wanted, 40)
        assert forbidden(collector) == wanted
    if component == "cluster":
        accounts.kubectl("delete", "lease", "ai-otel-cluster-lease", "--namespace", NAMESPACE)


def test_without_the_lease_nobody_counts(accounts: Cluster, objects: list[Tree], tmp_path: Path) -> None:
    grant(accounts, objects, "ClusterRole", "ClusterRoleBinding")
    with as_account("cluster", accounts, objects, tmp_path) as collector:
        eventually(lambda: forbidden(collector), 40, lambda: collector.output()[-4000:])
        assert forbidden(collector) == {("leases", "coordination.k8s.io")}
    assert resources(tmp_path) == []


def test_the_gpu_agent_may_list_resource_slices(accounts: Cluster, tmp_path: Path) -> None:
    """By the library's own client: without the ClusterRole it is refused, with it it is not."""
    image = {"repository": "registry.example.com/ai-otel"}
    told = {"enabled": True, "image": image, "dra": {"enabled": True}}
    objects = rendered({**HERE, "gpuAgent": {**told, "endpoint": "gateway:4317"}})
    grant(accounts, objects, "ServiceAccount")
    (tmp_path / "token").write_text(accounts.token_of("ai-otel-gpu-agent", NAMESPACE))
    (tmp_path / "ca.crt").write_bytes(accounts.ca.read_bytes())
    url = urlsplit(accounts.url)
    assert url.hostname
    assert url.port
    server = ApiServer(url.hostname, url.port, tmp_path)
    with pytest.raises(ApiServerError, match="may not list"):
        read_slices(server, "node-1")
    grant(accounts, objects, "ClusterRole", "ClusterRoleBinding")
    assert accounts.wait_for(lambda: listed(server)) == "listed"


def listed(server: ApiServer) -> str:
    try:
        read_slices(server, "node-1")
    except ApiServerError:
        return ""
    return "listed"


ASKED = {
    "ai-otel-agent": ["list pods", "watch pods", "get nodes/stats"],
    "ai-otel-cluster": ["list nodes", "list deployments.apps", "update leases/ai-otel-cluster-lease"],
}
NEVER = [
    "get secrets",
    "list configmaps",
    "create pods",
    "create pods/exec",
    "get nodes/proxy",
    "update nodes",
    "delete leases/ai-otel-cluster-lease",
    "get leases/another",
    "impersonate users",
]


@pytest.mark.parametrize("account", ASKED)
def test_the_api_server_says_so_itself(account: str, accounts: Cluster, objects: list[Tree]) -> None:
    """By its own judgement (`kubectl auth can-i`): what needs a kubelet, and what is never needed."""
    grant(accounts, objects, *RIGHTS)
    kubeconfig = accounts.kubeconfig_of(account, NAMESPACE)
    assert [what for what in ASKED[account] if not may(accounts, kubeconfig, what)] == []
    assert [what for what in NEVER if may(accounts, kubeconfig, what)] == []


def may(cluster: Cluster, kubeconfig: Path, what: str) -> bool:
    """`can-i` fails where the answer is no."""
    verb, target = what.split()
    resource, _, below = target.partition("/")
    is_part = below in ("stats", "proxy", "exec")
    asked = [resource, "--subresource", below] if is_part else [target]
    try:
        cluster.kubectl("auth", "can-i", verb, *asked, "--namespace", NAMESPACE, "--quiet", kubeconfig=kubeconfig)
    except Refused:
        return False
    return True
