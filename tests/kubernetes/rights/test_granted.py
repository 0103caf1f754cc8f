"""What each service account of the chart may do, by the API server's own judgement: enough, and nothing else."""

from __future__ import annotations

import json

import pytest

from harness.kubernetes.charts import NAMESPACE, Tree, rendered
from harness.kubernetes.cluster import Cluster
from harness.kubernetes.rights import LEASE, VALUES, Reviews

pytestmark = [
    pytest.mark.requires(part="kubernetes"),
    pytest.mark.requires(command="openssl", why="the API server shows a certificate"),
]

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


@pytest.fixture(scope="module")
def objects() -> list[Tree]:
    """With the gateways, which have accounts of their own."""
    return rendered({**VALUES, "gateway": {"enabled": True}, "gatewayStateful": {"enabled": True}})


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
def test_account_has_exactly_the_rights_that_it_needs(component: str, granted: Cluster) -> None:
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
