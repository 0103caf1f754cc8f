"""
Writes the configurations of the Kustomize bases and components.

Kustomize cannot join parts, but the Collector can read several files: later ones win, maps are merged, lists replaced.
So a base has the complete file of its role, and a component adds a small file with what its feature changes. Two
components of one base may be used together where they change no list that the other changes too; tests/kubernetes tries
every set of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from ai_otel.collector.compose import Selection, compose, write
from ai_otel.collector.text import dumped
from generator.model import ROOT, Contract, Tree
from generator.normaliser import dump

HOME = "collector-config/kubernetes/kustomize"
EXAMPLES = ("vllm", "sglang")
"""Engines whose sidecars are committed; `python tools/sidecar.py ENGINE` writes any other."""
GENERATED = "# Generated from the parts in collector-config/ by `make generate`. Do not edit."

Render = Callable[[Contract], str]

ROLES = {
    "agent": "bases/agent/generated",
    "cluster": "bases/cluster/generated",
    "gateway": "bases/gateway/generated/gateway",
    "gateway_stateful": "bases/gateway/generated/gateway-stateful",
}


@dataclass(frozen=True)
class Change:
    """What a component changes in the configuration of a role, and the file in which it says so."""

    role: str
    feature: str
    component: str

    @property
    def path(self) -> str:
        """Where two roles are in one component, each has a file of its own."""
        is_alone = [change.component for change in CHANGES].count(self.component) == 1
        end = "-stateful" if self.role == "gateway_stateful" and not is_alone else ""
        return f"components/{self.component}/generated/{self.component.rpartition('/')[2]}{end}.yaml"


CHANGES = (
    Change("gateway", "redaction", "gateway/redaction"),
    Change("gateway_stateful", "names", "gateway/names"),
    Change("gateway_stateful", "tail_sampling", "gateway/tail-sampling"),
    Change("gateway_stateful", "span_to_metric", "gateway/span-to-metric"),
    *(
        Change(role, feature, f"{base}/{feature}")
        for feature in ("mtls", "local")
        for role, base in {
            "agent": "agent",
            "cluster": "cluster",
            "gateway": "gateway",
            "gateway_stateful": "gateway",
            "sidecar": "sidecar",
        }.items()
    ),
)


def outputs(_: Contract) -> dict[str, Render]:
    """Every generated file below `kustomize/`, to be written after all that it is made of."""
    files: dict[str, Render] = {
        f"{HOME}/{directory}/collector.yaml": functools.partial(_complete, Selection(role))
        for role, directory in ROLES.items()
    }
    for change in CHANGES:
        files[f"{HOME}/{change.path}"] = functools.partial(_change, change)
    for engine in EXAMPLES:
        files |= sidecar(engine)
    files[f"{HOME}/components/monitoring/generated/alerts.yaml"] = _alerts
    return files


def sidecar(engine: str) -> dict[str, Render]:
    """The component of an engine's sidecar."""
    directory = f"{HOME}/components/sidecar/generated/{engine}"
    return {
        f"{directory}/collector.yaml": functools.partial(_complete, Selection("sidecar", (engine,))),
        f"{directory}/kustomization.yaml": functools.partial(_sidecar_component, engine),
        f"{directory}/sidecar.yaml": functools.partial(_sidecar_patch, engine),
    }


def orphans(contract: Contract, root: Path = ROOT) -> Iterator[Path]:
    """Sidecars of engines that are there no more."""
    for folder in (root / HOME / "components/sidecar/generated").glob("*"):
        if folder.name not in contract.engines:
            yield from folder.glob("*.yaml")


def _complete(selection: Selection, _: Contract) -> str:
    return write(compose(selection), selection, packed=True)


def _change(change: Change, _: Contract) -> str:
    before = compose(Selection(change.role)).tree
    after = compose(Selection(change.role, features=(change.feature,))).tree
    tree = changed(before, after)
    for name, extension in tree.get("extensions", {}).items():
        if extension is None:
            # The Collector checks also what it does not start, so it cannot be taken out, only made harmless.
            tree["extensions"][name] = {"filename": "/dev/null"}
    about = f"# What the feature {change.feature} changes in the role {change.role}."
    return f"{GENERATED}\n{about}\n{dumped(tree, packed=True)}"


def changed(before: Tree, after: Tree) -> Tree:
    """What must be laid over `before` to get `after`: maps are merged, `null` takes out, all else is replaced."""
    tree: Tree = {}
    for key, value in after.items():
        if isinstance(value, dict) and isinstance(before.get(key), dict):
            tree[key] = changed(before[key], value)
        elif key not in before or before[key] != value:
            tree[key] = value
    tree |= {key: None for key in before if key not in after}
    return {key: value for key, value in tree.items() if value != {} or before.get(key) != after.get(key)}


# ---------------------------------------------------------------- sidecars


def name_of(engine: str) -> str:
    """The ConfigMap of an engine's sidecar, as the chart calls it."""
    return f"ai-otel-sidecar-{engine.replace('_', '-')}"


def _sidecar_component(engine: str, _: Contract) -> str:
    tree = {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "configMapGenerator": [{"name": name_of(engine), "files": ["collector.yaml"]}],
        "patches": [
            {"path": "sidecar.yaml", "target": {"kind": kind, "labelSelector": f"ai-otel.io/sidecar={engine}"}}
            for kind in ("Deployment", "StatefulSet")
        ],
    }
    about = f"# A sidecar for {engine} in every Deployment and StatefulSet with the label ai-otel.io/sidecar: {engine}."
    return f"{GENERATED}\n{about}\n{dump(tree)}"


def _sidecar_patch(engine: str, _: Contract) -> str:
    return GENERATED + SIDECAR.replace("CONFIG", name_of(engine))


SIDECAR = """
# A native sidecar: it starts before the server and ends after it.
apiVersion: apps/v1
kind: any
metadata: {name: any}
spec:
  template:
    spec:
      initContainers:
        - name: ai-otel
          restartPolicy: Always
          image: otel/opentelemetry-collector-contrib:0.161.0
          imagePullPolicy: IfNotPresent
          args: [--config=/etc/ai-otel/config/collector.yaml]
          envFrom:
            - configMapRef: {name: ai-otel-sidecar}
          env:
            # The server's container, where the pod says which of several it is.
            - name: K8S_CONTAINER_NAME
              valueFrom: {fieldRef: {fieldPath: "metadata.annotations['kubectl.kubernetes.io/default-container']"}}
            - name: K8S_NAMESPACE_NAME
              valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
            - name: K8S_NODE_NAME
              valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
            - name: K8S_POD_NAME
              valueFrom: {fieldRef: {fieldPath: metadata.name}}
            - name: K8S_POD_UID
              valueFrom: {fieldRef: {fieldPath: metadata.uid}}
          ports:
            - {name: ai-otel-health, containerPort: 13133, protocol: TCP}
            - {name: ai-otel-metrics, containerPort: 8888, protocol: TCP}
          startupProbe:
            httpGet: {path: /, port: ai-otel-health}
            periodSeconds: 2
            failureThreshold: 30
          livenessProbe:
            httpGet: {path: /, port: ai-otel-health}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          resources:
            limits: {memory: 512Mi}
            requests: {cpu: 50m, memory: 128Mi}
          securityContext:
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL]}
            privileged: false
            readOnlyRootFilesystem: true
            runAsNonRoot: true
            runAsUser: 10001
            runAsGroup: 10001
            seccompProfile: {type: RuntimeDefault}
          volumeMounts:
            - {name: ai-otel-config, mountPath: /etc/ai-otel/config, readOnly: true}
            - {name: ai-otel-queue, mountPath: /var/lib/ai-otel}
            - {name: ai-otel-tls, mountPath: /etc/ai-otel/tls, readOnly: true}
            - {name: ai-otel-token, mountPath: /var/run/secrets/ai-otel, readOnly: true}
      volumes:
        - name: ai-otel-config
          configMap: {name: CONFIG}
        - name: ai-otel-queue
          emptyDir: {sizeLimit: 3Gi}
        - name: ai-otel-tls
          secret:
            secretName: ai-otel-tls
            defaultMode: 0444
            items:
              - {key: ca.crt, path: ca.crt}
        - name: ai-otel-token
          secret:
            secretName: ai-otel-token
            defaultMode: 0444
            items:
              - {key: token, path: token}
"""


def _alerts(_: Contract) -> str:
    rules = yaml.safe_load((ROOT / "collector-config/kubernetes/chart/files/alerts.yaml").read_text(encoding="utf-8"))
    labels = {
        "app.kubernetes.io/name": "ai-otel",
        "app.kubernetes.io/component": "alerts",
        "app.kubernetes.io/part-of": "ai-otel",
    }
    tree = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "ai-otel-alerts", "labels": labels},
        "spec": {"groups": rules["groups"]},
    }
    source = "collector-config/kubernetes/chart/files/alerts.yaml"
    return f"# Generated from {source} by `make generate`. Do not edit.\n{dump(tree)}"
