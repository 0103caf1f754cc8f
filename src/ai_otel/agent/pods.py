"""
UID and phase of each pod: the kubelet's Pods API, v1alpha1. Optional: without it, pods are identified by name.

Each pod is an encoded `v1.Pod`, of which three fields are read.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

from ai_otel.agent.kubelet import Malformed, bounded, call
from ai_otel.gpu.wire import Table, messages

PACKAGE = "v1alpha1"
METHOD = "/v1alpha1.Pods/ListPods"
TABLE: Table = {"ListPodsRequest": {}, "ListPodsResponse": {"pods": (1, "repeated bytes")}}

POD_TABLE: Table = {
    "Pod": {"metadata": (1, "ObjectMeta"), "status": (3, "PodStatus")},
    "ObjectMeta": {"name": (1, "string"), "namespace": (3, "string"), "uid": (5, "string")},
    "PodStatus": {"phase": (1, "string")},
}
POD_PACKAGE = "k8s.io.api.core.v1"

MAX_PODS = 10_000
ENDED = frozenset({"Succeeded", "Failed"})


class Pod(NamedTuple):
    """A pod of this node."""

    namespace: str
    name: str
    uid: str
    phase: str

    @property
    def ended(self) -> bool:
        """Whether the pod has ended. Older kubelets still list its devices."""
        return self.phase in ENDED


@cache
def _messages() -> Any:
    return {**messages(PACKAGE, TABLE), **messages(POD_PACKAGE, POD_TABLE)}


def list_pods(path: Path) -> list[Pod]:
    """Return every pod of this node. Raises `Unanswered`."""
    known = _messages()
    answer = call(path, METHOD, known["ListPodsRequest"](), known["ListPodsResponse"])
    try:
        pods = [known["Pod"].FromString(encoded) for encoded in bounded(answer.pods, MAX_PODS, "pods")]
    except DecodeError as error:
        raise Malformed(f"the pods of {path} cannot be decoded: {error}") from None
    return [Pod(pod.metadata.namespace, pod.metadata.name, pod.metadata.uid, pod.status.phase) for pod in pods]
