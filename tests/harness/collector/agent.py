"""
The agent without a cluster: pods are described as Kubernetes' discovery does, by labels that begin with
`__meta_kubernetes_pod_`; everything behind that is the real thing.
"""

from __future__ import annotations

from harness.collector.process import Tree, composed

META = "__meta_kubernetes_"


def pod(name: str, phase: str = "Running", address: str = "127.0.0.1", **annotations: str) -> Tree:
    """One target, as the discovery of pods makes it for one of a pod's ports."""
    labels = {
        f"{META}pod_ip": address,
        f"{META}pod_phase": phase,
        f"{META}pod_name": name,
        f"{META}pod_uid": f"uid-of-{name}",
        f"{META}namespace": "llm",
        **{f"{META}pod_annotation_ai_otel_io_{key}": value for key, value in annotations.items()},
    }
    return {"targets": [f"{address}:1"], "labels": labels}


def agent(pods: list[Tree]) -> Tree:
    """The agent without what only a cluster has: the API server and the kubelet."""
    tree = composed(role="agent", features=("local",), without=("persistence",), backends=("file",))
    for job in tree["receivers"]["prometheus/pages"]["config"]["scrape_configs"]:
        del job["kubernetes_sd_configs"]
        job["static_configs"] = pods
    del tree["receivers"]["kubelet_stats"], tree["processors"]["k8s_attributes"]
    del tree["service"]["pipelines"]["metrics/kubelet"]
    for pipeline in tree["service"]["pipelines"].values():
        known = ("k8s_attributes", "filter/unknown_pod")
        pipeline["processors"] = [name for name in pipeline["processors"] if name not in known]
    return tree
