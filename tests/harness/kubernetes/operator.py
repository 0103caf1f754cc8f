"""Runs the real OpenTelemetry Operator beside a cluster, with its own webhooks, as its installation has them."""

from __future__ import annotations

import base64
import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

import parts
from harness.certificates import Authority
from harness.kubernetes.cluster import Cluster, Tree
from harness.kubernetes.control_plane import answers, program
from harness.server import free_port


@contextmanager
def operator(cluster: Cluster, directory: Path) -> Iterator[Path]:
    """Run it until the block ends; where it writes its log. Its custom resources stay defined, its webhooks do not.

    A pod that it cannot inspect is refused: in its installation it would be admitted as it is.
    """
    found = parts.PARTS["operator"].find()
    assert found is not None, "mark the test with requires(part='operator')"
    directory.mkdir(parents=True, exist_ok=True)
    cluster.load_crds("opentelemetry")
    authority = Authority(directory / "authority", "who signs for the Operator")
    pair = authority.sign("operator", dns="localhost", ip="127.0.0.1", use="serverAuth")
    (served := directory / "k8s-webhook-server/serving-certs").mkdir(parents=True)  # it searches below TMPDIR
    shutil.copy(pair.certificate, served / "tls.crt")
    shutil.copy(pair.key, served / "tls.key")
    port, health = free_port(), free_port()
    command: list[str | Path] = [
        found / "bin/operator",
        f"--webhook-port={port}",
        f"--health-probe-addr=127.0.0.1:{health}",
        f"--metrics-addr=127.0.0.1:{free_port()}",
        "--enable-leader-election=false",
    ]
    environment = {"KUBECONFIG": str(cluster.kubeconfig), "TMPDIR": str(directory)}
    webhooks = json.dumps(_webhooks(found, f"https://127.0.0.1:{port}", authority.certificate))

    def ready() -> bool:
        return answers(f"http://127.0.0.1:{health}/readyz") and _listens(port)

    with program(command, (log := directory / "operator.log"), ready, environment):
        cluster.apply(webhooks)
        try:
            yield log
        finally:
            cluster.kubectl("delete", "--filename=-", stdin=webhooks)


def _webhooks(installed: Path, url: str, ca: Path) -> Tree:
    """The configurations of the Operator's own release, which name a service, for a process at `url`."""
    configurations = list(yaml.safe_load_all((installed / "webhooks/manifests.yaml").read_text()))
    for configuration in configurations:
        for webhook in configuration["webhooks"]:
            path = webhook["clientConfig"].pop("service")["path"]
            webhook["clientConfig"]["url"] = url + path
            webhook["clientConfig"]["caBundle"] = base64.b64encode(ca.read_bytes()).decode()
            webhook["failurePolicy"] = "Fail"
    return {"apiVersion": "v1", "kind": "List", "items": configurations}


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
