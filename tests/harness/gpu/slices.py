"""A minimal API server with ResourceSlices: HTTPS, tokens, pages."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ai_otel.agent.api_server import ApiServer
from harness.certificates import Authority

Slice = Mapping[str, Any]


def resource_slice(
    devices: Mapping[str, Mapping[str, str]],
    *,
    driver: str = "gpu.nvidia.com",
    pool: str = "node-1",
    node: str = "node-1",
    generation: int = 1,
    name: str = "",
) -> dict[str, Any]:
    """Return a ResourceSlice of v1, from device → string attributes."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": name or f"{node}-{driver}-{generation}"},
        "spec": {
            "driver": driver,
            "nodeName": node,
            "pool": {"name": pool, "generation": generation, "resourceSliceCount": 1},
            "devices": [
                {"name": device, "attributes": {key: {"string": value} for key, value in attributes.items()}}
                for device, attributes in devices.items()
            ],
        },
    }


@dataclass
class Api:
    """The served slices, and the requested targets."""

    slices: Sequence[Slice]
    versions: Sequence[str] = ("v1",)
    allowed: bool = True
    page: int = 2
    asked: list[str] = field(default_factory=list)

    def answer(self, target: str, token: str) -> tuple[int, Any]:
        self.asked.append(target)
        url = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if token != f"Bearer {TOKEN}":
            return 401, {"kind": "Status"}
        if url.path not in {f"/apis/resource.k8s.io/{version}/resourceslices" for version in self.versions}:
            return 404, {"kind": "Status"}
        if not self.allowed:
            return 403, {"kind": "Status"}
        node = query["fieldSelector"].removeprefix("spec.nodeName=")
        wanted = [each for each in self.slices if each["spec"]["nodeName"] == node]
        begin = int(query.get("continue", 0))
        size = min(self.page, int(query["limit"]))
        metadata = {"continue": str(begin + size)} if begin + size < len(wanted) else {}
        return 200, {"kind": "ResourceSliceList", "metadata": metadata, "items": wanted[begin : begin + size]}


TOKEN = "token-of-a-service-account"


class Trust:
    """An authority and the server's certificate, shared by several servers because openssl is slow."""

    def __init__(self, directory: Path) -> None:
        authority = Authority(directory / "authority", "who signs for the API server")
        self.authority = authority.certificate
        self.pair = authority.sign("api-server", dns="localhost", use="serverAuth")


@contextmanager
def serving(api: Api, trust: Trust, account: Path) -> Iterator[ApiServer]:
    """Serve the API on loopback until the block ends; writes the service account to `account`."""
    pair = trust.pair
    account.mkdir(parents=True)
    (account / "token").write_text(f"{TOKEN}\n")
    (account / "ca.crt").write_bytes(trust.authority.read_bytes())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, content = api.answer(self.path, self.headers.get("Authorization", ""))
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield ApiServer("localhost", server.server_address[1], account)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
