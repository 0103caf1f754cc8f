"""A real API server takes everything that the chart, Kustomize, GitOps and autoscaling examples would apply, strictly.

Pod Security "restricted" is enforced in the namespace of the release and in that of the model servers. The GPU agent is
the one exception: it mounts the kubelet's sockets, so its namespace is "privileged".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from harness.kubernetes.charts import (
    BACKEND,
    CHART,
    EXAMPLES,
    HOME,
    KUSTOMIZE,
    NAMESPACE,
    WORKLOADS,
    Tree,
    kustomized,
    merged,
    of_kind,
    parsed,
    rendered,
)
from harness.kubernetes.cluster import Cluster, Refused

pytestmark = [
    pytest.mark.requires(part="kubernetes"),
    pytest.mark.requires(command="openssl", why="the API server shows a certificate"),
]

PRIVILEGED = "gpu"
LEVELS = {NAMESPACE: "restricted", "models": "restricted", PRIVILEGED: "privileged"}
PLACES = [
    *(example / "values.yaml" for example in EXAMPLES),
    *(path for path in sorted(KUSTOMIZE.glob("bases/*/kustomization.yaml"))),
    *(path for path in sorted(KUSTOMIZE.glob("overlays/*/kustomization.yaml"))),
    *(path for path in sorted(HOME.glob("gitops/*/*.yaml"))),
    HOME / "autoscaling/hpa.yaml",
    HOME / "autoscaling/keda.yaml",
    HOME / "slo/generated/prometheusrule.yaml",
    HOME / "cost/prometheusrule.yaml",
]


@pytest.fixture(scope="module")
def cluster_with_namespaces(cluster: Cluster) -> Cluster:
    """With the definitions of custom resources, the runtime class of GPU nodes, and the namespaces of the examples."""
    cluster.load_crds("prometheus", "keda", "argocd", "flux", "cert-manager")
    objects: list[Tree] = [{"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": "nvidia"}]
    objects[0]["metadata"] = {"name": "nvidia"}
    for name in (*LEVELS, "argocd", "flux-system", "monitoring"):
        labels = {"pod-security.kubernetes.io/enforce": LEVELS[name]} if name in LEVELS else {}
        objects.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    cluster.apply(yaml.safe_dump_all(objects))
    for name in LEVELS:
        cluster.wait_for(lambda name=name: cluster.get("serviceaccount", "default", namespace=name))
    return cluster


def id_of(path: Path) -> str:
    return str(path.relative_to(HOME).with_suffix("")).removeprefix("chart/").removeprefix("kustomize/")


def objects_of(place: Path) -> list[Tree]:
    """Everything that would be applied, in the namespace that is for it."""
    if place.name == "kustomization.yaml":
        objects = kustomized(place.parent)
    elif place.name == "values.yaml":
        beside = [each for path in place.parent.glob("pod.yaml") for each in parsed(path.read_text())]
        objects = rendered(place) + beside
    else:
        objects = parsed(place.read_text())
    has_node = any("hostPath" in yaml.safe_dump(each) for each in of_kind(objects, "DaemonSet"))
    for each in objects:
        if has_node and each["metadata"].get("namespace") == NAMESPACE:
            each["metadata"]["namespace"] = PRIVILEGED
    return objects


def applied(cluster: Cluster, objects: list[Tree]) -> list[Tree]:
    for each in objects:
        each["metadata"].setdefault("namespace", NAMESPACE)
        if each["kind"] in ("ClusterRole", "ClusterRoleBinding", "Namespace"):
            del each["metadata"]["namespace"]
    return cluster.dry_run(yaml.safe_dump_all(objects))


@pytest.mark.parametrize("place", PLACES, ids=id_of)
def test_everything_is_accepted(place: Path, cluster_with_namespaces: Cluster) -> None:
    objects = objects_of(place)
    taken = applied(cluster_with_namespaces, objects)
    assert len(taken) == len(objects) > 0


@pytest.mark.parametrize("place", [place for place in PLACES if "gitops" not in place.parts], ids=id_of)
def test_every_pod_is_admitted(place: Path, cluster_with_namespaces: Cluster) -> None:
    """Pod Security checks pods, not their controllers: so each template is asked for as a pod."""
    for pod in templates(objects_of(place)):
        admitted(cluster_with_namespaces, pod)


def admitted(cluster: Cluster, pod: Tree) -> None:
    """Ask for the pod, with its service account."""
    metadata = {"name": pod["spec"].get("serviceAccountName", "default"), "namespace": pod["metadata"]["namespace"]}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    cluster.apply(yaml.safe_dump(account))
    cluster.dry_run(yaml.safe_dump(pod))


def templates(objects: list[Tree]) -> Iterator[Tree]:
    """A pod of each workload."""
    for each in of_kind(objects, *WORKLOADS):
        template, metadata = each["spec"]["template"], each["metadata"]
        claims = each["spec"].get("volumeClaimTemplates", ())
        volumes = [{"name": claim["metadata"]["name"], "emptyDir": {}} for claim in claims]
        spec = {**template["spec"], "volumes": [*template["spec"].get("volumes", ()), *volumes]}
        named = {**template["metadata"], "name": metadata["name"], "namespace": metadata.get("namespace", NAMESPACE)}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": named, "spec": spec}


def test_the_gpu_agent_is_refused_where_others_are_not(cluster_with_namespaces: Cluster) -> None:
    """So that the exception above is one: in a restricted namespace its socket and its user are refused."""
    (pod,) = templates(objects_of(CHART / "examples/gpu-only/values.yaml"))
    pod["metadata"]["namespace"] = NAMESPACE
    with pytest.raises(Refused, match=r'violates PodSecurity "restricted.*hostPath.*runAsUser=0'):
        admitted(cluster_with_namespaces, pod)


def test_the_gpu_agent_without_the_sockets_is_admitted_there(cluster_with_namespaces: Cluster) -> None:
    values = yaml.safe_load((CHART / "examples/gpu-only/values.yaml").read_text())
    (pod,) = templates(rendered(merged(values, {"gpuAgent": {"podResources": {"enabled": False}}})))
    admitted(cluster_with_namespaces, pod)


# ---------------------------------------------------------------- Helm itself


def test_helm_installs_and_upgrades_a_release(cluster_with_namespaces: Cluster, tmp_path: Path) -> None:
    """With the values of the first release, then to another set, then away: on the API server, not dry."""
    cluster = cluster_with_namespaces
    place = ("--namespace", "helm-test")
    cluster.helm("install", "ai-otel", CHART, *place, "--create-namespace", "--values", CHART / "ci/0.1.0-values.yaml")
    (values := tmp_path / "values.yaml").write_text(
        yaml.safe_dump(
            merged(
                BACKEND,
                {
                    "tls": {"mode": "mtls"},
                    "agent": {"engines": ["vllm"], "features": ["redaction"]},
                    "gateway": {"autoscaling": {"enabled": True}},
                    "gatewayStateful": {"features": ["tail_sampling", "span_to_metric"], "replicas": 3},
                    "sidecar": {"enabled": True},
                    "monitoring": {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
                },
            )
        )
    )
    cluster.helm("upgrade", "ai-otel", CHART, *place, "--values", values)
    (stateful,) = cluster.get("statefulset", "ai-otel-gateway-stateful", namespace="helm-test")
    assert stateful["spec"]["replicas"] == 3
    assert cluster.get("podmonitor", "ai-otel-collectors", namespace="helm-test")
    cluster.helm("uninstall", "ai-otel", *place)
    kinds = "daemonset,deployment,statefulset,configmap,service,networkpolicy,role,serviceaccount"
    left = cluster.get(kinds, "--selector", "app.kubernetes.io/part-of=ai-otel", namespace="helm-test")
    assert [each["metadata"]["name"] for each in left] == []
    cluster.kubectl("delete", "namespace", "helm-test", "--wait=false")
