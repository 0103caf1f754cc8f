"""
A simulated kubelet: PodResources and the Pods API over gRPC on Unix sockets, with simulated pods.

Its messages come from the published files. Like the real one, it allows 100 calls a second in bursts of 10 for all
clients together. Its socket is removed when it stops and created again when it starts.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from harness.gpu import protos

QPS, BURST = 100.0, 10

POD_RESOURCES = protos.read("podresources_v1.proto")
PODS = protos.read("pods_v1alpha1.proto")
POD = protos.read("pod.proto")


@dataclass
class Claim:
    """A device of a resource claim."""

    driver: str
    pool: str
    device: str
    share_id: str | None = None


@dataclass
class Pod:
    """A pod, and what its containers hold: container → resource → ids; container → claims."""

    name: str
    namespace: str = "default"
    devices: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    claims: Mapping[str, Sequence[Claim]] = field(default_factory=dict)
    uid: str = ""
    phase: str = "Running"

    def resources(self) -> Any:
        """Return the pod's PodResources message, including fields that the agent does not read."""
        message = POD_RESOURCES.messages["PodResources"](name=self.name, namespace=self.namespace, cpu_ids=[0, 1])
        for name in dict.fromkeys([*self.devices, *self.claims]):
            container = message.containers.add(name=name, cpu_ids=[2])
            container.memory.add(memory_type="memory", size=1 << 30)
            for resource, ids in self.devices.get(name, {}).items():
                container.devices.add(resource_name=resource, device_ids=ids).topology.nodes.add(ID=0)
            for number, claim in enumerate(self.claims.get(name, ())):
                dynamic = container.dynamic_resources.add(claim_name=f"claim-{number}", claim_namespace=self.namespace)
                resource = dynamic.claim_resources.add(
                    driver_name=claim.driver, pool_name=claim.pool, device_name=claim.device, share_id=claim.share_id
                )
                resource.cdi_devices.add(name=f"k8s.{claim.driver}/claim=0-{claim.device}")
        return message

    def marshalled(self) -> bytes:
        """Return the encoded pod of the Pods API."""
        message = POD.messages["Pod"]()
        message.metadata.name, message.metadata.namespace, message.metadata.uid = self.name, self.namespace, self.uid
        message.spec.nodeName, message.status.phase = "node-1", self.phase
        return bytes(message.SerializeToString())


class Limiter:
    """A token bucket: `QPS` tokens a second, at most `BURST` of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens, self._at = float(BURST), time.monotonic()

    def allows(self) -> bool:
        with self._lock:
            now = time.monotonic()
            self._tokens = min(BURST, self._tokens + (now - self._at) * QPS)
            self._at = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class Kubelet:
    """A simulated kubelet. Its attributes may be changed at any time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "pod-resources/kubelet.sock"
        self.pods_socket = directory / "pods-api/pods-api.sock"
        self.pods: list[Pod] = []
        self.allocatable: Mapping[str, Sequence[str]] | None = {}
        """`None` on a kubelet that has no such call."""
        self.pods_answer: Callable[[], list[bytes]] = lambda: [pod.marshalled() for pod in self.pods]
        self.exhausted = False
        """Whether another client uses up the rate limit."""
        self.unlimited = False
        """Whether there is no rate limit, for polls that follow a manual clock."""
        self.calls: Counter[str] = Counter()
        self.refused = 0
        self._limiter = Limiter()
        self._servers: list[grpc.Server] = []

    def start(self, *, pods_api: bool = False) -> None:
        lister = POD_RESOURCES.services["v1.PodResourcesLister"]
        answers: dict[str, Callable[[Any, Any], Any]] = {
            "List": self._list, "GetAllocatableResources": self._allocatable, "Get": _unimplemented
        }  # fmt: skip
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._limited(name, answers[name]),
                request_deserializer=POD_RESOURCES.messages[method.request].FromString,
                response_serializer=POD_RESOURCES.messages[method.answer].SerializeToString,
            )
            for name, method in lister.items()
        }
        self._serve(self.socket, "v1.PodResourcesLister", handlers)
        if pods_api:
            method = PODS.services["v1alpha1.Pods"]["ListPods"]
            handler = grpc.unary_unary_rpc_method_handler(
                self._list_pods,
                request_deserializer=PODS.messages[method.request].FromString,
                response_serializer=PODS.messages[method.answer].SerializeToString,
            )
            self._serve(self.pods_socket, "v1alpha1.Pods", {"ListPods": handler})

    def _serve(self, socket: Path, service: str, handlers: Mapping[str, Any]) -> None:
        socket.parent.mkdir(parents=True, exist_ok=True)
        socket.unlink(missing_ok=True)
        server = grpc.server(ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        assert server.add_insecure_port(f"unix://{socket}")
        server.start()
        self._servers.append(server)

    def stop(self) -> None:
        for server in self._servers:
            server.stop(None).wait()
        self._servers.clear()
        for socket in (self.socket, self.pods_socket):
            socket.unlink(missing_ok=True)

    def _limited(self, name: str, answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def limited(request: Any, context: Any) -> Any:
            self.calls[name] += 1
            if self.exhausted or not (self.unlimited or self._limiter.allows()):
                self.refused += 1
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
            return answer(request, context)

        return limited

    def _list(self, request: Any, context: Any) -> Any:
        message = [pod.resources() for pod in self.pods]
        return POD_RESOURCES.messages["ListPodResourcesResponse"](pod_resources=message)

    def _allocatable(self, request: Any, context: Any) -> Any:
        if self.allocatable is None:
            return _unimplemented(request, context)
        answer = POD_RESOURCES.messages["AllocatableResourcesResponse"](cpu_ids=range(4))
        for resource, ids in self.allocatable.items():
            answer.devices.add(resource_name=resource, device_ids=ids)
        return answer

    def _list_pods(self, request: Any, context: Any) -> Any:
        self.calls["ListPods"] += 1
        return PODS.messages["ListPodsResponse"](pods=self.pods_answer())


def _unimplemented(request: Any, context: Any) -> Any:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")


@contextmanager
def running(*, pods_api: bool = False) -> Iterator[Kubelet]:
    """Run a kubelet until the block ends, in a short directory: a socket's path has at most 107 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="kubelet-"))
    kubelet = Kubelet(directory)
    kubelet.start(pods_api=pods_api)
    try:
        yield kubelet
    finally:
        kubelet.stop()
        shutil.rmtree(directory)
