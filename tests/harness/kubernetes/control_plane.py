"""A real Kubernetes on loopback, without containers: API server, controllers, scheduler, and nodes that kwok plays.

What a kubelet would do is played: a pod that the scheduler bound to one of our nodes becomes Running and Ready at once,
with an address in 127.64.0.0/16, or with the one that its annotation `test/pod-ip` asks for. Nothing runs in it: a test
of what reads pods lets a page listen at that address. All else is as in a cluster: validation, admission, RBAC, Pod
Security, tokens, TLS.
"""

from __future__ import annotations

import copy
import os
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from harness.certificates import Authority
from harness.kubernetes.cluster import NODES, Cluster, Tree, part, write_kubeconfig
from harness.polling import wait_until
from harness.server import end, free_port

POD_IP = "test/pod-ip"
"""The annotation that chooses a pod's address, any in 127.0.0.0/8."""


class ClusterError(RuntimeError):
    """A program of the control plane did not come up; the message ends with its last lines."""


@contextmanager
def program(
    command: list[str | Path], log: Path, ready: Callable[[], bool], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run it until the block ends; `ready` says when it is up."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, "HOME": str(log.parent), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
        )

    def up() -> bool:
        if process.poll() is not None:
            raise ClusterError(f"{log.stem} ended by itself:\n{log.read_text(errors='replace')[-4000:]}")
        return ready()

    try:
        if not wait_until(up, 60):
            raise ClusterError(f"{log.stem} did not come up:\n{log.read_text(errors='replace')[-4000:]}")
        yield process
    finally:
        end(process)


def answers(url: str, ca: Path | None = None, token: str = "") -> bool:
    """Whether a page is there."""
    context = ssl.create_default_context(cafile=str(ca)) if ca else None
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        urllib.request.urlopen(request, timeout=5, context=context).close()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return True


@contextmanager
def control_plane(directory: Path, *, controllers: bool = True) -> Iterator[Cluster]:
    """Run it until the block ends, all of it below `directory`.

    Without `controllers` there is only the API server: quick to start, enough for dry runs. With them come the
    controller manager, the scheduler and kwok.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as running:
        etcd = running.enter_context(_etcd(directory))
        cluster = running.enter_context(_api_server(directory, etcd, controllers=controllers))
        if controllers:
            running.enter_context(_controller_manager(cluster))
            running.enter_context(_scheduler(cluster))
            running.enter_context(_kwok(cluster))
        yield cluster


@contextmanager
def _etcd(directory: Path) -> Iterator[str]:
    url, peers = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    command: list[str | Path] = [
        part() / "bin/etcd",
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--unsafe-no-fsync",
    ]
    with program(command, directory / "etcd.log", lambda: answers(f"{url}/readyz")):
        yield url


@contextmanager
def _api_server(directory: Path, etcd: str, *, controllers: bool) -> Iterator[Cluster]:
    port, token = free_port(), os.urandom(16).hex()
    url = f"https://127.0.0.1:{port}"
    authority = Authority(directory / "authority", "who signs for the API server")
    server = authority.sign("api-server", dns="localhost", ip="127.0.0.1", use="serverAuth")
    accounts = authority.sign("service-accounts", use="clientAuth")
    (tokens := directory / "tokens.csv").write_text(f"{token},admin,1,system:masters\n")
    (directory / "home").mkdir(exist_ok=True)
    kubeconfig = write_kubeconfig(directory / "admin.kubeconfig", url, authority.certificate, token)
    command: list[str | Path] = [
        part() / "bin/kube-apiserver",
        f"--etcd-servers={etcd}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",  # an endpoint may not be on loopback
        f"--secure-port={port}",
        f"--cert-dir={directory}",
        f"--tls-cert-file={server.certificate}",
        f"--tls-private-key-file={server.key}",
        f"--token-auth-file={tokens}",
        "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={accounts.certificate}",
        f"--service-account-signing-key-file={accounts.key}",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--allow-privileged=true",
        # Service accounts are made by a controller; without one no pod would be admitted.
        *([] if controllers else ["--disable-admission-plugins=ServiceAccount"]),
    ]
    cluster = Cluster(directory, url, authority.certificate, kubeconfig)
    with program(command, directory / "api-server.log", lambda: answers(f"{url}/readyz", authority.certificate, token)):
        yield cluster


@contextmanager
def _controller_manager(cluster: Cluster) -> Iterator[None]:
    command: list[str | Path] = [
        part() / "bin/kube-controller-manager",
        f"--kubeconfig={cluster.kubeconfig}",
        f"--service-account-private-key-file={cluster.directory / 'authority/service-accounts.key'}",
        f"--root-ca-file={cluster.ca}",
        "--leader-elect=false",
        "--secure-port=0",
    ]
    with program(
        command, cluster.directory / "controller-manager.log", lambda: bool(cluster.get("serviceaccount", "default"))
    ):
        yield


@contextmanager
def _scheduler(cluster: Cluster) -> Iterator[None]:
    command: list[str | Path] = [
        part() / "bin/kube-scheduler",
        f"--kubeconfig={cluster.kubeconfig}",
        "--leader-elect=false",
        "--secure-port=0",
    ]
    with program(command, cluster.directory / "scheduler.log", lambda: True):
        yield


@contextmanager
def _kwok(cluster: Cluster) -> Iterator[None]:
    stages = [yaml.safe_load(path.read_text()) for path in sorted((part() / "stages").rglob("*.yaml"))]
    (ready,) = [stage for stage in stages if stage["metadata"]["name"] == "pod-ready"]
    _identify_containers(ready)
    (config := cluster.directory / "kwok.yaml").write_text(yaml.safe_dump_all([*stages, _ready_where_asked(ready)]))
    command: list[str | Path] = [
        part() / "bin/kwok",
        f"--kubeconfig={cluster.kubeconfig}",
        f"--config={config}",
        f"--manage-nodes-with-label-selector={NODES}",
        "--node-ip=127.0.0.1",
        "--cidr=127.64.0.1/16",
    ]
    with program(command, cluster.directory / "kwok.log", lambda: True):
        yield


def _identify_containers(ready: Tree) -> None:
    """A container that runs or has run has an id; without any, who reads the status takes all of them for one."""
    following = ready["spec"]["next"]
    name = "  name: {{ .name | Quote }}\n"
    assert following["statusTemplate"].count(name) == 2
    identified = f'{name}  containerID: {{{{ printf "containerd://%s" .name | Quote }}}}\n'
    following["statusTemplate"] = following["statusTemplate"].replace(name, identified)


def _ready_where_asked(ready: Tree) -> Tree:
    """Kwok's own stage for a pod that becomes ready, with the address that an annotation asks for."""
    stage: Tree = copy.deepcopy(ready)
    stage["metadata"]["name"] = "pod-ready-where-asked"
    stage["spec"]["weight"] = 1  # of stages that match, the ones with a weight are chosen
    asked = f'.metadata.annotations["{POD_IP}"]'
    stage["spec"]["selector"]["matchExpressions"].append({"key": asked, "operator": "Exists"})
    before, chosen, after = stage["spec"]["next"]["statusTemplate"].partition("{{ with $podIPs }}")
    template = f'{before}{{{{ $podIPs = list (index .metadata.annotations "{POD_IP}") }}}}\n{chosen}{after}'
    stage["spec"]["next"]["statusTemplate"] = template
    return stage
