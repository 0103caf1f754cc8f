"""Plays of a kubelet what the agent asks it: its statistics, over TLS, for whom the real API server lets have them.

Who asks and what they may is the API server's to say, each time: a TokenReview of the bearer token (401 where it is
of no user), then a SubjectAccessReview for its user of every part of the node that the path stands for (403 where none
may be had, in the kubelet's words). Kubernetes 1.36: pkg/kubelet/server/auth.go and InstallAuthFilter in server.go.
"""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness.certificates import Authority
from harness.kubernetes.cluster import Cluster, Tree

PORT = 10250
AT = "2026-01-01T00:00:00Z"
NODE_WORKING_SET_BYTES, POD_WORKING_SET_BYTES, CONTAINER_WORKING_SET_BYTES = 1234567890, 12230656, 11640832
POD_CPU_NS = 4553997785


@dataclass
class Kubelet:
    """One that is being played."""

    node: str
    certificate: Path
    """Of the authority that signed the one it shows."""
    asked: list[tuple[str, int]] = field(default_factory=list)
    """Each path that it was asked for, and how it answered."""


@contextmanager
def kubelet(cluster: Cluster, node: str, directory: Path) -> Iterator[Kubelet]:
    """Until the block ends, at the address that is the node's name: the agent finds a kubelet by that."""
    authority = Authority(directory, "who signs for kubelets")
    pair = authority.sign("kubelet", ip=node, use="serverAuth")
    played = Kubelet(node, authority.certificate)
    server = http.server.ThreadingHTTPServer((node, PORT), _handler(cluster, played))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield played
    finally:
        server.shutdown()
        server.server_close()


def _handler(cluster: Cluster, played: Kubelet) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = _answer(cluster, played.node, self.path, self.headers.get("Authorization", ""))
            played.asked.append((self.path, status))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            with suppress(ConnectionError):
                self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _answer(cluster: Cluster, node: str, path: str, authorization: str) -> tuple[int, str]:
    user = _who(cluster, authorization)
    if user is None:
        return 401, "Unauthorized"
    parts = _parts(path)
    if not any(_may(cluster, user, node, part) for part in parts):
        asked = f"user={user['username']}, verb=get, resource=nodes, subresource(s)=[{' '.join(parts)}]"
        return 403, f"Forbidden ({asked})\n"
    return (200, json.dumps(summary(cluster, node))) if path == "/stats/summary" else (404, "404 page not found\n")


def _parts(path: str) -> list[str]:
    """The subresources of the node, any of which is enough."""
    first = path.split("/")[1]
    if first in ("pods", "healthz", "configz"):
        return [first, "proxy"]
    return [{"stats": "stats", "metrics": "metrics", "logs": "log"}.get(first, "proxy")]


def _who(cluster: Cluster, authorization: str) -> Tree | None:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        return None
    status = _reviewed(cluster, "authentication.k8s.io/v1", "TokenReview", {"token": token})
    return dict(status["user"]) if status.get("authenticated") else None


def _may(cluster: Cluster, user: Tree, node: str, part: str) -> bool:
    asked = {"verb": "get", "resource": "nodes", "subresource": part, "name": node, "version": "v1"}
    spec = {"user": user["username"], "uid": user.get("uid", ""), "groups": user.get("groups", [])}
    spec |= {"extra": user.get("extra", {}), "resourceAttributes": asked}
    return bool(_reviewed(cluster, "authorization.k8s.io/v1", "SubjectAccessReview", spec)["allowed"])


def _reviewed(cluster: Cluster, version: str, kind: str, spec: Tree) -> Tree:
    """What the API server says to a question."""
    question = json.dumps({"apiVersion": version, "kind": kind, "spec": spec})
    answer = json.loads(cluster.kubectl("create", "--output=json", "--filename=-", stdin=question))
    return dict(answer["status"])


# ---------------------------------------------------------------- what it reports


def summary(cluster: Cluster, node: str) -> Tree:
    """In the form of k8s.io/kubelet/pkg/apis/stats/v1alpha1: the node, and its pods as the API server knows them."""
    pods = cluster.get("pods", "--all-namespaces", "--field-selector", f"spec.nodeName={node},status.phase=Running")
    about = {"nodeName": node, "startTime": AT, "memory": _memory(NODE_WORKING_SET_BYTES), "cpu": _cpu(263475389988)}
    return {"node": about, "pods": [_pod(each) for each in pods]}


def _pod(pod: Tree) -> Tree:
    ref = {key: pod["metadata"][key] for key in ("name", "namespace", "uid")}
    containers = [
        {
            "name": each["name"],
            "startTime": AT,
            "cpu": _cpu(4560175707),
            "memory": _memory(CONTAINER_WORKING_SET_BYTES),
        }
        for each in pod["spec"]["containers"]
    ]
    usage = {"cpu": _cpu(POD_CPU_NS), "memory": _memory(POD_WORKING_SET_BYTES)}
    return {"podRef": ref, "startTime": AT, "containers": containers, **usage}


def _cpu(used_ns: int) -> Tree:
    return {"time": AT, "usageNanoCores": 3620103, "usageCoreNanoSeconds": used_ns}


def _memory(working_set_bytes: int) -> Tree:
    more = {"usageBytes": working_set_bytes + 4096, "availableBytes": 171589632, "rssBytes": working_set_bytes - 4096}
    return {"time": AT, "workingSetBytes": working_set_bytes, "pageFaults": 7260, "majorPageFaults": 0, **more}
