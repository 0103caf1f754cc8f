"""
Writes the OpenTelemetry Operator's resources: the same Collectors as the Kustomize bases', as `OpenTelemetryCollector`.

Everything a resource says is taken from the base that it stands for, and its configuration from the parts, so neither
can differ. What the Operator makes by itself (services, the ConfigMap and its mount, the probes' paths) is left to it.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from ai_otel.collector.compose import Selection, compose
from ai_otel.collector.text import dumped
from generator.kustomize import EXAMPLES, GENERATED, HOME as KUSTOMIZE, SIDECAR
from generator.model import ROOT, Contract, Tree

HOME = "collector-config/kubernetes/operator"
NAMESPACE = "ai-otel"

Render = Callable[[Contract], str]

MODES = {"DaemonSet": "daemonset", "Deployment": "deployment", "StatefulSet": "statefulset"}
BASES = {
    "agent": ("agent", ("agent.yaml", "rbac.yaml")),
    "gateway": ("gateway", ("gateway.yaml",)),
    "gateway_stateful": ("gateway", ("gateway-stateful.yaml",)),
}
"""Role → its base, and the files there that say what it is."""
SERVICES = {
    "ai-otel-gateway:4317": "ai-otel-gateway-collector:4317",
    "ai-otel-gateway-stateful": "ai-otel-gateway-stateful-collector-headless",
}
"""Names of services in our environment → as the Operator calls them."""
ALIKE = ("tolerations", "terminationGracePeriodSeconds", "topologySpreadConstraints")


def outputs(_: Contract) -> dict[str, Render]:
    """Every generated file below `operator/`."""
    return {
        **{f"{HOME}/generated/{role.replace('_', '-')}.yaml": functools.partial(_collector, role) for role in BASES},
        **{name: render for engine in EXAMPLES for name, render in sidecar(engine).items()},
    }


def sidecar(engine: str) -> dict[str, Render]:
    """The resource of an engine's sidecar."""
    return {f"{HOME}/generated/sidecars/{engine}.yaml": functools.partial(_sidecar, engine)}


def orphans(contract: Contract, root: Path = ROOT) -> Iterator[Path]:
    """Sidecars of engines that are there no more."""
    for path in (root / HOME / "generated/sidecars").glob("*.yaml"):
        if path.stem not in contract.engines:
            yield path


def _collector(role: str, _: Contract) -> str:
    base, names = BASES[role]
    texts = [(ROOT / KUSTOMIZE / "bases" / base / name).read_text(encoding="utf-8") for name in names]
    given = [tree for text in texts for tree in yaml.safe_load_all(text)]
    (workload,) = [tree for tree in given if tree["kind"] in MODES]
    kept = [tree for tree in given if tree["kind"] in {"ServiceAccount", "ClusterRole", "ClusterRoleBinding"}]
    kept += [_policy(tree, workload) for tree in given if tree["kind"] == "NetworkPolicy"]
    for tree in kept:
        if tree["kind"] in {"ServiceAccount", "NetworkPolicy"}:
            tree["metadata"]["namespace"] = NAMESPACE
        if tree["kind"] == "ServiceAccount":
            # A resource has no such switch for its pods, so the account has it.
            tree["automountServiceAccountToken"] = workload["spec"]["template"]["spec"]["automountServiceAccountToken"]
    trees = [*kept, _resource(role, workload)]
    text = "---\n".join(_text(tree) for tree in trees)
    return f"{GENERATED}\n{text}"


def _resource(role: str, workload: Tree) -> Tree:
    spec, pod = workload["spec"], workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    fields = {
        "mode": MODES[workload["kind"]],
        "serviceAccount": pod["serviceAccountName"],
        "podSecurityContext": pod["securityContext"],
        **{key: pod[key] for key in ALIKE if key in pod},
        **_of_the_container(container),
        "volumes": [volume for volume in pod["volumes"] if volume["name"] != "config"],
    }
    if workload["kind"] == "DaemonSet":
        fields["daemonSetUpdateStrategy"] = spec["updateStrategy"]
    elif "replicas" in spec:
        fields["replicas"] = spec["replicas"]
    if workload["kind"] == "StatefulSet":
        fields["volumeClaimTemplates"] = spec["volumeClaimTemplates"]
        fields["persistentVolumeClaimRetentionPolicy"] = spec["persistentVolumeClaimRetentionPolicy"]
    if workload["kind"] != "DaemonSet":
        fields["podDisruptionBudget"] = {"maxUnavailable": 1}
    return _named(workload["metadata"]["name"], fields, Selection(role), namespace=NAMESPACE)


def _sidecar(engine: str, _: Contract) -> str:
    pod = yaml.safe_load(SIDECAR.replace("CONFIG", "config"))["spec"]["template"]["spec"]
    (container,) = pod["initContainers"]
    fields = {
        "mode": "sidecar",
        **_of_the_container(container),
        "volumes": [volume for volume in pod["volumes"] if volume["name"] != "ai-otel-config"],
    }
    fields["env"] += [
        {"name": "GOMEMLIMIT", "value": "409MiB"},
        {"name": "AI_OTEL_HEALTH_LISTEN", "value": "0.0.0.0:13133"},
        {"name": "AI_OTEL_GATEWAY_ENDPOINT", "value": f"ai-otel-gateway-collector.{NAMESPACE}.svc:4317"},
        # Whether ai-otel is in the server, so that nothing is counted twice; and as what the Operator names the server.
        _annotation("AI_OTEL_LIBRARY", "ai-otel.io/library"),
        _annotation("OTEL_SERVICE_NAME", "resource.opentelemetry.io/service.name"),
    ]
    name = f"ai-otel-{engine.replace('_', '-')}"
    about = f"# A sidecar for {engine}: sidecar.opentelemetry.io/inject: {name}"
    return f"{GENERATED}\n{about}\n{_text(_named(name, fields, Selection('sidecar', (engine,))))}"


def _annotation(variable: str, name: str) -> Tree:
    """Empty where the pod has no such annotation."""
    return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{name}']"}}}


def _of_the_container(container: Tree) -> dict[str, Any]:
    mounts = [mount for mount in container["volumeMounts"] if mount["mountPath"] != "/etc/ai-otel/config"]
    env = [
        {**each, "value": SERVICES.get(each["value"], each["value"])} if "value" in each else each
        for each in container["env"]
    ]
    return {
        "image": container["image"],
        "imagePullPolicy": container["imagePullPolicy"],
        "env": env,
        "resources": container["resources"],
        "securityContext": container["securityContext"],
        **({"lifecycle": container["lifecycle"]} if "lifecycle" in container else {}),
        # The path and the port it reads out of the configuration.
        **{
            probe: {key: value for key, value in container[probe].items() if key != "httpGet"}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe")
            if probe in container
        },
        "volumeMounts": mounts,
    }


def _named(name: str, fields: dict[str, Any], selection: Selection, namespace: str | None = None) -> Tree:
    where = {} if namespace is None else {"namespace": namespace}
    labels = {"app.kubernetes.io/part-of": "ai-otel"}
    return {
        "apiVersion": "opentelemetry.io/v1beta1",
        "kind": "OpenTelemetryCollector",
        "metadata": {"name": name, **where, "labels": labels},
        # Never changed by the Operator when it is itself updated: a configuration fits one version.
        "spec": {"upgradeStrategy": "none", **fields, "config": configuration(selection)},
    }


def configuration(selection: Selection) -> Tree:
    """Of a selection. If the Operator cannot read the address of the page about itself, it replaces all telemetry."""
    tree = compose(selection).tree
    for reader in tree["service"]["telemetry"]["metrics"]["readers"]:
        reader["pull"]["exporter"]["prometheus"] |= {"host": "0.0.0.0", "port": 8888}  # noqa: S104 - in a pod
    return tree


def _policy(policy: Tree, workload: Tree) -> Tree:
    """For the pods that the Operator makes."""
    name = workload["metadata"]["name"]
    policy["spec"]["podSelector"] = {"matchLabels": {"app.kubernetes.io/instance": f"{NAMESPACE}.{name}"}}
    for rule in policy["spec"]["ingress"]:
        for peer in rule["from"]:
            selected = peer.get("podSelector", {}).get("matchLabels", {})
            if component := selected.get("app.kubernetes.io/component"):
                labels = {"app.kubernetes.io/instance": f"{NAMESPACE}.ai-otel-{component}"}
                peer["podSelector"] = {"matchLabels": labels}
    return policy


def _text(tree: Tree) -> str:
    """YAML of a resource; long components of its configuration are packed."""
    if "config" not in tree.get("spec", {}):
        return dumped(tree)
    config = dumped(tree["spec"]["config"], packed=True)
    without = {**tree, "spec": {key: value for key, value in tree["spec"].items() if key != "config"}}
    return f"{dumped(without)}  config:\n{textwrap.indent(config, '    ')}"
