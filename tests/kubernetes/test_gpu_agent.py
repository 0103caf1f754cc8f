"""The GPU agent's pod, run as a process: its command and its environment, to a real gateway with TLS and token."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.collector.process import attributes_of, composed, exports, running
from harness.collector.tiers import NAME, Credentials
from harness.gpu import node, nvml
from harness.kubernetes.charts import BACKEND, Tree, merged, one, rendered
from harness.kubernetes.pod import variables
from harness.polling import eventually
from harness.server import end, free_port

pytestmark = [
    pytest.mark.requires(part="kubernetes"),
    pytest.mark.requires(part="collector"),
    pytest.mark.requires(command="openssl", why="the gateway shows a certificate"),
    pytest.mark.requires(**nvml.REQUIRES),
]


POD = {"metadata": {"name": "gpu-agent-x", "namespace": "ai-otel"}, "spec": {"nodeName": "node-1"}}


def container(mode: str) -> Tree:
    image = {"repository": "registry.example.com/ai-otel"}
    objects = rendered(merged(BACKEND, {"tls": {"mode": mode}, "gpuAgent": {"enabled": True, "image": image}}))
    (found,) = one(objects, "DaemonSet", "ai-otel-gpu-agent")["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


@contextmanager
def agent(given: Tree, environment: Mapping[str, str], directory: Path) -> Iterator[tuple[Path, int]]:
    """The container's command, with its log and the port of its page."""
    log, port = directory / "agent.log", free_port()
    here = {"AI_OTEL_AGENT_LISTEN": f"127.0.0.1:{port}", "OTEL_METRIC_EXPORT_INTERVAL": "500"}
    here |= {
        "AI_OTEL_GPU": "nvidia",
        **nvml.environment(node.scenario(), directory),
    }  # of a node without one it is silent
    program = Path(sys.executable).parent / given["command"][0]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *given["command"][1:]],
            env={"PATH": os.environ["PATH"], **environment, **here},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield log, port
    finally:
        end(process)


def healthy(given: Tree, port: int) -> bool:
    """As the kubelet asks."""
    probe = given["readinessProbe"]["httpGet"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{probe['path']}", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.mark.parametrize("mode", ["tls", "mtls"])
def test_it_is_let_in_with_what_its_pod_has(mode: str, tmp_path: Path) -> None:
    credentials = Credentials(tmp_path / "credentials")
    features = ("mtls",) if mode == "mtls" else ()
    tree = composed(role="gateway_stateful", features=features, without=("persistence",), backends=("file",))
    given = container(mode)
    with running(tree, tmp_path / "gateway", credentials.environment) as gateway:
        environment = variables(given, POD, {}, {"ai-otel-token/token": credentials.token})
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = environment["OTEL_EXPORTER_OTLP_ENDPOINT"].replace(
            "ai-otel-gateway:4317", f"{NAME}:{gateway.ports['grpc']}"
        )
        files = {
            "/etc/ai-otel/tls/ca.crt": credentials.receivers.certificate,
            "/etc/ai-otel/tls/tls.crt": credentials.sender.certificate,
            "/etc/ai-otel/tls/tls.key": credentials.sender.key,
        }
        environment = {name: str(files.get(value, value)) for name, value in environment.items()}
        with agent(given, environment, tmp_path) as (log, port):
            eventually(lambda: healthy(given, port), 30, log.read_text)
            eventually(
                lambda: exports(tmp_path / "gateway/out.jsonl"), 30, lambda: log.read_text() + gateway.output()[-3000:]
            )
    resource = attributes_of(exports(tmp_path / "gateway/out.jsonl")[0]["resourceMetrics"][0]["resource"])
    assert (resource["service.name"], resource["k8s.node.name"]) == ("ai-otel-agent", "node-1")
    assert "unknown setting" not in log.read_text()
