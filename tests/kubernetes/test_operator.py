"""The resources for the OpenTelemetry Operator, with the real one: what it makes of them is what the chart runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ai_otel.collector import fragments
from ai_otel.collector.compose import Selection
from generator.model import load
from generator.operator import configuration, sidecar
from harness.collector.process import validate
from harness.kubernetes.charts import KUSTOMIZE, of_kind, one, parsed
from harness.kubernetes.cluster import Cluster, Tree
from harness.kubernetes.workloads import pod_of

pytestmark = [
    pytest.mark.requires(part="kubernetes"),
    pytest.mark.requires(part="operator"),
    pytest.mark.requires(part="collector"),
    pytest.mark.requires(command="openssl", why="the Operator's webhooks show a certificate"),
]

OPERATOR = Path(__file__).parents[2] / "collector-config/kubernetes/operator"
NAMESPACE = "ai-otel"
ROLES = {"agent": "DaemonSet", "gateway": "Deployment", "gateway-stateful": "StatefulSet"}
BASES = {"agent": "agent", "gateway": "gateway", "gateway-stateful": "gateway"}


@pytest.fixture(scope="module")
def made(cluster: Cluster, operator: None) -> Iterator[dict[str, Tree]]:
    """What the Operator made of our Collectors, by role, in a namespace that admits "restricted" pods only."""
    space = {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    cluster.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": space}))
    for role in ROLES:
        cluster.apply((OPERATOR / f"generated/{role}.yaml").read_text())
    found = {
        role: cluster.wait_for(lambda role=role, kind=kind: workload(cluster, role, kind))
        for role, kind in ROLES.items()
    }
    yield found
    cluster.kubectl("delete", "opentelemetrycollector", "--all", "--namespace", NAMESPACE)
    for role in ROLES:
        cluster.kubectl("delete", "--ignore-not-found", "--filename", OPERATOR / f"generated/{role}.yaml")


def workload(cluster: Cluster, role: str, kind: str) -> Tree | None:
    items = cluster.get(kind, "--field-selector", f"metadata.name=ai-otel-{role}-collector", namespace=NAMESPACE)
    return items[0] if items else None


# ---------------------------------------------------------------- what we write


@pytest.mark.parametrize("path", sorted(OPERATOR.rglob("*.yaml")), ids=lambda path: str(path.relative_to(OPERATOR)))
def test_api_server_and_operator_take_every_resource_strictly(
    path: Path, cluster: Cluster, operator: None, made: dict[str, Tree]
) -> None:
    taken = cluster.dry_run(path.read_text())
    assert {tree["kind"] for tree in taken} >= {"Instrumentation" if "instr" in path.name else "OpenTelemetryCollector"}


def sidecar_of(engine: str) -> str:
    """What `tools/sidecar.py` writes for the engine."""
    (render,) = sidecar(engine).values()
    return render(load())


@pytest.mark.parametrize("engine", fragments.names("engines"))
def test_api_server_and_operator_take_every_sidecar(engine: str, cluster: Cluster, operator: None) -> None:
    (taken,) = cluster.dry_run(sidecar_of(engine))
    assert taken["kind"] == "OpenTelemetryCollector"


def test_a_sidecar_fits_into_a_variable() -> None:
    """The Operator hands over the configuration as one; Linux takes no longer one than 128 KiB."""
    sizes = {engine: len(sidecar_of(engine).encode()) for engine in fragments.names("engines")}
    assert max(sizes.values()) < 128 * 1024, sizes


# ---------------------------------------------------------------- what the Operator makes of it


@pytest.mark.parametrize("role", ROLES)
def test_the_configuration_that_runs_is_the_one_that_render_prints(
    role: str, cluster: Cluster, made: dict[str, Tree], tmp_path: Path
) -> None:
    volumes = made[role]["spec"]["template"]["spec"]["volumes"]
    (name,) = [volume["configMap"]["name"] for volume in volumes if "configMap" in volume]
    (config,) = cluster.get("configmap", "--field-selector", f"metadata.name={name}", namespace=NAMESPACE)
    found = config["data"]["collector.yaml"]
    assert as_written(found) == configuration(Selection(role.replace("-", "_")))
    (path := tmp_path / "collector.yaml").write_text(found)
    assert validate(path) == ""


def as_written(text: str) -> Tree:
    """What the Operator was given: it writes large numbers as floats, and says that the health page is at `/`."""
    tree = yaml.safe_load(re.sub(r"\b(\d+)e\+(\d+)\b", lambda found: str(int(float(found[0]))), text))
    assert tree["extensions"]["health_check"].pop("path") == "/"
    assert isinstance(tree, dict)
    return tree


@pytest.mark.parametrize("role", ROLES)
def test_the_pods_are_those_of_the_base(role: str, made: dict[str, Tree]) -> None:
    """As safe, as large, with the same variables and volumes; the Operator adds `POD_NAME` and ports."""
    (text,) = [(KUSTOMIZE / f"bases/{BASES[role]}/{name}.yaml").read_text() for name in (role,)]
    base = one(parsed(text), ROLES[role], f"ai-otel-{role}")["spec"]["template"]["spec"]
    pod = made[role]["spec"]["template"]["spec"]
    (expected,), (actual,) = base["containers"], pod["containers"]
    for key in ("securityContext", "serviceAccountName", "terminationGracePeriodSeconds", "tolerations"):
        assert pod.get(key) == base.get(key), key
    for key in ("image", "securityContext", "resources", "lifecycle"):
        assert actual[key] == expected[key], key
    names = [each["name"] for each in actual["env"]]
    assert names == [*(each["name"] for each in expected["env"]), "POD_NAME"]
    mounts = {mount["mountPath"] for mount in actual["volumeMounts"]}
    assert mounts == {mount["mountPath"] for mount in expected["volumeMounts"]} - {"/etc/ai-otel/config"} | {"/conf"}
    probe = {key: expected["livenessProbe"][key] for key in ("periodSeconds", "timeoutSeconds", "failureThreshold")}
    assert actual["livenessProbe"].items() >= {**probe}.items()
    assert actual["livenessProbe"]["httpGet"]["port"] == 13133


def test_restricted_pods_are_admitted(cluster: Cluster, made: dict[str, Tree]) -> None:
    """Those with a volume of their own then wait for one, which is not created here."""
    for role in ROLES:
        selector = f"app.kubernetes.io/instance={NAMESPACE}.ai-otel-{role}"
        wanted = len(cluster.get("nodes")) if role == "agent" else 2

        def pods(selector: str = selector) -> list[Tree]:
            return cluster.get("pods", "--selector", selector, namespace=NAMESPACE)

        assert cluster.wait_for(lambda pods=pods, wanted=wanted: len(pods()) >= wanted), role


def test_who_sends_to_whom_is_a_service_that_the_operator_makes(cluster: Cluster, made: dict[str, Tree]) -> None:
    services = {each["metadata"]["name"]: each["spec"] for each in cluster.get("services", namespace=NAMESPACE)}

    def variable_of(role: str, name: str) -> str:
        (container,) = made[role]["spec"]["template"]["spec"]["containers"]
        (value,) = [each["value"] for each in container["env"] if each["name"] == name]
        assert isinstance(value, str)
        return value

    host, _, port = variable_of("agent", "AI_OTEL_GATEWAY_ENDPOINT").partition(":")
    assert int(port) in {each["port"] for each in services[host]["ports"]}
    assert services[variable_of("gateway", "AI_OTEL_STATEFUL_HOST")]["clusterIP"] == "None"
    sidecar = yaml.safe_load((OPERATOR / "generated/sidecars/vllm.yaml").read_text())
    (goal,) = [e["value"] for e in sidecar["spec"]["env"] if e["name"] == "AI_OTEL_GATEWAY_ENDPOINT"]
    assert goal == f"{host}.{NAMESPACE}.svc:{port}"


@pytest.mark.parametrize("role", ROLES)
def test_network_policies_select_the_pods_that_the_operator_makes(role: str, made: dict[str, Tree]) -> None:
    trees = parsed((OPERATOR / f"generated/{role}.yaml").read_text())
    (policy,) = of_kind(trees, "NetworkPolicy")
    labels = made[role]["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    if role == "gateway-stateful":
        peers = [peer["podSelector"]["matchLabels"] for peer in policy["spec"]["ingress"][0]["from"]]
        first = made["gateway"]["spec"]["template"]["metadata"]["labels"]
        assert [peer.items() <= first.items() for peer in peers] == [True]


# ---------------------------------------------------------------- a pod that asks


def test_a_pod_that_asks_gets_library_and_sidecar_and_is_restricted(
    cluster: Cluster, operator: None, namespace: str
) -> None:
    pod = pod_of(cluster, namespace)
    sidecar, initial = pod["spec"]["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("otc-container", "Always")
    given = {each["name"]: each.get("value") for each in sidecar["env"]}
    assert as_written(given["OTEL_CONFIG"] or "") == configuration(Selection("sidecar", ("vllm",)))
    assert initial["command"] == ["cp", "-r", "/autoinstrumentation/.", "/otel-auto-instrumentation-python"]
    (server,) = pod["spec"]["containers"]
    found = {each["name"]: each.get("value") for each in server["env"]}
    assert (found["AI_OTEL_ENABLED"], found["OTEL_LOGS_EXPORTER"]) == ("true", "none")
    assert found["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://localhost:4318"
    assert (found["PYTHONPATH"] or "").endswith(":/otel-auto-instrumentation-python")
