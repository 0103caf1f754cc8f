"""The agent on a node of a real API server: whose pages it finds, whose names they carry, and pods that come and go."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from harness.collector.process import Collector, attributes_of
from harness.kubernetes.agent import agent
from harness.kubernetes.cluster import Cluster, Tree
from harness.kubernetes.control_plane import POD_IP
from harness.polling import eventually

pytestmark = [
    pytest.mark.requires(part="kubernetes"),
    pytest.mark.requires(part="collector"),
    pytest.mark.requires(command="openssl", why="the API server shows a certificate"),
]

NODE, OTHER_NODE = "live-1", "live-2"
FAMILY = "vllm:num_requests_running"
WHOLE = (Path(__file__).parents[1] / "engines/vllm/page.prom").read_text().splitlines()
# One family is enough to know a page by; two hundred whole ones would be a load test.
LINES = [line for line in WHOLE if line.startswith((FAMILY, f"# HELP {FAMILY} ", f"# TYPE {FAMILY} "))]
BATCH, BATCHES = 200, 5


class Page(http.server.BaseHTTPRequestHandler):
    """At every address of the machine the page of a vLLM, which runs as many requests as its address counts."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        running_now = number(self.connection.getsockname()[0])
        lines = [line if line.startswith("#") else f"{line.rpartition(' ')[0]} {running_now}" for line in LINES]
        body = ("\n".join(lines) + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def number(address: str) -> int:
    """What its last two parts count."""
    *_, high, low = address.split(".")
    return int(high) * 256 + int(low)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Page)  # all of 127.0.0.0/8
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def nodes(cluster: Cluster) -> Iterator[Cluster]:
    """Two nodes of this test's own, on which nothing else is scheduled."""
    for node in (NODE, OTHER_NODE):
        cluster.add_node(node)
        cluster.kubectl("cordon", node)
    yield cluster
    cluster.kubectl("delete", "node", NODE, OTHER_NODE)


class Seen:
    """What the agent exported since the last read: the last resource of each pod, and its running requests."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        self.resources: dict[str, Tree] = {}
        self.requests: dict[str, float] = {}

    def forget(self) -> None:
        """Start again behind all that was exported so far."""
        self._at = self._path.stat().st_size
        self.resources, self.requests = {}, {}

    def read(self) -> Seen:
        """Go on to the end."""
        if not self._path.exists():
            return self
        with self._path.open("rb") as file:
            file.seek(self._at)
            text, end, _ = file.read().rpartition(b"\n")
        self._at += len(text) + len(end)
        for line in text.splitlines():
            self._take(json.loads(line))
        return self

    def _take(self, export: Tree) -> None:
        for each in export["resourceMetrics"]:
            resource = attributes_of(each["resource"])
            metrics = [metric for scope in each["scopeMetrics"] for metric in scope["metrics"]]
            points = [p for m in metrics if m["name"] == "ai_otel.request.running" for p in m["sum"]["dataPoints"]]
            for point in points:
                if not point.get("flags"):  # with a flag it says only that the series has ended
                    name = resource.get("k8s.pod.name", "unknown")
                    self.resources[name] = resource
                    self.requests[name] = float(point.get("asDouble", point.get("asInt", 0)))


def asks(port: int) -> dict[str, str]:
    return {"ai-otel.io/engine": "vllm", "ai-otel.io/port": str(port)}


SPEC = {"containers": [{"name": "server", "image": "vllm:1"}], "terminationGracePeriodSeconds": 0}


def pod(name: str, namespace: str, address: str, annotations: dict[str, str], node: str = NODE) -> Tree:
    metadata = {"name": name, "namespace": namespace, "annotations": {**annotations, POD_IP: address}}
    metadata["labels"] = {"batch": name.partition("-")[0]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**SPEC, "nodeName": node}}


def deployed(name: str, namespace: str, replicas: int, annotations: dict[str, str]) -> Tree:
    template = {"metadata": {"labels": {"app": name}, "annotations": annotations}, "spec": {**SPEC, "nodeName": NODE}}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def batch(label: str, namespace: str, port: int, count: int = BATCH) -> dict[str, Tree]:
    """Pods by name, each batch at the same addresses."""
    names = {f"{label}-{index}": f"127.0.{100 + index // 200}.{1 + index % 200}" for index in range(count)}
    return {name: pod(name, namespace, address, asks(port)) for name, address in names.items()}


def create(cluster: Cluster, namespace: str, pods: dict[str, Tree]) -> dict[str, Tree]:
    """Create them; as they are once all of them run."""
    cluster.kubectl(
        "create", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": [*pods.values()]})
    )
    selector = "batch=" + next(iter(pods)).partition("-")[0]
    cluster.wait_for(lambda: len(cluster.running(selector, namespace)) == len(pods), 60)
    return {each["metadata"]["name"]: each for each in cluster.running(selector, namespace)}


def test_it_reads_exactly_the_annotated_pods_of_its_node_and_names_them(
    nodes: Cluster, namespace: str, port: int, tmp_path: Path
) -> None:
    """Each page by its own value: the value of an address comes with the name of the pod that has the address."""
    nodes.apply(yaml.safe_dump(deployed("chat", namespace, 5, asks(port))))
    create(
        nodes,
        namespace,
        {
            **batch("other", namespace, port, 195),
            "other-node": pod("other-node", namespace, "127.0.9.1", asks(port), OTHER_NODE),
            "other-plain": pod("other-plain", namespace, "127.0.9.2", {}),
        },
    )
    nodes.wait_for(lambda: len(nodes.running("app=chat", namespace)) == 5)
    there = [*nodes.running("app=chat", namespace), *nodes.running("batch=other", namespace)]
    wanted = {each["metadata"]["name"]: each for each in there}
    del wanted["other-node"], wanted["other-plain"]
    assert len(wanted) == BATCH
    seen = Seen(tmp_path / "out.jsonl")
    with agent(nodes, NODE, tmp_path, every="2s") as collector:
        eventually(lambda: len(seen.read().resources) >= BATCH, 60, lambda: collector.output()[-3000:])
        seen.forget()  # another round: what was not to be found had its time
        eventually(lambda: len(seen.read().resources) >= BATCH, 30)
    assert set(seen.resources) == set(wanted)
    for name, each in wanted.items():
        attributes = seen.resources[name]
        assert seen.requests[name] == number(each["status"]["podIP"])
        assert attributes["k8s.pod.uid"] == each["metadata"]["uid"]
        assert (attributes["k8s.namespace.name"], attributes["k8s.node.name"]) == (namespace, NODE)
        assert attributes.get("k8s.deployment.name") == ("chat" if name.startswith("chat-") else None)
        assert attributes["k8s.container.name"] == "server"
        assert attributes["service.instance.id"] == f"{namespace}.{name}.server"


def test_a_thousand_pods_come_and_go_and_leave_nothing(
    nodes: Cluster, namespace: str, port: int, tmp_path: Path
) -> None:
    """Every batch takes over the addresses of the one before, and is reported by its own names; memory stays."""
    seen = Seen(tmp_path / "out.jsonl")
    resident = []
    with agent(nodes, NODE, tmp_path, every="2s") as collector:
        for index in range(BATCHES):
            alive = create(nodes, namespace, batch(f"b{index}", namespace, port))
            if index in (0, BATCHES - 1):
                eventually(lambda: alive.keys() <= seen.read().resources.keys(), 60, lambda: collector.output()[-3000:])  # noqa: B023
                resident.append(resident_bytes(collector))
            if index < BATCHES - 1:
                gone = f"/api/v1/namespaces/{namespace}/pods?labelSelector=batch=b{index}"
                nodes.kubectl("delete", "--raw", gone)
                nodes.wait_for(lambda: not nodes.running(f"batch=b{index}", namespace), 60)  # noqa: B023
        seen.forget()
        eventually(lambda: alive.keys() <= seen.read().resources.keys(), 30)
        assert set(seen.resources) == set(alive)
        assert {name: attributes["k8s.pod.uid"] for name, attributes in seen.resources.items()} == {
            name: each["metadata"]["uid"] for name, each in alive.items()
        }
        assert seen.requests == {name: number(each["status"]["podIP"]) for name, each in alive.items()}
    before, after = resident
    print(f"resident: {before / 2**20:.0f} MiB before, {after / 2**20:.0f} MiB after")
    assert after < before * 1.3


def resident_bytes(collector: Collector) -> int:
    """Resident memory of the process."""
    (line,) = [
        line for line in Path(f"/proc/{collector.process.pid}/status").read_text().splitlines() if "VmRSS" in line
    ]
    return int(line.split()[1]) * 1024
