"""What the other tests of this tier stand on: the control plane says no, and does its work, as a real one."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from harness.kubernetes.cluster import Cluster, Refused, Tree
from harness.kubernetes.control_plane import POD_IP, answers, control_plane

pytestmark = [
    pytest.mark.requires(part="kubernetes"),
    pytest.mark.requires(command="openssl", why="the API server shows a certificate"),
]

MODEL = {"containers": [{"name": "model", "image": "vllm:1"}]}


def pod(name: str, namespace: str, spec: Tree | None = None, **annotations: str) -> Tree:
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec or MODEL}


def deployment(namespace: str, **spec: object) -> Tree:
    template = {"metadata": {"labels": {"app": "model"}}, "spec": MODEL}
    whole = {"selector": {"matchLabels": {"app": "model"}}, "template": template, **spec}
    metadata = {"name": "model", "namespace": namespace}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": whole}


def text(*objects: Tree) -> str:
    return yaml.safe_dump_all(objects)


# ---------------------------------------------------------------- the API server


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"replica": 2}, "field not declared in schema"),
        ({"replicas": "two"}, "expected numeric"),
        ({"replicas": -1}, "must be greater than or equal to 0"),
    ],
    ids=["unknown field", "wrong type", "wrong value"],
)
def test_a_dry_run_refuses_what_no_cluster_would_take(cluster: Cluster, namespace: str, wrong: Tree, said: str) -> None:
    with pytest.raises(Refused, match=said):
        cluster.dry_run(text(deployment(namespace, **wrong)))


def test_a_dry_run_fills_in_defaults_and_stores_nothing(cluster: Cluster, namespace: str) -> None:
    (dry,) = cluster.dry_run(text(deployment(namespace)))
    assert dry["spec"]["replicas"] == 1
    assert cluster.get("deployments", namespace=namespace) == []


def test_the_api_server_is_known_by_its_authority(cluster: Cluster) -> None:
    assert "insecure" not in cluster.kubeconfig.read_text()
    with pytest.raises(urllib.error.URLError) as refused:
        urllib.request.urlopen(f"{cluster.url}/readyz", timeout=5)
    assert isinstance(refused.value.reason, ssl.SSLCertVerificationError)


def test_a_service_account_may_do_what_its_role_says_and_no_more(cluster: Cluster, namespace: str) -> None:
    """With its own token, which the API server issued."""
    cluster.kubectl("create", "serviceaccount", "reader", "--namespace", namespace)
    reader = cluster.kubeconfig_of("reader", namespace)
    listing = ("get", "pods", "--namespace", namespace)
    with pytest.raises(Refused, match=f"system:serviceaccount:{namespace}:reader.*cannot list"):
        cluster.kubectl(*listing, kubeconfig=reader)
    role = ("--namespace", namespace, "--verb=list", "--resource=pods")
    cluster.kubectl("create", "role", "reads-pods", *role)
    bound = ("--namespace", namespace, "--role=reads-pods", f"--serviceaccount={namespace}:reader")
    cluster.kubectl("create", "rolebinding", "reads-pods", *bound)
    cluster.wait_for(lambda: may(cluster, "list", reader, namespace) == "yes")
    cluster.kubectl(*listing, kubeconfig=reader)
    assert may(cluster, "delete", reader, namespace) == "no"


def may(cluster: Cluster, verb: str, who: Path, namespace: str) -> str:
    """The API server's own answer; `kubectl auth can-i` fails where it is no."""
    try:
        return cluster.kubectl("auth", "can-i", verb, "pods", "--namespace", namespace, kubeconfig=who).strip()
    except Refused as refused:
        return str(refused)


def test_a_restricted_namespace_refuses_a_pod_that_runs_as_root(cluster: Cluster, namespace: str) -> None:
    level = "pod-security.kubernetes.io/enforce=restricted"
    cluster.kubectl("label", "namespace", namespace, level)
    with pytest.raises(Refused, match='violates PodSecurity "restricted.*runAsNonRoot'):
        cluster.dry_run(text(pod("root", namespace)))
    fit = {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    spec = {"containers": [{**MODEL["containers"][0], "securityContext": fit}]}
    cluster.dry_run(text(pod("user", namespace, spec)))


# ---------------------------------------------------------------- controllers, scheduler, nodes


def test_a_deployment_becomes_a_replica_set_and_running_pods(cluster: Cluster, namespace: str) -> None:
    cluster.apply(text(deployment(namespace, replicas=2)))
    pods = cluster.wait_for(
        lambda: two if len(two := cluster.running("app=model", namespace)) == 2 else None,
    )
    (replica_set,) = cluster.get("replicasets", namespace=namespace)
    assert owner(replica_set) == ("Deployment", "model")
    assert {owner(each) for each in pods} == {("ReplicaSet", replica_set["metadata"]["name"])}
    assert {each["spec"]["nodeName"] for each in pods} == {"node-1"}
    addresses = {each["status"]["podIP"] for each in pods}
    assert len(addresses) == 2
    assert all(address.startswith("127.64.") for address in addresses)
    cluster.kubectl("rollout", "status", "deployment/model", "--namespace", namespace, "--timeout=30s")


def owner(held: Tree) -> tuple[str, str]:
    (reference,) = held["metadata"]["ownerReferences"]
    return reference["kind"], reference["name"]


def test_a_pod_runs_at_the_address_that_its_annotation_asks_for(cluster: Cluster, namespace: str) -> None:
    """Any of 127.0.0.0/8: a page that listens there is found as a pod's page is found."""
    wanted = {f"page-{number}": f"127.0.1.{number}" for number in range(1, 21)}
    cluster.apply(text(*(pod(name, namespace, **{POD_IP: ip}) for name, ip in wanted.items())))
    names = ",".join(wanted)
    pods = cluster.wait_for(
        lambda: all_of if len(all_of := cluster.running(f"app in ({names})", namespace)) == len(wanted) else None
    )
    assert {each["metadata"]["name"]: each["status"]["podIP"] for each in pods} == wanted
    assert {each["status"]["podIPs"][0]["ip"] for each in pods} == set(wanted.values())


def test_what_no_node_has_is_waited_for(cluster: Cluster, namespace: str) -> None:
    """The scheduler reads resources: a pod that wants GPUs runs once there is a node with GPUs."""
    limits = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}
    cluster.apply(text(pod("large", namespace, {"containers": [{**MODEL["containers"][0], **limits}]})))
    events = ("events", "--field-selector", "reason=FailedScheduling")
    (said, *_) = cluster.wait_for(lambda: cluster.get(*events, namespace=namespace))
    assert "Insufficient nvidia.com/gpu" in said.get("note", said.get("message"))
    cluster.add_node("gpu-1", {"test": "gpu"}, {"nvidia.com/gpu": "8"})
    (large,) = cluster.wait_for(lambda: cluster.running("app=large", namespace))
    assert large["spec"]["nodeName"] == "gpu-1"
    cluster.kubectl("delete", "node", "gpu-1")


# ---------------------------------------------------------------- custom resources


DEFINED = {
    "opentelemetry": {"opentelemetrycollectors.opentelemetry.io", "instrumentations.opentelemetry.io"},
    "prometheus": {"servicemonitors.monitoring.coreos.com", "podmonitors.monitoring.coreos.com"},
    "argocd": {"applications.argoproj.io", "applicationsets.argoproj.io", "appprojects.argoproj.io"},
    "keda": {"scaledobjects.keda.sh", "triggerauthentications.keda.sh"},
    "flux": {"gitrepositories.source.toolkit.fluxcd.io", "kustomizations.kustomize.toolkit.fluxcd.io"},
    "cert-manager": {"certificates.cert-manager.io", "clusterissuers.cert-manager.io"},
    "gateway": {"gateways.gateway.networking.k8s.io", "httproutes.gateway.networking.k8s.io"},
}


@pytest.mark.parametrize("name", DEFINED)
def test_custom_resources_are_defined_as_their_projects_define_them(cluster: Cluster, name: str) -> None:
    assert cluster.load_crds(name) >= DEFINED[name]


def test_a_custom_resource_is_checked_as_strictly(cluster: Cluster, namespace: str) -> None:
    cluster.load_crds("prometheus")
    monitor = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "models", "namespace": namespace},
        "spec": {"selector": {}, "podMetricsEndpoints": [{"port": "http"}]},
    }
    cluster.dry_run(text(monitor))
    monitor["spec"]["sampleLimits"] = 10
    with pytest.raises(Refused, match="sampleLimits"):
        cluster.dry_run(text(monitor))


# ---------------------------------------------------------------- the Operator


def sidecar(namespace: str) -> Tree:
    configuration = {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": "127.0.0.1:4318"}}}},
        "exporters": {"debug": {}},
        "service": {"pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["debug"]}}},
    }
    return {
        "apiVersion": "opentelemetry.io/v1beta1",
        "kind": "OpenTelemetryCollector",
        "metadata": {"name": "beside", "namespace": namespace},
        "spec": {"mode": "sidecar", "config": configuration},
    }


def instrumentation(namespace: str) -> Tree:
    return {
        "apiVersion": "opentelemetry.io/v1alpha1",
        "kind": "Instrumentation",
        "metadata": {"name": "models", "namespace": namespace},
        "spec": {"exporter": {"endpoint": "http://127.0.0.1:4318"}, "python": {"image": "example.com/user:1"}},
    }


INJECT = {"sidecar.opentelemetry.io/inject": "true", "instrumentation.opentelemetry.io/inject-python": "true"}


@pytest.mark.requires(part="operator")
def test_the_operator_injects_what_a_pod_asks_for(cluster: Cluster, operator: None, namespace: str) -> None:
    """The sidecar is an init container that keeps running, as Kubernetes has it since 1.29; so it is up first."""
    cluster.apply(text(sidecar(namespace), instrumentation(namespace)))
    cluster.apply(text(pod("model", namespace, **INJECT), pod("plain", namespace)))
    (model,) = cluster.get("pods", "--selector", "app=model", namespace=namespace)
    (plain,) = cluster.get("pods", "--selector", "app=plain", namespace=namespace)
    first, second = model["spec"]["initContainers"]
    assert (first["name"], first["restartPolicy"]) == ("otc-container", "Always")
    assert first["image"].endswith(":0.139.0")
    assert set(yaml.safe_load(variables(first)["OTEL_CONFIG"])["receivers"]) == {"otlp"}
    assert second["image"] == "example.com/user:1"
    assert second["command"] == ["cp", "-r", "/autoinstrumentation/.", "/otel-auto-instrumentation-python"]
    (container,) = model["spec"]["containers"]
    given = variables(container)
    assert given["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:4318"
    assert given["PYTHONPATH"].endswith(":/otel-auto-instrumentation-python")
    assert "initContainers" not in plain["spec"]
    assert "env" not in plain["spec"]["containers"][0]


def variables(container: Tree) -> dict[str, str]:
    """The container's environment, as far as it stands in the pod."""
    return {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}


@pytest.mark.requires(part="operator")
def test_the_operator_refuses_what_it_could_not_run(cluster: Cluster, operator: None, namespace: str) -> None:
    """Its validating webhook, on a real request of the API server."""
    wrong = sidecar(namespace)
    wrong["spec"]["tolerations"] = [{"operator": "Exists"}]
    with pytest.raises(Refused, match="does not support the attribute 'tolerations'"):
        cluster.dry_run(text(wrong))


# ---------------------------------------------------------------- the end


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    with control_plane(tmp_path / "short", controllers=False) as short:
        assert len(processes_below(tmp_path)) == 2
        short.dry_run(text(pod("alone", "default")))
    assert processes_below(tmp_path) == []
    assert not answers(f"{short.url}/readyz", short.ca)


def processes_below(directory: Path) -> list[str]:
    """Command lines that name a file below it."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_text().replace("\0", " "))
        except OSError:  # it ended meanwhile
            continue
    return [line for line in lines if str(directory) in line]
