"""Where a Collector listens: on loopback unless it is set otherwise, and then on every address, IPv6 too."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ai_otel.collector import fragments
from ai_otel.collector.compose import Selection, compose
from harness.collector.process import composed, exports, running
from harness.ipv6 import needs_ipv6
from harness.polling import eventually
from harness.server import free_port
from harness.telemetry.traffic import PROTOBUF, span, spans_request

DEFAULT = re.compile(r"\$\{env:[A-Z_]+:-([^}]*)\}")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def addresses(role: str, feature: tuple[str, ...] = (), backends: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Where the configuration listens, and what for, with no variable set."""
    tree = compose(Selection(role, features=feature, backends=backends)).tree
    prometheus = [
        reader["pull"]["exporter"]["prometheus"] for reader in tree["service"]["telemetry"]["metrics"]["readers"]
    ]
    yield from (("its own metrics", f"{each['host']}:{each['port']}") for each in prometheus)
    yield "health", tree["extensions"]["health_check"]["endpoint"]
    receivers: dict[str, Any] = tree.get("receivers", {})
    yield from ((f"otlp {name}", of["endpoint"]) for name, of in receivers.get("otlp", {}).get("protocols", {}).items())
    yield from ((name, of["endpoint"]) for name, of in tree["exporters"].items() if name.startswith("prometheus/"))


def exposed(found: Iterator[tuple[str, str]]) -> set[str]:
    return {what for what, where in found if not DEFAULT.sub(r"\1", where).startswith(LOOPBACK)}


@pytest.mark.fault(
    "collector",
    "a Collector is started on a machine that others can reach, with no variable set",
    "health (13133), its own metrics (8888) and the page for Prometheus (9464) are on loopback",
)
@pytest.mark.parametrize("role", fragments.ROLES)
def test_only_otlp_with_tls_and_token_is_open_to_others(role: str) -> None:
    backends = ("prometheus:metrics",) if role == "gateway_stateful" else ()
    receives = {"otlp grpc", "otlp http"} if role in ("agent", "gateway", "gateway_stateful") else set()
    assert exposed(addresses(role, backends=backends)) == receives
    if role != "cluster":
        assert exposed(addresses(role, ("local",))) == set()


@pytest.mark.requires(part="collector")
@needs_ipv6
@pytest.mark.fault(
    "collector",
    "a node has IPv6 addresses only, and probes, monitors and senders use them",
    "the Collector answers on every port, with the addresses that the deployments set",
)
def test_every_port_answers_over_ipv6(tmp_path: Path) -> None:
    ports = {name: free_port() for name in ("health", "self", "grpc", "http")}
    environment = {
        "AI_OTEL_HEALTH_LISTEN": f"0.0.0.0:{ports['health']}",
        "AI_OTEL_SELF_HOST": "0.0.0.0",
        "AI_OTEL_OTLP_GRPC": f"0.0.0.0:{ports['grpc']}",
        "AI_OTEL_OTLP_HTTP": f"0.0.0.0:{ports['http']}",
    }
    tree = composed(role="sidecar", features=("local",), without=("persistence",), backends=("file",))
    with running(tree, tmp_path, environment, ports):
        for name, path in (("health", "/"), ("self", "/metrics")):
            with urllib.request.urlopen(f"http://[::1]:{ports[name]}{path}", timeout=10) as answer:
                assert answer.status == 200
        socket.create_connection(("::1", ports["grpc"]), 10).close()
        body = spans_request([span("work", b"t" * 16, b"s" * 8)]).SerializeToString()
        request = urllib.request.Request(f"http://[::1]:{ports['http']}/v1/traces", body, PROTOBUF)
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
        eventually(lambda: "work" in json.dumps(exports(tmp_path / "out.jsonl")), 10)
