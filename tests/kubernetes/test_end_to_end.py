"""A pod that asks the real Operator for our library and our sidecar, run as it was admitted: real vLLM and Collectors.

Its containers are processes here, with the variables, files and commands that the API server stored. The gateway, to
which the sidecar sends with the certificate and the token of the pod's Secrets, is a real one, too.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import parts
from harness.clients.completions import Client, Sent
from harness.clients.vllm import FLOAT32, PROMPT, SERVED, chat, completion
from harness.collector import process as collectors
from harness.collector.process import Collector, attributes_of, composed, exports
from harness.collector.tiers import NAME, Credentials
from harness.kubernetes.cluster import Cluster, Tree
from harness.kubernetes.image import IN_IMAGE
from harness.kubernetes.pod import LocalPod
from harness.kubernetes.workloads import pod_of
from harness.overlay import overlaid
from harness.polling import eventually
from harness.server import Server, free_port

pytestmark = [
    pytest.mark.requires(part="kubernetes"),
    pytest.mark.requires(part="operator"),
    pytest.mark.requires(part="collector"),
    pytest.mark.requires(part="vllm"),
    pytest.mark.requires(command="openssl", why="servers show certificates"),
]

MODEL = "/models/tiny"
LATER = ("OTEL_METRIC_EXPORT_INTERVAL", "OTEL_BSP_SCHEDULE_DELAY")
"""Often rather than after a minute."""


@dataclass
class Scene:
    """An admitted pod with its volumes, and the gateway that waits for it."""

    pod: Tree
    local: LocalPod
    layout: Path
    """What the injection image holds."""
    gateway: Collector
    directory: Path
    port: int
    sidecar: str = ""
    """Where it takes OTLP, once it runs."""

    @contextmanager
    def running(self, python: Path, model: Path) -> Iterator[Server]:
        """As a kubelet would: the sidecar first, then the init container, then the server, beside the sidecar."""
        ports = {name: free_port() for name in ("health", "self", "grpc", "http")}
        here = {
            "AI_OTEL_GATEWAY_ENDPOINT": f"{NAME}:{self.gateway.ports['grpc']}",
            "AI_OTEL_ENGINE_TARGET": f"127.0.0.1:{self.port}",
            "AI_OTEL_HEALTH_LISTEN": f"127.0.0.1:{ports['health']}",
            "AI_OTEL_OTLP_GRPC": f"127.0.0.1:{ports['grpc']}",
            "AI_OTEL_OTLP_HTTP": f"127.0.0.1:{ports['http']}",
        }
        binary = {"/ai-otel-collector": collectors.binary()}
        image = {"python3": python, MODEL: model}
        sidecar = self.local.container("otc-container")
        # What the image's entrypoint is; no variable moves the page about itself, so the configuration does.
        sidecar["command"] = ["/ai-otel-collector"]
        (config,) = [each for each in sidecar["env"] if each["name"] == "OTEL_CONFIG"]
        config["value"] = config["value"].replace("port: 8888", f"port: {ports['self']}")
        log = self.directory / "sidecar.log"
        with self.local.running("otc-container", ports["health"], binary, here, log, health="/"):
            self.local.initialise("opentelemetry-auto-instrumentation-python", {IN_IMAGE: self.layout})
            server = self.local.container("server")
            self.sidecar = f"http://localhost:{ports['http']}"
            goal = {"OTEL_EXPORTER_OTLP_ENDPOINT": self.sidecar}
            log = self.directory / "server.log"
            assert server["command"][0] == "python3"
            with self.local.running("server", self.port, image, goal, log) as started:
                yield started

    def resources(self, signal: str) -> list[Tree]:
        """Of everything that the gateway has received."""
        received = exports(self.gateway.log.parent / "out.jsonl")
        return [attributes_of(each["resource"]) for export in received for each in export.get(signal, ())]

    def spans(self) -> list[Tree]:
        """All that the gateway has received."""
        received = exports(self.gateway.log.parent / "out.jsonl")
        listed = [each for export in received for each in export.get("resourceSpans", ())]
        return [span for each in listed for scope in each["scopeSpans"] for span in scope["spans"]]

    def identity(self) -> Tree:
        """What the conventions call the server's container."""
        metadata = self.pod["metadata"]
        return {
            "k8s.pod.name": metadata["name"],
            "k8s.pod.uid": metadata["uid"],
            "k8s.namespace.name": metadata["namespace"],
            "k8s.node.name": self.pod["spec"]["nodeName"],
            "k8s.container.name": "server",
            "service.namespace": metadata["namespace"],
            "service.instance.id": f"{metadata['namespace']}.{metadata['name']}.server",
        }


@pytest.fixture
def scene(cluster: Cluster, operator: None, namespace: str, injection_image: Path, tmp_path: Path) -> Iterator[Scene]:
    port = free_port()
    listed = {**SERVED, "HOME": str(tmp_path), **dict.fromkeys(LATER, "300")}
    command = ["python3", "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL, "--served-model-name", "tiny"]
    command += ["--enforce-eager", "--distributed-executor-backend", "uni", "--max-model-len", "512", *FLOAT32]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    env = [{"name": name, "value": value} for name, value in listed.items()]
    pod = pod_of(cluster, namespace, command=command, env=env)
    credentials = Credentials(tmp_path / "credentials")
    secrets = {
        "ai-otel-token/token": tmp_path / "credentials/token",
        "ai-otel-tls/ca.crt": credentials.receivers.certificate,
    }
    local = LocalPod(pod, tmp_path / "pod", secrets)
    tree = composed(role="gateway_stateful", without=("persistence",), backends=("file",))
    with collectors.running(tree, tmp_path / "gateway", credentials.environment) as gateway:
        yield Scene(pod, local, injection_image, gateway, tmp_path, port)


Overlay = Callable[..., Path]


@pytest.fixture
def overlay(vllm: parts.VllmEnvironment, tmp_path: Path) -> Overlay:
    """An interpreter with vLLM's packages and without ai-otel; with the given ones instead."""
    return lambda *instead: overlaid(vllm.python, tmp_path / "overlay", instead)


def test_admitted_pod_exports_through_its_sidecar_with_its_identity(
    scene: Scene, overlay: Overlay, vllm: parts.VllmEnvironment
) -> None:
    with scene.running(overlay(), vllm.model) as server:
        client = Client(server.url)
        client.run([Sent("chat", "/v1/chat/completions", chat(PROMPT, max_tokens=5))], concurrency=1)
        assert client.sent[0].status == 200
        eventually(lambda: scene.resources("resourceSpans"), 30, lambda: server.output()[-4000:])

        def measured() -> list[Tree]:
            """By the library, not read from the server's page."""
            listed = scene.resources("resourceMetrics")
            return [each for each in listed if each.get("telemetry.distro.name") == "ai-otel"]

        eventually(measured, 30, lambda: server.output()[-4000:])
        log = server.output()
    for resource in (*scene.resources("resourceSpans"), *measured()):
        assert resource.items() >= scene.identity().items()
        assert resource["service.name"] == "chat-model"
    assert client.sent[0].trace_id in {span["traceId"] for span in scene.spans()}
    assert "ai-otel: steps aside" not in log


OTHERS = {
    "opentelemetry": (
        "opentelemetry-api==1.20.0",
        "opentelemetry-sdk==1.20.0",
        "opentelemetry-semantic-conventions==0.41b0",
    ),
    "protobuf": ("protobuf==4.25.8",),
}


@pytest.mark.parametrize("what", OTHERS)
def test_beside_what_does_not_fit_vllm_serves_and_one_line_says_why(
    what: str, scene: Scene, overlay: Overlay, vllm: parts.VllmEnvironment
) -> None:
    with scene.running(overlay(*OTHERS[what]), vllm.model) as server:
        client = Client(server.url)
        client.run([Sent("text", "/v1/completions", completion(PROMPT, max_tokens=5))], concurrency=1)
        assert client.sent[0].status == 200
        # What arrives after all that the server may have sent.
        marker = {"name": "marker", "traceId": "1" * 32, "spanId": "1" * 16, "startTimeUnixNano": "1"}
        send(scene.sidecar, {"resourceSpans": [{"scopeSpans": [{"spans": [marker | {"endTimeUnixNano": "2"}]}]}]})
        eventually(scene.spans, 30)
        log = server.output()
    (line,) = [line for line in log.splitlines() if "ai-otel:" in line]
    name, _, version = OTHERS[what][0].partition("==")
    assert line.startswith(f"ai-otel: steps aside, the server runs without it: {name} {version} is installed")
    assert [span["name"] for span in scene.spans()] == ["marker"]
    assert [each for each in scene.resources("resourceMetrics") if "telemetry.distro.name" in each] == []


def send(url: str, spans: Tree) -> None:
    """As OTLP, to the sidecar of the pod."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/traces", json.dumps(spans).encode(), headers)
    urllib.request.urlopen(request, timeout=10).close()
