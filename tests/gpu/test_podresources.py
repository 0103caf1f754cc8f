"""The kubelet's interfaces over real gRPC on unix sockets, from the published files."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2

from ai_otel.agent import podresources, pods
from ai_otel.agent.kubelet import Malformed, Refused, Unanswered, Unknown
from ai_otel.agent.podresources import ClaimGrant, Container, PluginGrant, list_allocatable, list_grants
from ai_otel.agent.pods import list_pods
from ai_otel.gpu import wire
from harness.gpu import protos
from harness.gpu.kubelet import Claim, Kubelet, Pod, running


@pytest.fixture
def kubelet() -> Iterator[Kubelet]:
    with running(pods_api=True) as started:
        yield started


# ---------------------------------------------------------------- the published files

READ = [
    ("podresources_v1.proto", podresources.TABLE),
    ("pods_v1alpha1.proto", pods.TABLE),
    ("pod.proto", pods.POD_TABLE),
]


@pytest.mark.parametrize(("name", "table"), READ)
def test_every_field_that_is_read_is_in_the_published_file(name: str, table: wire.Table) -> None:
    """Compares number, type and label of each field."""
    published = {message.name: message for message in protos.read(name).described.message_type}
    for message, classes in wire.messages("compared", table).items():
        fields = {field.name: field for field in published[message].field}
        described = descriptor_pb2.DescriptorProto()
        classes.DESCRIPTOR.CopyToProto(described)
        for field in described.field:
            actual = fields[field.name]
            assert (field.number, field.type, field.label) == (actual.number, actual.type, actual.label), field.name
            assert field.type_name.rpartition(".")[2] == actual.type_name.rpartition(".")[2]


def test_the_methods_that_are_called_are_in_the_published_files() -> None:
    lister = protos.read("podresources_v1.proto").services["v1.PodResourcesLister"]
    assert podresources.SERVICE == "/v1.PodResourcesLister"
    assert (lister["List"].request, lister["List"].answer) == ("ListPodResourcesRequest", "ListPodResourcesResponse")
    allocatable = lister["GetAllocatableResources"]
    assert (allocatable.request, allocatable.answer) == ("AllocatableResourcesRequest", "AllocatableResourcesResponse")
    method = protos.read("pods_v1alpha1.proto").services["v1alpha1.Pods"]["ListPods"]
    assert f"/v1alpha1.Pods/{method.name}" == pods.METHOD
    assert not method.streams


@pytest.mark.requires(module="grpc_tools", why="it brings protoc")
@pytest.mark.parametrize("name", ["podresources_v1.proto", "pods_v1alpha1.proto", "pod.proto"])
def test_the_parser_of_published_files_agrees_with_protoc(name: str, tmp_path: Path) -> None:
    protoc = importlib.import_module("grpc_tools.protoc")
    out = tmp_path / "set"
    assert protoc.main(["protoc", f"-I{protos.HERE}", f"--descriptor_set_out={out}", str(protos.HERE / name)]) == 0
    (published,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    parsed = protos.read(name).described
    for file in (published, parsed):
        for left_out in ("options", "service", "syntax"):
            file.ClearField(left_out)
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")
    assert parsed == published


def test_message_classes_of_two_tables_are_separate() -> None:
    """None of them is in protobuf's default pool, where other code may use the same names."""
    one = wire.messages("v1", {"PodResources": {"name": (1, "string")}})["PodResources"]
    other = wire.messages("v1", {"PodResources": {"title": (7, "bytes")}})["PodResources"]
    assert one(name="a").SerializeToString() == b"\x0a\x01a"
    assert other(title=b"a").SerializeToString() == b"\x3a\x01a"


# ---------------------------------------------------------------- responses


def test_devices_and_claims_are_listed_with_their_container(kubelet: Kubelet) -> None:
    kubelet.pods = [
        Pod("idle", "web"),
        Pod("one", "ml", {"server": {"nvidia.com/gpu": ["GPU-1", "GPU-2"], "example.com/nic": ["eth0"]}}),
        Pod("two", "ml", claims={"a": [Claim("gpu.nvidia.com", "node-1", "gpu-0")], "b": [Claim("d", "p", "x", "3")]}),
    ]
    server = Container("ml", "one", "server")
    assert list_grants(kubelet.socket) == [
        PluginGrant(server, "nvidia.com/gpu", "GPU-1"),
        PluginGrant(server, "nvidia.com/gpu", "GPU-2"),
        PluginGrant(server, "example.com/nic", "eth0"),
        ClaimGrant(Container("ml", "two", "a"), "gpu.nvidia.com", "node-1", "gpu-0"),
        ClaimGrant(Container("ml", "two", "b"), "d", "p", "x", share=True),
    ]


def test_allocatable_devices_are_listed_by_resource(kubelet: Kubelet) -> None:
    kubelet.allocatable = {"nvidia.com/gpu": ["GPU-1"], "amd.com/gpu": ["0000:1b:00.0"]}
    assert list_allocatable(kubelet.socket) == [("nvidia.com/gpu", "GPU-1"), ("amd.com/gpu", "0000:1b:00.0")]


def test_pods_have_a_uid_and_a_phase(kubelet: Kubelet) -> None:
    kubelet.pods = [Pod("one", "ml", uid="u-1"), Pod("two", "ml", uid="u-2", phase="Failed")]
    actual = list_pods(kubelet.pods_socket)
    assert actual == [pods.Pod("ml", "one", "u-1", "Running"), pods.Pod("ml", "two", "u-2", "Failed")]
    assert [pod.ended for pod in actual] == [False, True]


@pytest.mark.fault("gpu", "the kubelet's list is larger than gRPC's default limit", "it is read")
def test_a_list_larger_than_grpcs_default_limit_is_read(kubelet: Kubelet) -> None:
    ids = [f"GPU-{'x' * 1000}-{number}" for number in range(6000)]
    kubelet.pods = [Pod("large", devices={"server": {"nvidia.com/gpu": ids}})]
    assert len(list_grants(kubelet.socket)) == 6000


# ---------------------------------------------------------------- errors


def test_without_a_socket_the_next_step_is_to_mount_its_directory(tmp_path: Path) -> None:
    with pytest.raises(Unanswered, match="mount its directory"):
        list_grants(tmp_path / "kubelet.sock")


def test_a_socket_without_a_server_is_a_restarting_kubelet(kubelet: Kubelet) -> None:
    import socket

    kubelet.stop()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(kubelet.socket))
    with pytest.raises(Unanswered, match="restarting or has stopped"):
        list_grants(kubelet.socket)


def test_a_path_too_long_for_a_socket_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Unanswered, match="too long"):
        list_grants(tmp_path / ("x" * 120) / "kubelet.sock")


def test_an_exceeded_rate_limit_has_its_own_error(kubelet: Kubelet) -> None:
    kubelet.exhausted = True
    with pytest.raises(Refused, match="100 calls a second"):
        list_grants(kubelet.socket)


def test_a_kubelet_without_the_call_has_its_own_error(kubelet: Kubelet) -> None:
    kubelet.allocatable = None
    with pytest.raises(Unknown, match="GetAllocatableResources"):
        list_allocatable(kubelet.socket)


def test_undecodable_pods_are_an_error(kubelet: Kubelet) -> None:
    kubelet.pods_answer = lambda: [b"\xff\xff\xff"]
    with pytest.raises(Malformed, match="cannot be decoded"):
        list_pods(kubelet.pods_socket)


@pytest.mark.fault("gpu", "the kubelet's response cannot be decoded", "it is an error of this poll only")
def test_an_undecodable_response_is_an_error(kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch) -> None:
    actual: Any = podresources.messages("v1", {"X": {"pod_resources": (1, "string")}})["X"](pod_resources="no pod")
    monkeypatch.setattr(kubelet, "_list", lambda request, context: actual)
    kubelet.stop()
    kubelet.start()
    with pytest.raises(Unanswered):
        list_grants(kubelet.socket)


@pytest.mark.fault("gpu", "the kubelet hangs", "the call ends at its time limit")
def test_a_hanging_kubelet_times_out(kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch) -> None:
    from ai_otel.agent import kubelet as calls

    began = time.monotonic()
    original, answer = kubelet._list_pods, podresources.messages("v1", {"Q": {}, "A": {}})

    def slow(request: Any, context: Any) -> Any:
        time.sleep(1)
        return original(request, context)

    monkeypatch.setattr(kubelet, "_list_pods", slow)
    kubelet.stop()
    kubelet.start(pods_api=True)
    with pytest.raises(Unanswered, match="in time"):
        calls.call(kubelet.pods_socket, pods.METHOD, answer["Q"](), answer["A"], timeout_s=0.2)
    assert time.monotonic() - began < 10


def test_the_simulated_kubelet_limits_calls_like_the_real_one(kubelet: Kubelet) -> None:
    """100 calls a second in bursts of 10: of 40 at once most are refused."""
    list_call = "/v1.PodResourcesLister/List"
    with grpc.insecure_channel(
        f"unix://{kubelet.socket}", options=[("grpc.default_authority", "localhost")]
    ) as channel:
        ask = channel.unary_unary(list_call)
        calls = [ask.future(b"") for _ in range(40)]
        codes = [call.code() for call in calls]
    assert kubelet.refused == codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert codes.count(grpc.StatusCode.OK) >= 10
