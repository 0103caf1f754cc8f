"""The whole of what each service account may do, and what a live Collector says when one verb is taken away."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from harness.collector.process import running
from harness.kubernetes.charts import NAMESPACE, Tree, configuration, of_kind, one, rendered
from harness.kubernetes.cluster import Cluster
from harness.polling import wait_until

pytestmark = [
    pytest.mark.requires(part="kubernetes"),
    pytest.mark.requires(part="collector"),
    pytest.mark.requires(command="openssl", why="the API server shows a certificate"),
]

LEASE = "ai-otel-cluster-lease"
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "bind", "escalate")
# What discovery does not list: parts of a kubelet, which the kubelet itself asks about, and whom one may act for.
UNLISTED = {
    **{f"nodes/{part}": VERBS for part in ("stats", "metrics", "log", "spec", "configz", "healthz", "pods")},
    **{f"{who}": ("impersonate",) for who in ("users", "groups", "serviceaccounts")},
}
PATHS = ("/metrics", "/metrics/slis", "/logs", "/logs/kube-apiserver.log", "/debug/pprof/heap", "/configz", "/anything")

# Every account of every cluster may ask about itself (ClusterRole system:basic-user).
ANYONE = {
    ("everywhere", "create", f"{resource}.{group}")
    for group, resource in (
        ("authorization.k8s.io", "selfsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectrulesreviews"),
        ("authentication.k8s.io", "selfsubjectreviews"),
    )
}
COUNTED = (  # by k8s_cluster; an informer lists, then watches
    *("nodes", "namespaces", "pods", "services", "replicationcontrollers", "resourcequotas"),
    *("deployments.apps", "daemonsets.apps", "replicasets.apps", "statefulsets.apps"),
    *("jobs.batch", "cronjobs.batch", "horizontalpodautoscalers.autoscaling"),
)
NEEDED: dict[str, set[tuple[str, str, str]]] = {
    "agent": {
        ("everywhere", "list", "pods"),  # discovery of pages, and k8s_attributes, begin with all pods of the node
        ("everywhere", "watch", "pods"),  # and follow what changes
        ("everywhere", "get", "nodes/stats"),  # kubelet_stats: the kubelet asks whether we may
    },
    "cluster": {
        *(("everywhere", verb, resource) for resource in COUNTED for verb in ("list", "watch")),
        (LEASE, "get", "leases.coordination.k8s.io"),  # who holds it
        (LEASE, "update", "leases.coordination.k8s.io"),  # to take it and to keep it
        (LEASE, "create", "leases.coordination.k8s.io"),  # the first time; Kubernetes cannot bind this to a name
        ("another", "create", "leases.coordination.k8s.io"),
    },
    "gpu-agent": {("everywhere", "list", "resourceslices.resource.k8s.io")},  # which device a claim means
    "gateway": set(),
    "gateway-stateful": set(),
}
VALUES: Tree = {
    "backends": {"file": {}},
    "tls": {"mode": "off"},
    "agent": {
        "engines": ["vllm"],
        "without": ["persistence"],
        "config": {
            "processors": {"k8s_attributes": {"auth_type": "kubeConfig"}},
            "service": {"pipelines": {"metrics/kubelet": None}},
        },
    },
    "cluster": {
        "without": ["persistence"],
        "config": {
            "receivers": {"k8s_cluster": {"auth_type": "kubeConfig", "collection_interval": "1s"}},
            "extensions": {"k8s_leader_elector": {"auth_type": "kubeConfig"}},
        },
    },
    "gpuAgent": {
        "enabled": True,
        "image": {"repository": "registry.example.com/ai-otel"},
        "dra": {"enabled": True},
        "endpoint": "gateway:4317",
    },
}
RIGHTS = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


class Reviews:
    """Asks the API server what the holder of a token may do, over one connection."""

    def __init__(self, cluster: Cluster, token: str) -> None:
        at = urlsplit(cluster.url)
        context = ssl.create_default_context(cafile=str(cluster.ca))
        self._connection = http.client.HTTPSConnection(at.hostname or "", at.port, context=context, timeout=30)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def may(self, **asked: Tree) -> bool:
        """The answer to `resourceAttributes` or `nonResourceAttributes`."""
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": asked}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        self._connection.request("POST", path, json.dumps(review), self._headers)
        told = json.loads(self._connection.getresponse().read())
        return bool(told["status"]["allowed"])

    def may_on(self, verb: str, resource: str, name: str = "") -> bool:
        """The same of a resource as `kubectl` writes it; everywhere, or of one object of the namespace."""
        kind, _, part = resource.partition("/")
        plural, _, group = kind.partition(".")
        asked = {"verb": verb, "group": group, "resource": plural, "subresource": part, "name": name}
        return self.may(resourceAttributes={**asked, "namespace": NAMESPACE if name else ""})

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def objects() -> list[Tree]:
    return rendered(VALUES)


@pytest.fixture
def granted(cluster: Cluster, objects: list[Tree]) -> Iterator[Cluster]:
    """With the chart's service accounts and all of their rights."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    cluster.apply(yaml.safe_dump_all([space, *of_kind(objects, "ServiceAccount", *RIGHTS)]))
    yield cluster
    for kind in RIGHTS:
        cluster.kubectl("delete", kind, "--all-namespaces", "--selector", "app.kubernetes.io/part-of=ai-otel", "--wait")


def resources_of(cluster: Cluster) -> list[str]:
    """Every resource and subresource of every group that the API server's discovery lists."""
    groups = json.loads(cluster.kubectl("get", "--raw", "/apis"))["groups"]
    paths = {"/api/v1": "", **{f"/apis/{v['groupVersion']}": g["name"] for g in groups for v in g["versions"]}}
    found = set()
    for path, group in paths.items():
        for each in json.loads(cluster.kubectl("get", "--raw", path))["resources"]:
            plural, slash, part = each["name"].partition("/")
            found.add(f"{plural}{'.' if group else ''}{group}{slash}{part}")
    return sorted(found)


@pytest.mark.parametrize("component", NEEDED)
def test_an_account_may_do_what_its_configuration_needs_and_nothing_else(component: str, granted: Cluster) -> None:
    """Over all verbs of all resources, everywhere, and on the lease's name in the namespace of the release."""
    resources = resources_of(granted)
    assert len(resources) > 80
    assert {"nodes/proxy", "pods/log", "pods/exec", "secrets"} <= set(resources)
    matrix = [*((verb, each) for each in resources for verb in VERBS)]
    matrix += [(verb, each) for each, verbs in UNLISTED.items() for verb in verbs]
    reviews = Reviews(granted, granted.token_of(f"ai-otel-{component}", NAMESPACE))
    wanted = NEEDED[component] | ANYONE
    granted.wait_for(lambda: all(reviews.may_on(v, r, "" if n == "everywhere" else n) for n, v, r in wanted))
    everywhere = {(verb, each) for verb, each in matrix if reviews.may_on(verb, each)}
    allowed = {("everywhere", verb, each) for verb, each in everywhere}
    for name in (LEASE, "another"):
        here = {pair for pair in matrix if pair not in everywhere and reviews.may_on(*pair, name)}
        allowed |= {(name, verb, each) for verb, each in here}
    assert allowed == wanted
    assert [path for path in PATHS if reviews.may(nonResourceAttributes={"path": path, "verb": "get"})] == []
    reviews.close()


# ---------------------------------------------------------------- one verb less

LESS = [
    *(("agent", "ClusterRole", verb) for verb in ("list", "watch")),
    *(("cluster", "ClusterRole", verb) for verb in ("list", "watch")),
    *(("cluster", "Role", verb) for verb in ("get", "update", "create")),
]


@pytest.mark.parametrize(("component", "kind", "verb"), LESS, ids=["-".join(each) for each in LESS])
def test_without_a_verb_the_collector_says_which_one_it_lacks(
    component: str, kind: str, verb: str, granted: Cluster, objects: list[Tree], tmp_path: Path
) -> None:
    """Its log then names every resource that it has lost this verb for, and by then nothing else was refused.

    `list` is needed where the API server does not stream lists (before Kubernetes 1.34, or switched off), which is
    played by a client that does not ask for it.
    """
    prefix = f"{NAMESPACE}-" if kind == "ClusterRole" else ""
    role = json.loads(json.dumps(one(objects, kind, f"{prefix}ai-otel-{component}")))
    lost = set()
    for rule in role["rules"]:
        if verb in rule["verbs"]:
            rule["verbs"].remove(verb)
            lost |= {(verb, each) for each in rule["resources"] if "/" not in each}
    role["rules"] = [rule for rule in role["rules"] if rule["verbs"]]
    granted.apply(yaml.safe_dump(role))
    granted.kubectl("delete", "lease", LEASE, "--namespace", NAMESPACE, "--ignore-not-found")
    account = f"ai-otel-{component}"
    reviews = Reviews(granted, granted.token_of(account, NAMESPACE))
    name = LEASE if kind == "Role" else ""
    probe = "leases.coordination.k8s.io" if kind == "Role" else "pods"
    granted.wait_for(lambda: not reviews.may_on(verb, probe, name))
    reviews.close()
    tree, kubeconfig = configuration(one(objects, "ConfigMap", account)), granted.kubeconfig_of(account, NAMESPACE)
    for job in tree["receivers"].get("prometheus/pages", {}).get("config", {}).get("scrape_configs", []):
        job["kubernetes_sd_configs"][0]["kubeconfig_file"] = str(kubeconfig)
    variables = {
        "KUBECONFIG": str(kubeconfig),
        "K8S_NODE_NAME": "node-1",
        "K8S_NAMESPACE_NAME": NAMESPACE,
        "AI_OTEL_LEASE_NAME": LEASE,
        # A client of today streams the first list as a watch where the API server can; older ones cannot.
        "KUBE_FEATURE_WatchListClient": str(verb != "list").lower(),
    }
    with running(tree, tmp_path, variables) as collector:
        wait_until(lambda: refused(collector.output()) >= lost, 30)
        assert refused(collector.output()) == lost
    granted.kubectl("delete", "lease", LEASE, "--namespace", NAMESPACE, "--ignore-not-found")


def refused(log: str) -> set[tuple[str, str]]:
    """Verb and resource of every refusal in it."""
    return set(re.findall(r'cannot (\w+) resource "([^"]+)" in API group', log.replace("\\", "")))
