"""Metrics endpoints that ask for more than an address: query parameters, a bearer token, TLS, IPv6."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from harness.certificates import Authority
from harness.collector.agent import agent, pod
from harness.collector.process import Tree, attributes_of, composed, exports, running
from harness.ipv6 import needs_ipv6
from harness.polling import eventually

pytestmark = pytest.mark.requires(part="collector")

PAGE = '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name="m"} 3\n'
TOKEN = "a-token"
OFTEN = {"AI_OTEL_SCRAPE_INTERVAL": "1s", "AI_OTEL_SCRAPE_TIMEOUT": "1s", "K8S_NODE_NAME": "node-1"}


class Strict:
    """A server that gives its page only to who asks with this query and this token, or sends all elsewhere."""

    def __init__(
        self, host: str, query: Mapping[str, str], token: str, context: ssl.SSLContext | None, elsewhere: str
    ) -> None:
        self.asked: list[tuple[str, str]] = []
        """Path with query, and the authorization, of each request."""
        strict = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                authorization = self.headers.get("Authorization", "")
                strict.asked.append((self.path, authorization))
                given = urlsplit(self.path)
                if elsewhere and self.path != urlsplit(elsewhere).path:
                    self.send_response(307)
                    self.send_header("Location", elsewhere)
                    self.end_headers()
                elif authorization != (f"Bearer {token}" if token else ""):
                    self.send_error(401)
                elif given.path != "/inner/metrics" or dict(parse_qsl(given.query)) != query:
                    self.send_error(404)
                else:
                    self.send_response(200)
                    self.send_header("Content-Type", "text/plain; version=0.0.4")
                    self.end_headers()
                    self.wfile.write(PAGE.encode())

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        self.server = Server((host, 0), Handler)
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = str(self.server.server_address[1])


@contextmanager
def strict(
    host: str = "127.0.0.1",
    query: Mapping[str, str] | None = None,
    token: str = "",
    context: ssl.SSLContext | None = None,
    elsewhere: str = "",
) -> Iterator[Strict]:
    one = Strict(host, query or {}, token, context, elsewhere)
    threading.Thread(target=one.server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield one
    finally:
        one.server.shutdown()
        one.server.server_close()


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (file := tmp_path_factory.mktemp("token") / "token").write_text(f"{TOKEN}\n")
    return file


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "ca", "authority")


def tls(authority: Authority, name: str) -> ssl.SSLContext:
    pair = authority.sign(name, dns="engine.example", use="serverAuth")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


def values(directory: Path) -> dict[str, dict[str, float]]:
    """Of each pod, or of the one server, the last value of each metric."""
    found: dict[str, dict[str, float]] = {}
    for export in exports(directory / "out.jsonl"):
        for each in export.get("resourceMetrics", ()):
            one = found.setdefault(attributes_of(each["resource"]).get("k8s.pod.name", ""), {})
            for scope in each["scopeMetrics"]:
                for metric in scope["metrics"]:
                    (kind,) = {"gauge", "sum"} & metric.keys()
                    point = metric[kind]["dataPoints"][-1]
                    one[metric["name"]] = float(point.get("asDouble", point.get("asInt", 0)))
    return found


def read(tree: Tree, directory: Path, environment: Mapping[str, str], wanted: set[str]) -> dict[str, Any]:
    """What came of every pod of `wanted`."""
    with running(tree, directory, {**OFTEN, **environment}) as collector:
        eventually(lambda: wanted <= values(directory).keys(), 30, lambda: collector.output()[-3000:])
    return values(directory)


def sidecar() -> Tree:
    return composed(
        role="sidecar", engines=("vllm",), features=("local",), without=("persistence",), backends=("file",)
    )


@pytest.mark.fault(
    "collector",
    "an engine's page has query parameters in its path, asks for a bearer token, and is served with TLS",
    "the sidecar reads it with AI_OTEL_ENGINE_PATH, _TOKEN_FILE, _SCHEME and _CA_FILE",
)
@pytest.mark.requires(command="openssl", why="the page is served with TLS")
def test_the_sidecar_shows_what_a_page_asks_for(tmp_path: Path, token_file: Path, authority: Authority) -> None:
    query = {"model": "qwen", "format": "prometheus"}
    with strict(query=query, token=TOKEN, context=tls(authority, "sidecar")) as page:
        environment = {
            "AI_OTEL_ENGINE_TARGET": f"127.0.0.1:{page.port}",
            "AI_OTEL_ENGINE_PATH": "/inner/metrics?model=qwen&format=prometheus",
            "AI_OTEL_ENGINE_TOKEN_FILE": str(token_file),
            "AI_OTEL_ENGINE_SCHEME": "https",
            "AI_OTEL_ENGINE_CA_FILE": str(authority.certificate),
            "AI_OTEL_ENGINE_SERVER_NAME": "engine.example",
        }
        found = read(sidecar(), tmp_path, environment, {""})
    assert found[""].items() >= {"up": 1, "ai_otel.request.running": 3}.items()


def test_without_a_token_file_no_token_is_shown(tmp_path: Path) -> None:
    with strict() as page:
        environment = {"AI_OTEL_ENGINE_TARGET": f"127.0.0.1:{page.port}", "AI_OTEL_ENGINE_PATH": "/inner/metrics"}
        assert read(sidecar(), tmp_path, environment, {""})[""]["up"] == 1
    assert set(page.asked) == {("/inner/metrics", "")}


@pytest.mark.fault(
    "collector",
    "a pod's page asks for a query, a bearer token or TLS, and its annotations say so",
    "the agent reads it, and shows its token only in the namespaces that AI_OTEL_ENGINE_TOKEN_NAMESPACES allows",
)
@pytest.mark.requires(command="openssl", why="the page is served with TLS")
def test_the_agent_shows_what_the_annotations_say(tmp_path: Path, token_file: Path, authority: Authority) -> None:
    with (
        strict(query={"model": "qwen"}, token=TOKEN, context=tls(authority, "agent")) as protected,
        strict(query={"a": "1", "b": "2", "c": "3", "d": "4"}) as parameters,
        strict(token=TOKEN) as elsewhere,
    ):
        common = {"engine": "vllm", "path": "/inner/metrics"}
        pods = [
            pod(
                "protected",
                **common | {"path": "/inner/metrics?model=qwen"},
                port=protected.port,
                scheme="https",
                token="true",
            ),
            pod("parameters", **common | {"path": "/inner/metrics?a=1&b=2&c=3&d=4"}, port=parameters.port),
            pod("elsewhere", **common, port=elsewhere.port, token="true"),
        ]
        pods[-1]["labels"]["__meta_kubernetes_namespace"] = "stranger"
        environment = {
            "AI_OTEL_ENGINE_TOKEN_FILE": str(token_file),
            "AI_OTEL_ENGINE_TOKEN_NAMESPACES": "llm|chat",
            "AI_OTEL_ENGINE_CA_FILE": str(authority.certificate),
            "AI_OTEL_ENGINE_SERVER_NAME": "engine.example",
        }
        found = read(agent(pods), tmp_path, environment, {"protected", "parameters", "elsewhere"})
    assert {name: of["up"] for name, of in found.items()} == {"protected": 1, "parameters": 1, "elsewhere": 0}
    assert {authorization for _, authorization in elsewhere.asked} == {""}
    assert {authorization for _, authorization in parameters.asked} == {""}


@pytest.mark.fault(
    "collector",
    "a pod redirects the agent's scrape to another host",
    "the other host is not asked; `up` of the pod is 0, and the log gives the status",
)
def test_the_agent_asks_no_host_that_a_pod_names(tmp_path: Path) -> None:
    with strict() as other, strict(elsewhere=f"http://127.0.0.1:{other.port}/inner/metrics") as page:
        pods = [pod("redirects", engine="vllm", port=page.port)]
        assert read(agent(pods), tmp_path, {}, {"redirects"})["redirects"]["up"] == 0
    assert page.asked
    assert other.asked == []
    assert "307 Temporary Redirect" in (tmp_path / "collector.log").read_text()


def test_the_sidecar_follows_its_server_to_the_path_with_a_slash(tmp_path: Path) -> None:
    """As Starlette has it where an application is mounted at /metrics."""
    with strict(elsewhere="/inner/metrics") as page:
        environment = {"AI_OTEL_ENGINE_TARGET": f"127.0.0.1:{page.port}", "AI_OTEL_ENGINE_PATH": "/inner"}
        assert read(sidecar(), tmp_path, environment, {""})[""]["up"] == 1


@needs_ipv6
@pytest.mark.fault(
    "collector",
    "a pod, or the target of a sidecar, has an IPv6 address",
    "its page is read: at the engine's usual port, at the annotated port, and with or without brackets",
)
def test_pages_at_addresses_of_ipv6_are_read(tmp_path: Path) -> None:
    with strict("::1") as page:
        pods = [
            pod("annotated", address="::1", engine="vllm", port=page.port, path="/inner/metrics"),
            pod("usual", address="::1", engine="triton"),
        ]
        found = read(agent(pods), tmp_path / "agent", {}, {"annotated", "usual"})
        assert {name: of["up"] for name, of in found.items()} == {"annotated": 1, "usual": 0}
        assert any("[::1]:8002" in line for line in (tmp_path / "agent/collector.log").read_text().splitlines())
        for number, target in enumerate((f"[::1]:{page.port}", f"::1:{page.port}")):
            environment = {"AI_OTEL_ENGINE_TARGET": target, "AI_OTEL_ENGINE_PATH": "/inner/metrics"}
            assert read(sidecar(), tmp_path / str(number), environment, {""})[""]["up"] == 1, target
