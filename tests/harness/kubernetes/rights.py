"""The rights that the chart grants: the values that it is rendered with, and questions to the API server about them."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from harness.collector.process import Collector, running
from harness.kubernetes.charts import NAMESPACE, Tree, configuration, one
from harness.kubernetes.cluster import Cluster

LEASE = "ai-otel-cluster-lease"
KINDS = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
_FILE: Tree = {"file/backend": {"flush_interval": "50ms"}}
VALUES: Tree = {
    "backends": {"file": {}},
    "tls": {"mode": "off"},
    "gateway": {"enabled": False},
    "gatewayStateful": {"enabled": False},
    "agent": {
        "engines": ["vllm"],
        "without": ["persistence"],
        "config": {
            "processors": {"k8s_attributes": {"auth_type": "kubeConfig"}},
            "exporters": _FILE,
            "service": {"pipelines": {"metrics/kubelet": None}},
        },
    },
    "cluster": {
        "without": ["persistence"],
        "config": {
            "receivers": {"k8s_cluster": {"auth_type": "kubeConfig", "collection_interval": "1s"}},
            "extensions": {"k8s_leader_elector": {"auth_type": "kubeConfig"}},
            "exporters": _FILE,
        },
    },
    "gpuAgent": {
        "enabled": True,
        "image": {"repository": "registry.example.com/ai-otel"},
        "dra": {"enabled": True},
        "endpoint": "gateway:4317",
    },
}
"""The chart's defaults, but for a Collector outside of a pod, without a kubelet, and with a file that tests read."""


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
        answer = json.loads(self._connection.getresponse().read())
        return bool(answer["status"]["allowed"])

    def may_on(self, verb: str, resource: str, name: str = "") -> bool:
        """The same of a resource as `kubectl` writes it; everywhere, or of one object of the namespace."""
        kind, _, part = resource.partition("/")
        plural, _, group = kind.partition(".")
        asked = {"verb": verb, "group": group, "resource": plural, "subresource": part, "name": name}
        return self.may(resourceAttributes={**asked, "namespace": NAMESPACE if name else ""})

    def close(self) -> None:
        self._connection.close()


@contextmanager
def as_account(
    component: str, cluster: Cluster, objects: list[Tree], directory: Path, **environment: str
) -> Iterator[Collector]:
    """Run the Collector with the chart's configuration and the token of its service account."""
    account = f"ai-otel-{component}"
    kubeconfig = cluster.kubeconfig_of(account, NAMESPACE)
    tree = configuration(one(objects, "ConfigMap", account))
    for job in tree["receivers"].get("prometheus/pages", {}).get("config", {}).get("scrape_configs", []):
        (discovery,) = job["kubernetes_sd_configs"]
        discovery["kubeconfig_file"] = str(kubeconfig)
    variables = {
        "KUBECONFIG": str(kubeconfig),
        "K8S_NODE_NAME": "node-1",
        "K8S_NAMESPACE_NAME": NAMESPACE,
        "AI_OTEL_LEASE_NAME": LEASE,
        "AI_OTEL_SCRAPE_INTERVAL": "1s",
        "AI_OTEL_SCRAPE_TIMEOUT": "1s",
        **environment,
    }
    with running(tree, directory, variables) as collector:
        yield collector


def refusals(collector: Collector) -> set[tuple[str, str, str]]:
    """Verb, resource and API group of every refusal in the Collector's log."""
    log = collector.output().replace("\\", "")
    return set(re.findall(r'cannot (\w+) resource "([^"]+)" in API group "([^"]*)"', log))
