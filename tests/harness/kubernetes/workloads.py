"""Workloads of users with ai-otel injected, what a container of one is started with, and what Python says there."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from harness.kubernetes.charts import KUSTOMIZE, Tree, kustomized, parsed
from harness.kubernetes.cluster import Cluster

SERVER = """
apiVersion: apps/v1
kind: KIND
metadata: {name: chat, labels: {}}
spec:
  selector: {matchLabels: {app: chat}}
  template:
    metadata:
      labels: {app: chat}
      annotations: {kubectl.kubernetes.io/default-container: server}
    spec:
      securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
      containers:
        - &server
          name: server
          image: server:1
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
        - {<<: *server, name: proxy}
"""


def server(label: str, *env: Tree, kind: str = "Deployment", engine: str = "") -> Tree:
    """A user's workload before ai-otel is added."""
    (tree,) = parsed(SERVER.replace("KIND", kind))
    tree["metadata"]["labels"] = {"ai-otel.io/inject": label, **({"ai-otel.io/sidecar": engine} if engine else {})}
    if env:
        tree["spec"]["template"]["spec"]["containers"][0]["env"] = list(env)
    return tree


def with_components(place: Path, tree: Tree, *components: str, namespace: str = "models") -> list[Tree]:
    """What Kustomize makes of it."""
    place.mkdir(parents=True, exist_ok=True)
    shutil.copytree(KUSTOMIZE, place / "ai-otel")
    (place / "server.yaml").write_text(yaml.safe_dump(tree))
    resources = ["server.yaml", *(["ai-otel/bases/sidecar"] if any("sidecar" in name for name in components) else [])]
    chosen = [f"ai-otel/components/{name}" for name in components]
    whole = {"namespace": namespace, "resources": resources, "components": chosen}
    (place / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    return kustomized(place)


SAYS = """
import json, sys
from ai_otel.resource import build
from ai_otel.settings import Environment
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
resource = build(Environment.read(), "vllm")
provider = TracerProvider(resource=resource)
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
provider.get_tracer("test").start_span("one").end()
started = "ai_otel.hooks.imports" in sys.modules
print(json.dumps({"started": started, "resource": dict(resource.attributes), "path": sys.path}))
"""


def ran(python: Path, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [python, "-c", SAYS],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def identity(pod: Tree) -> Tree:
    """What the conventions call this pod's first container."""
    metadata = pod["metadata"]
    return {
        "k8s.pod.name": metadata["name"],
        "k8s.pod.uid": metadata["uid"],
        "k8s.namespace.name": metadata["namespace"],
        "k8s.node.name": pod["spec"]["nodeName"],
        "k8s.container.name": "server",
        "service.namespace": metadata["namespace"],
        "service.instance.id": f"{metadata['namespace']}.{metadata['name']}.server",
    }


OPERATOR = KUSTOMIZE.parent / "operator"
ASKING = """
apiVersion: v1
kind: Pod
metadata:
  name: chat
  annotations:
    instrumentation.opentelemetry.io/inject-python: ai-otel
    sidecar.opentelemetry.io/inject: SIDECAR
    resource.opentelemetry.io/service.name: chat-model
    kubectl.kubernetes.io/default-container: server
    ai-otel.io/library: "true"
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: server
      image: registry.example.com/vllm:1
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"""


def pod_of(cluster: Cluster, namespace: str, sidecar: str = "ai-otel-vllm", **container: object) -> Tree:
    """As the API server stores a pod that asks the Operator for both, where "restricted" is enforced."""
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    for name in ("instrumentation", "generated/sidecars/vllm"):
        cluster.kubectl("apply", "--server-side", "--namespace", namespace, "--filename", OPERATOR / f"{name}.yaml")
    (pod,) = parsed(ASKING.replace("SIDECAR", sidecar))
    pod["metadata"]["namespace"] = namespace
    pod["spec"]["containers"][0] |= container
    cluster.apply(yaml.safe_dump(pod))
    (stored,) = cluster.wait_for(lambda: cluster.get("pods", namespace=namespace))
    assert isinstance(stored, dict)
    return stored
