"""What our pods may do, in the chart's examples and in the Kustomize overlays alike; and who may speak with whom."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes.charts import (
    BACKEND,
    CHART,
    EXAMPLES,
    KUSTOMIZE,
    WORKLOADS,
    Tree,
    containers,
    kustomized,
    merged,
    of_kind,
    one,
    parsed,
    pods,
    rendered,
    template,
)

pytestmark = pytest.mark.requires(part="kubernetes")

OVERLAYS = sorted(path.parent for path in KUSTOMIZE.glob("overlays/*/kustomization.yaml"))
GPU_AGENT = "ai-otel-gpu-agent"


@pytest.fixture(
    scope="module", params=[*EXAMPLES, *OVERLAYS, KUSTOMIZE / "bases/gpu-agent"], ids=lambda path: path.name
)
def objects(request: pytest.FixtureRequest) -> list[Tree]:
    """Everything that one example or overlay applies, the pods with sidecars beside it included."""
    place: Path = request.param
    if (place / "kustomization.yaml").exists():
        return kustomized(place)
    beside = [each for path in place.glob("pod.yaml") for each in parsed(path.read_text())]
    return rendered(place / "values.yaml") + beside


def chart_containers(objects: list[Tree]) -> Iterator[tuple[str, Tree, Tree]]:
    """Each of our containers, with its workload's name and its pod."""
    for name, pod in pods(objects).items():
        for container in containers(pod):
            if container["name"] in ("collector", "ai-otel", "agent"):
                yield name, pod, container


def test_every_container_is_hardened(objects: list[Tree]) -> None:
    """The GPU agent is root where it mounts the kubelet's sockets, and has nothing of root's rights but the files."""
    for name, pod, container in chart_containers(objects):
        security = {**pod["securityContext"], **container["securityContext"]}
        is_root = name == GPU_AGENT and any("hostPath" in volume for volume in pod["volumes"])
        assert security["runAsUser"] == (0 if is_root else 10001), name
        assert security.get("runAsNonRoot", False) is not is_root, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["privileged"] is False, name
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert container["resources"]["limits"]["memory"], name
        assert container["resources"]["requests"]["memory"], name
        assert not any("nvidia.com/gpu" in each for each in container["resources"].values()), name


def test_only_the_gpu_agent_sees_the_node_and_only_sockets_of_the_kubelet(objects: list[Tree]) -> None:
    for name, pod, container in chart_containers(objects):
        paths = {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
        assert paths <= ({"/var/lib/kubelet/pod-resources"} if name == GPU_AGENT else set())
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert all(mounts[path]["readOnly"] for path in paths)


def test_every_container_is_asked_whether_it_is_well(objects: list[Tree]) -> None:
    """The Collector on 13133, the GPU agent on 13134. A sidecar is not asked whether it is ready: the server is."""
    for name, _, container in chart_containers(objects):
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        path, port = ("/healthz", 13134) if name == GPU_AGENT else ("/", 13133)
        probes = {"startupProbe", "livenessProbe"} | ({"readinessProbe"} if container["name"] != "ai-otel" else set())
        assert {key for key in container if key.endswith("Probe")} == probes, name
        for probe in probes:
            asked = container[probe]["httpGet"]
            assert (asked["path"], ports[asked["port"]]) == (path, port), (name, probe)


def test_probes_and_monitors_reach_what_listens_on_loopback_by_default(objects: list[Tree]) -> None:
    shared = [tree["data"] for tree in of_kind(objects, "ConfigMap") if "AI_OTEL_SELF_HOST" in tree["data"]]
    for name, _, container in chart_containers(objects):
        if name == GPU_AGENT:
            continue
        given = {each["name"]: each.get("value") for each in container.get("env", ())}
        declared = shared[0] if container["name"] == "ai-otel" else given
        assert declared["AI_OTEL_HEALTH_LISTEN"] == "0.0.0.0:13133", name
        assert declared["AI_OTEL_SELF_HOST"] == "0.0.0.0", name
        opened = {port["containerPort"] for port in container["ports"]}
        assert ("AI_OTEL_OTLP_GRPC" in declared) == (4317 in opened), name
        assert ("AI_OTEL_PROMETHEUS_LISTEN" in declared) == (9464 in opened), name


def test_go_holds_back_before_the_kernel_does(objects: list[Tree]) -> None:
    """GOMEMLIMIT is four fifths of the memory limit, as memory_limiter's share is."""
    for name, _, container in chart_containers(objects):
        declared = {each["name"]: each.get("value") for each in container.get("env", ())}
        if name == GPU_AGENT or container["name"] == "ai-otel":
            continue
        limit = container["resources"]["limits"]["memory"]
        mebibytes = int(limit[:-2]) * {"Mi": 1, "Gi": 1024}[limit[-2:]]
        assert declared["GOMEMLIMIT"] == f"{mebibytes * 8 // 10}MiB", name


def test_the_token_of_the_api_server_is_mounted_where_it_is_used(objects: list[Tree]) -> None:
    for name, pod, _ in chart_containers(objects):
        uses = name in ("ai-otel-agent", "ai-otel-cluster")
        uses |= name == GPU_AGENT and bool(of_kind(objects, "ClusterRole"))
        assert pod["automountServiceAccountToken"] is uses, name
    assert all(each["automountServiceAccountToken"] is False for each in of_kind(objects, "ServiceAccount"))


def test_who_only_sends_has_no_private_key_without_mtls(objects: list[Tree]) -> None:
    is_mtls = "client_ca_file" in yaml.safe_dump(of_kind(objects, "ConfigMap"))
    for name, pod, container in chart_containers(objects):
        receives = any(port["name"] == "otlp-grpc" for port in container["ports"])
        for volume in pod["volumes"]:
            if volume["name"] in ("tls", "ai-otel-tls"):
                keys = {item["key"] for item in volume["secret"]["items"]}
                wanted = {"ca.crt", "tls.crt", "tls.key"} if receives or is_mtls else {"ca.crt"}
                assert keys == wanted, name


def test_pods_end_after_their_grace_period(objects: list[Tree]) -> None:
    for name, pod, container in chart_containers(objects):
        if "lifecycle" in container:
            slept_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert slept_s < pod["terminationGracePeriodSeconds"], name


# ---------------------------------------------------------------- rights

READS = ["list", "watch"]
RIGHTS: dict[str, list[tuple[str, set[str], list[str]]]] = {
    "agent": [("", {"pods"}, READS), ("", {"nodes/stats"}, ["get"])],
    "cluster": [
        (
            "",
            {"nodes", "namespaces", "pods", "services", "replicationcontrollers", "resourcequotas"},
            READS,
        ),
        ("apps", {"deployments", "daemonsets", "replicasets", "statefulsets"}, READS),
        ("batch", {"jobs", "cronjobs"}, READS),
        ("autoscaling", {"horizontalpodautoscalers"}, READS),
    ],
    "gpu-agent": [("resource.k8s.io", {"resourceslices"}, ["list"])],
}


def test_rights_are_these_and_no_others(objects: list[Tree]) -> None:
    """Nothing may be written but one lease, and nothing read through the kubelet but its statistics."""
    for role in of_kind(objects, "ClusterRole"):
        declared = [(rule["apiGroups"], set(rule["resources"]), rule["verbs"]) for rule in role["rules"]]
        component = role["metadata"]["labels"]["app.kubernetes.io/component"]
        assert declared == [([group], resources, verbs) for group, resources, verbs in RIGHTS[component]]
    for role in of_kind(objects, "Role"):
        assert role["metadata"]["name"] == "ai-otel-cluster"
        assert [(rule.get("resourceNames"), rule["resources"], rule["verbs"]) for rule in role["rules"]] == [
            (["ai-otel-cluster-lease"], ["leases"], ["get", "update"]),
            (None, ["leases"], ["create"]),
        ]


# ---------------------------------------------------------------- network


def ports_of(rules: list[Tree]) -> set[int]:
    return {port["port"] for rule in rules for port in rule.get("ports", ())}


def test_every_workload_has_a_network_policy_for_both_ways(objects: list[Tree]) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "NetworkPolicy")}
    workloads = [each for each in of_kind(objects, *WORKLOADS) if each["metadata"]["name"].startswith("ai-otel-")]
    for workload in workloads:
        policy = policies[workload["metadata"]["name"]]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert policy["podSelector"]["matchLabels"] == workload["spec"]["selector"]["matchLabels"]
        assert all("from" in rule for rule in policy["ingress"]), "any client may connect"


def test_the_way_of_telemetry_is_open_and_no_other() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(rendered(BACKEND), "NetworkPolicy")}
    wanted = {
        "ai-otel-agent": ({4317, 4318, 8888}, {53, 4317, 443, 6443, 10250}),
        "ai-otel-gateway": ({4317, 4318, 8888}, {53, 4317}),
        "ai-otel-gateway-stateful": ({4317, 8888}, {53, 4317}),
        "ai-otel-cluster": ({8888}, {53, 4317, 443, 6443}),
    }
    declared = {name: (ports_of(policy["ingress"]), ports_of(policy["egress"])) for name, policy in policies.items()}
    assert declared == wanted
    (tier, _) = policies["ai-otel-gateway-stateful"]["ingress"]
    assert tier["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"


def test_backends_are_reached_on_their_own_ports() -> None:
    backends: Tree = {
        "otlp": {"endpoint": "a.example.com:4319", "signals": ["traces"]},
        "prometheus_remote_write": {"url": "https://b.example.com/push"},
        "kafka": {"brokers": ["c:9092", "d:9093"], "signals": ["logs"]},
        "prometheus": {},
    }
    roomy = {"gatewayStateful": {"persistence": {"size": "20Gi"}}}
    policy = one(rendered({"backends": backends, **roomy}), "NetworkPolicy", "ai-otel-gateway-stateful")["spec"]
    assert ports_of(policy["egress"]) == {53, 443, 4319, 9092, 9093}
    assert ports_of(policy["ingress"]) == {4317, 8888, 9464}


def test_the_certificate_is_good_for_every_name_that_senders_use() -> None:
    """That of the first tier and of the second, and that by which sidecars of other namespaces call the first."""
    authority = {"enabled": True, "issuer": {"name": "internal-ca"}}
    gpu = {"enabled": True, "image": {"repository": "registry.example.com/ai-otel"}}
    values = {"tls": {"certManager": authority}, "sidecar": {"enabled": True}, "gpuAgent": gpu}
    objects = rendered(merged(BACKEND, values))
    declared = dict(one(objects, "ConfigMap", "ai-otel-sidecar")["data"])
    asked = {declared["AI_OTEL_GATEWAY_ENDPOINT"]}
    names = ("AI_OTEL_GATEWAY_ENDPOINT", "AI_OTEL_STATEFUL_HOST", "OTEL_EXPORTER_OTLP_ENDPOINT")
    for _, _, container in chart_containers(objects):
        asked |= {entry["value"] for entry in container["env"] if entry["name"] in names}
    hosts = {address.removeprefix("https://").partition(":")[0] for address in asked}
    assert hosts == {"ai-otel-gateway", "ai-otel-gateway.ai-otel.svc", "ai-otel-gateway-stateful"}
    assert hosts <= set(one(objects, "Certificate", "ai-otel-tls")["spec"]["dnsNames"])


# ---------------------------------------------------------------- what stays up


def test_a_tier_never_loses_all_of_it_at_once() -> None:
    objects = rendered(merged(BACKEND, {"gateway": {"autoscaling": {"enabled": True}}}))
    for name in ("ai-otel-gateway", "ai-otel-gateway-stateful"):
        budget = one(objects, "PodDisruptionBudget", name)["spec"]
        assert budget["maxUnavailable"] == 1
        (workload,) = [each for each in of_kind(objects, *WORKLOADS) if each["metadata"]["name"] == name]
        assert budget["selector"] == workload["spec"]["selector"]
        spread = workload["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert [each["labelSelector"] for each in spread] == [workload["spec"]["selector"]] * 2
    scaler = one(objects, "HorizontalPodAutoscaler", "ai-otel-gateway")["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "ai-otel-gateway"}
    assert "replicas" not in one(objects, "Deployment", "ai-otel-gateway")["spec"]


# ---------------------------------------------------------------- the sidecar


def as_subchart(values: Tree, directory: Path) -> Tree:
    """What the templates of the sidecar render in a chart that depends on this one."""
    (directory / "templates").mkdir(parents=True)
    (directory / "Chart.yaml").write_text("{apiVersion: v2, name: chat, version: 0.0.0}")
    shutil.copytree(CHART, directory / "charts/ai-otel")
    declared = '(dict "root" (index .Subcharts "ai-otel") "engine" "vllm" "container" "server")'
    (directory / "templates/pod.yaml").write_text(
        f'initContainers: {{{{- include "ai-otel.sidecar" {declared} | nindent 2 }}}}\n'
        f'volumes: {{{{- include "ai-otel.sidecarVolumes" {declared} | nindent 2 }}}}\n'
    )
    (pod,) = parsed(template({"ai-otel": values}, "--show-only", "templates/pod.yaml", chart=directory))
    return pod


@pytest.mark.parametrize("example", ["sidecar-only", "restricted"])
def test_the_pod_of_an_example_has_what_the_template_gives(example: str, tmp_path: Path) -> None:
    values = yaml.safe_load((CHART / "examples" / example / "values.yaml").read_text())
    (deployment,) = parsed((CHART / "examples" / example / "pod.yaml").read_text())
    pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
    given = as_subchart(values, tmp_path / "chat")
    assert pod["initContainers"] == given["initContainers"]
    assert [volume for volume in pod["volumes"] if volume["name"].startswith("ai-otel-")] == given["volumes"]
    assert pod["initContainers"][0]["restartPolicy"] == "Always"


def test_what_a_sidecar_mounts_is_there(tmp_path: Path) -> None:
    """The ConfigMaps that the pod names are those that the chart makes, in every namespace that was asked for."""
    values = merged(BACKEND, {"sidecar": {"enabled": True, "engines": ["vllm", "ray_serve"], "namespaces": ["a", "b"]}})
    maps = of_kind(rendered(values), "ConfigMap")
    made = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in maps}
    names = ("ai-otel-sidecar", "ai-otel-sidecar-vllm", "ai-otel-sidecar-ray-serve")
    assert {(namespace, name) for namespace in "ab" for name in names} <= made
    pod = as_subchart(values, tmp_path / "chat")
    assert pod["volumes"][0]["configMap"]["name"] == "ai-otel-sidecar-vllm"
    assert pod["initContainers"][0]["envFrom"] == [{"configMapRef": {"name": "ai-otel-sidecar"}}]
