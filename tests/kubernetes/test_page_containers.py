"""Whose page the agent reads in a pod of several containers, on a real API server: once, and by its right name.

The discovery makes a target of every declared port and of every container without one, init containers too. Only if
they become equal is the page read once, so none of them shows which container serves it. The pod itself may say, or
have only one.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.collector.process import attributes_of, exports
from harness.kubernetes.agent import agent
from harness.kubernetes.cluster import Cluster, Tree
from harness.kubernetes.control_plane import POD_IP
from harness.polling import eventually

pytestmark = [
    pytest.mark.requires(part="kubernetes"),
    pytest.mark.requires(part="collector"),
    pytest.mark.requires(command="openssl", why="the API server shows a certificate"),
]

NODE = "containers-1"
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
PAGE = (Path(__file__).parents[1] / "engines/vllm/page.prom").read_bytes()
ROUNDS = 6
READ: Counter[str] = Counter()
"""How often the page of each address was read."""


class Page(http.server.BaseHTTPRequestHandler):
    """At every address of the machine the page of a vLLM."""

    def do_GET(self) -> None:
        READ[self.connection.getsockname()[0]] += 1
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        pass


def container(name: str, *ports: int, **more: str) -> Tree:
    return {"name": name, "image": f"{name}:1", "ports": [{"containerPort": port} for port in ports], **more}


@dataclass(frozen=True)
class Case:
    """The containers of a pod, what its annotations say besides, and the name that is known of it."""

    containers: list[Tree]
    init: list[Tree] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)
    known: str | None = None


def cases(port: int) -> dict[str, Case]:
    """By the pod's name; `port` is where its page is."""
    server, silent, proxy = container("server", port), container("server"), container("proxy", 9090)
    download = container("download")
    mesh = container("mesh", 15090, restartPolicy="Always")
    exporter = container("exporter", port, restartPolicy="Always")
    at = {"ai-otel.io/port": str(port)}
    says = {**at, "ai-otel.io/container": "server"}
    return {
        "alone": Case([server], annotations=at, known="server"),
        "alone-undeclared": Case([silent], annotations=at, known="server"),
        "server-first": Case([server, proxy], annotations=at),
        "proxy-first": Case([proxy, server], annotations=at),
        "two-ports": Case([container("server", port, 9000)], annotations=at, known="server"),
        "undeclared": Case([silent, proxy], annotations=at),
        "all-undeclared": Case([silent, container("proxy")], annotations=at),
        "with-init": Case([server], [download], annotations=at),
        "with-native-sidecar": Case([server], [mesh], annotations=at),
        "by-native-sidecar": Case([container("main", 8080)], [exporter], annotations=at),
        "default-port": Case([container("server", 8000), proxy]),  # no server answers there: `up` shows it
        "by-default": Case([proxy, server], annotations={**at, DEFAULT_CONTAINER: "server"}, known="server"),
        "not-by-default": Case([proxy, server], annotations={**says, DEFAULT_CONTAINER: "proxy"}, known="server"),
        "said-server-first": Case([server, proxy], annotations=says, known="server"),
        "said-proxy-first": Case([proxy, server], [download, mesh], annotations=says, known="server"),
        "said-undeclared": Case([silent, proxy], annotations=says, known="server"),
        "said-sidecar": Case(
            [container("main", 8080)], [exporter], {**at, "ai-otel.io/container": "exporter"}, "exporter"
        ),
        "said-default-port": Case(
            [container("server", 8000), proxy], annotations={"ai-otel.io/container": "server"}, known="server"
        ),
    }


@dataclass(frozen=True)
class Scene:
    """What the agent exported of each pod."""

    cases: dict[str, Case]
    addresses: dict[str, str]
    resources: dict[str, list[Tree]]
    """The different resources that its points came with."""
    up: dict[str, list[float]]
    """Every point of `up`."""


class Pages(http.server.ThreadingHTTPServer):
    """All pods are read at once: five waiting connections, as usual, are not enough."""

    request_queue_size = 128


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = Pages(("0.0.0.0", 0), Page)  # all of 127.0.0.0/8
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def scene(cluster: Cluster, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """All pods on one node, and the agent of this node until it has read each page some times."""
    namespace, directory = "page-containers", tmp_path_factory.mktemp("agent")
    cluster.add_node(NODE)
    cluster.kubectl("cordon", NODE)
    cluster.kubectl("create", "namespace", namespace)
    cluster.wait_for(lambda: cluster.get("serviceaccount", "default", namespace=namespace))
    there = cases(port)
    addresses = {name: f"127.0.77.{index}" for index, name in enumerate(there, 1)}
    pods = [pod(name, namespace, addresses[name], case) for name, case in there.items()]
    cluster.kubectl("create", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))
    cluster.wait_for(lambda: len(cluster.running("case", namespace)) == len(there), 60)
    yield read(cluster, directory, there, addresses)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")
    cluster.kubectl("delete", "node", NODE)


def pod(name: str, namespace: str, address: str, case: Case) -> Tree:
    annotations = {"ai-otel.io/engine": "vllm", POD_IP: address, **case.annotations}
    metadata = {"name": name, "namespace": namespace, "labels": {"case": name}, "annotations": annotations}
    spec = {"nodeName": NODE, "containers": case.containers, "initContainers": case.init}
    spec["terminationGracePeriodSeconds"] = 0
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def read(cluster: Cluster, directory: Path, there: dict[str, Case], addresses: dict[str, str]) -> Scene:
    """Let the agent run until every page was read often enough."""
    READ.clear()
    with agent(cluster, NODE, directory) as collector:

        def enough() -> bool:
            up = taken(directory)[1]
            return all(len(up.get(name, [])) >= ROUNDS for name in there)

        eventually(enough, 60, lambda: collector.output()[-3000:])
    return Scene(there, addresses, *taken(directory))


def taken(directory: Path) -> tuple[dict[str, list[Tree]], dict[str, list[float]]]:
    """Resources and points of `up`, by pod."""
    resources: dict[str, list[Tree]] = {}
    up: dict[str, list[float]] = {}
    for export in exports(directory / "out.jsonl"):
        for each in export["resourceMetrics"]:
            resource = attributes_of(each["resource"])
            name = resource["k8s.pod.name"]
            if resource not in resources.setdefault(name, []):
                resources[name].append(resource)
            metrics = [metric for scope in each["scopeMetrics"] for metric in scope["metrics"]]
            points = [point for metric in metrics if metric["name"] == "up" for point in metric["gauge"]["dataPoints"]]
            alive = [point for point in points if not point.get("flags")]  # with a flag the series has ended
            up.setdefault(name, []).extend(point["asDouble"] for point in alive)
    return resources, up


def test_a_page_is_one_instance_and_read_once_a_round(scene: Scene) -> None:
    """For every declaration of a pod's containers: one resource, and as many reads as of the pod that has one port.

    A second target would double them. A few more are reads before the pod was known, or whose point is on its way; on a
    busy machine a page may not be read in time, and `up` says so.
    """
    assert {name: len(resources) for name, resources in scene.resources.items()} == dict.fromkeys(scene.cases, 1)
    rounds = len(scene.up["alone"])
    for name, up in scene.up.items():
        assert abs(len(up) - rounds) <= ROUNDS / 2, name
        if "default-port" not in name:
            assert max(up) == 1, name
            assert READ[scene.addresses[name]] - len(up) <= ROUNDS / 2, name


def test_container_is_named_when_alone_or_named_by_its_pod(scene: Scene) -> None:
    """Never by the order of containers or ports, and never an init container that ended long ago."""
    names = {name: resource.get("k8s.container.name") for name, (resource, *_) in scene.resources.items()}
    assert names == {name: case.known for name, case in scene.cases.items()}


def test_the_instance_is_the_pods_or_its_containers_where_that_is_known(scene: Scene) -> None:
    """As the conventions write it, without what is unknown; `up` of an endpoint that is not served has the same."""
    for name, (resource, *_) in scene.resources.items():
        parts = [resource["k8s.namespace.name"], name, scene.cases[name].known]
        assert resource["service.instance.id"] == ".".join(part for part in parts if part)
    assert len({resource["service.instance.id"] for resource, *_ in scene.resources.values()}) == len(scene.cases)
