"""The tiers as a cluster has them, on loopback: sidecars, gateway, gateway_stateful, with TLS, tokens and mTLS."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.certificates import Authority
from harness.collector import process as collector
from harness.collector.process import Collector, Tree, composed
from harness.server import free_port

NAME = "localhost"
"""By which senders know both tiers; in a cluster it would be two services. Their certificates name nothing else."""


class Credentials:
    """One authority signs for those who receive, another one for those who send; and one token is good everywhere."""

    def __init__(self, directory: Path) -> None:
        self.receivers = Authority(directory / "receivers", "who signs for receivers")
        self.senders = Authority(directory / "senders", "who signs for senders")
        self.receiver = self.receivers.sign("receiver", dns=NAME, use="serverAuth")
        self.sender = self.senders.sign("sender", use="clientAuth")
        self.stranger = self.receivers.sign("stranger", use="clientAuth")
        """A sender's certificate that the wrong authority signed."""
        self.token = secrets.token_hex(16)
        (token := directory / "token").write_text(self.token)
        self.environment = {
            "AI_OTEL_TOKEN_FILE": str(token),
            "AI_OTEL_CA_FILE": str(self.receivers.certificate),
            "AI_OTEL_TLS_CERT_FILE": str(self.receiver.certificate),
            "AI_OTEL_TLS_KEY_FILE": str(self.receiver.key),
            "AI_OTEL_CLIENT_CA_FILE": str(self.senders.certificate),
            "AI_OTEL_CLIENT_CERT_FILE": str(self.sender.certificate),
            "AI_OTEL_CLIENT_KEY_FILE": str(self.sender.key),
        }


@dataclass
class Tiers:
    """The running tiers; sidecars are added to them."""

    credentials: Credentials
    directory: Path
    stack: ExitStack
    trees: dict[str, Tree] = field(default_factory=dict)
    """Every configuration that runs, by its name."""
    running: dict[str, Collector] = field(default_factory=dict)

    def add(
        self, name: str, tree: Tree, environment: Mapping[str, str], ports: Mapping[str, int] | None = None
    ) -> Collector:
        """Run one more Collector."""
        self.trees[name] = tree
        variables = {**self.credentials.environment, **environment}
        started = self.stack.enter_context(collector.running(tree, self.directory / name, variables, ports))
        self.running[name] = started
        return started

    def sidecar(self, engine: str, target: str, environment: Mapping[str, str]) -> Collector:
        """One beside a server that answers at `target`."""
        tree = composed(role="sidecar", engines=(engine,), features=("mtls",))
        gateway = f"{NAME}:{self.running['gateway'].ports['grpc']}"
        beside = {"AI_OTEL_ENGINE_TARGET": target, "AI_OTEL_GATEWAY_ENDPOINT": gateway, **environment}
        return self.add(f"sidecar-{engine}", tree, beside)


@contextmanager
def running(prometheus_url: str, directory: Path) -> Iterator[Tiers]:
    """Both tiers of the gateway until the block ends, in front of a Prometheus."""
    directory.mkdir(parents=True)
    with ExitStack() as stack:
        tiers = Tiers(Credentials(directory / "credentials"), directory, stack)
        tree = composed(role="gateway_stateful", features=("mtls",), backends=("prometheus_otlp",))
        port = free_port()
        for number, address in enumerate(addresses(NAME)):
            environment = {"AI_OTEL_PROMETHEUS_URL": prometheus_url, "AI_OTEL_OTLP_GRPC": f"{address}:{port}"}
            tiers.add(f"gateway-stateful-{number}", tree, environment, {"grpc": port})
        environment = {"AI_OTEL_STATEFUL_HOST": NAME, "AI_OTEL_STATEFUL_PORT": str(port)}
        tiers.add("gateway", composed(role="gateway", features=("mtls",)), environment)
        yield tiers


def addresses(name: str) -> list[str]:
    """All of a name, as the first tier finds them: one instance of the second is to listen on each."""
    found = {str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    return sorted(f"[{address}]" if ":" in address else address for address in found)
