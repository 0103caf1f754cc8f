"""The real Collector under the chart's service accounts: with its rights, without them, and with one verb less."""

from __future__ import annotations

import copy
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from ai_otel.agent.api_server import ApiServer, ApiServerError
from ai_otel.agent.slices import read_slices
from harness.collector.process import Collector, Pages, attributes_of, exports
from harness.kubernetes.charts import NAMESPACE, Tree, of_kind, one
from harness.kubernetes.cluster import Cluster
from harness.kubernetes.control_plane import POD_IP
from harness.kubernetes.rights import LEASE, Reviews, as_account, refusals
from harness.polling import eventually, wait_until

pytestmark = [
    pytest.mark.requires(part="kubernetes"),
    pytest.mark.requires(part="collector"),
    pytest.mark.requires(command="openssl", why="the API server shows a certificate"),
]

PAGE = (Path(__file__).parents[2] / "engines/vllm/page.prom").read_text()


def listable(component: str, objects: list[Tree]) -> set[tuple[str, str]]:
    """Resource and group of everything that its ClusterRole lets it list."""
    rules = one(objects, "ClusterRole", f"{NAMESPACE}-ai-otel-{component}")["rules"]
    return {
        (resource, rule["apiGroups"][0]) for rule in rules if "list" in rule["verbs"] for resource in rule["resources"]
    }


def resources(directory: Path) -> list[Tree]:
    """The resources that the file backend wrote."""
    written = exports(directory / "out.jsonl")
    return [attributes_of(each["resource"]) for export in written for each in export["resourceMetrics"]]


def refused(collector: Collector) -> set[tuple[str, str]]:
    """Resource and group of every refusal."""
    return {(resource, group) for _, resource, group in refusals(collector)}


def grant(cluster: Cluster, objects: list[Tree], *kinds: str) -> None:
    cluster.apply(yaml.safe_dump_all(of_kind(objects, *kinds)))


# ---------------------------------------------------------------- enough


def test_agent_scrapes_annotated_pods_and_names_their_workload(
    granted: Cluster, namespace: str, objects: list[Tree], tmp_path: Path
) -> None:
    with Pages({"/metrics": PAGE}) as pages:
        address, _, port = pages.address.partition(":")
        asked = {POD_IP: address, "ai-otel.io/engine": "vllm", "ai-otel.io/port": port}
        metadata = {"labels": {"app": "chat"}, "annotations": asked}
        template = {"metadata": metadata, "spec": {"containers": [{"name": "server", "image": "vllm:1"}]}}
        spec = {"selector": {"matchLabels": {"app": "chat"}}, "template": template}
        chat = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "chat", "namespace": namespace}}
        granted.apply(yaml.safe_dump({**chat, "spec": spec}))
        (pod,) = granted.wait_for(lambda: granted.running("app=chat", namespace))
        with as_account("agent", granted, objects, tmp_path) as collector:
            eventually(lambda: len(resources(tmp_path)) >= 2, 30, lambda: collector.output()[-4000:])
            assert refused(collector) == set()
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


def test_cluster_role_holds_the_lease_and_counts_objects(granted: Cluster, objects: list[Tree], tmp_path: Path) -> None:
    with as_account("cluster", granted, objects, tmp_path) as collector:
        eventually(lambda: len(resources(tmp_path)) > 5, 40, lambda: collector.output()[-4000:])
        assert refused(collector) == set()
    (lease,) = granted.get("lease", LEASE, namespace=NAMESPACE)
    assert lease["spec"]["holderIdentity"]
    assert "node-1" in {each.get("k8s.node.name") for each in resources(tmp_path)}


# ---------------------------------------------------------------- not too much


@pytest.mark.parametrize("component", ["agent", "cluster"])
def test_collector_asks_for_exactly_the_rights_of_its_cluster_role(
    component: str, accounts: Cluster, objects: list[Tree], tmp_path: Path
) -> None:
    """Without the ClusterRole, the log names each resource that it tried to list: those of the role and no other."""
    grant(accounts, objects, "Role", "RoleBinding")
    wanted = listable(component, objects)
    with as_account(component, accounts, objects, tmp_path) as collector:
        wait_until(lambda: refused(collector) >= wanted, 40)
        assert refused(collector) == wanted


def test_nothing_is_counted_without_the_lease(accounts: Cluster, objects: list[Tree], tmp_path: Path) -> None:
    grant(accounts, objects, "ClusterRole", "ClusterRoleBinding")
    with as_account("cluster", accounts, objects, tmp_path) as collector:
        eventually(lambda: refused(collector), 40, lambda: collector.output()[-4000:])
        assert refused(collector) == {("leases", "coordination.k8s.io")}
    assert resources(tmp_path) == []


def test_gpu_agent_may_list_resource_slices(accounts: Cluster, objects: list[Tree], tmp_path: Path) -> None:
    """The agent's own client is refused without the ClusterRole and served with it."""
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


# ---------------------------------------------------------------- one verb less

LESS = [
    *(("agent", "ClusterRole", verb) for verb in ("list", "watch")),
    *(("cluster", "ClusterRole", verb) for verb in ("list", "watch")),
    *(("cluster", "Role", verb) for verb in ("get", "update", "create")),
]


@pytest.mark.parametrize(("component", "kind", "verb"), LESS, ids=["-".join(each) for each in LESS])
def test_log_names_each_resource_that_lost_a_verb(
    component: str, kind: str, verb: str, granted: Cluster, objects: list[Tree], tmp_path: Path
) -> None:
    """
    The log names exactly the resources of the role's rules with this verb.

    `list` is needed where the API server does not stream lists (before Kubernetes 1.34, or switched off): the client
    does not ask for a stream here.
    """
    prefix = f"{NAMESPACE}-" if kind == "ClusterRole" else ""
    role = copy.deepcopy(one(objects, kind, f"{prefix}ai-otel-{component}"))
    lost = set()
    for rule in role["rules"]:
        if verb in rule["verbs"]:
            rule["verbs"].remove(verb)
            lost |= {(verb, each) for each in rule["resources"] if "/" not in each}
    role["rules"] = [rule for rule in role["rules"] if rule["verbs"]]
    granted.apply(yaml.safe_dump(role))
    reviews = Reviews(granted, granted.token_of(f"ai-otel-{component}", NAMESPACE))
    name, probe = (LEASE, "leases.coordination.k8s.io") if kind == "Role" else ("", "pods")
    granted.wait_for(lambda: not reviews.may_on(verb, probe, name))
    reviews.close()
    # A client of today streams the first list as a watch where the API server can; older ones cannot.
    streams = {"KUBE_FEATURE_WatchListClient": str(verb != "list").lower()}
    with as_account(component, granted, objects, tmp_path, **streams) as collector:
        wait_until(lambda: without_group(refusals(collector)) >= lost, 30)
        assert without_group(refusals(collector)) == lost


def without_group(found: set[tuple[str, str, str]]) -> set[tuple[str, str]]:
    return {(verb, resource) for verb, resource, _ in found}
