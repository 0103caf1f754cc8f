"""The agent's Collector beside a cluster: outside of a pod, and without a kubelet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.collector.process import Collector, composed, running
from harness.kubernetes.cluster import Cluster


@contextmanager
def agent(cluster: Cluster, node: str, directory: Path, *, every: str = "1s") -> Iterator[Collector]:
    """Run that of `node` until the block ends; it reads the pages of vLLM `every` so often."""
    tree = composed(role="agent", engines=("vllm",), features=("local",), without=("persistence",), backends=("file",))
    for job in tree["receivers"]["prometheus/pages"]["config"]["scrape_configs"]:
        job["kubernetes_sd_configs"][0]["kubeconfig_file"] = str(cluster.kubeconfig)
    tree["processors"]["k8s_attributes"]["auth_type"] = "kubeConfig"
    del tree["receivers"]["kubelet_stats"], tree["service"]["pipelines"]["metrics/kubelet"]
    variables = {
        "KUBECONFIG": str(cluster.kubeconfig),
        "K8S_NODE_NAME": node,
        "AI_OTEL_SCRAPE_INTERVAL": every,
        "AI_OTEL_SCRAPE_TIMEOUT": every,
    }
    with running(tree, directory, variables) as collector:
        yield collector
