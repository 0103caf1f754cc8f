"""ResourceSlices of an API server: over HTTPS, with a token, page by page, in every version."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ai_otel.agent.api_server import ApiServer, ApiServerError
from ai_otel.agent.slices import SliceDevice, read_slices
from harness.certificates import Authority
from harness.gpu.slices import Api, Trust, resource_slice, serving
from harness.server import free_port

DRIVER = "gpu.nvidia.com"
GPU = {"type": "gpu", "uuid": "GPU-1", "resource.kubernetes.io/pciBusID": "0000:18:00.0", "productName": "H200"}
MIG = {"type": "mig", "uuid": "MIG-1", "parentUUID": "GPU-1", "profile": "1g.18gb"}


Read = Callable[..., Any]


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust(tmp_path_factory.mktemp("trust"))


@pytest.fixture
def read(trust: Trust, tmp_path: Path) -> Read:
    """Return a function that serves an API and reads the devices of one node from it."""

    def read_node(api: Api, node: str = "node-1") -> Any:
        with serving(api, trust, tmp_path / "account") as server:
            return read_slices(server, node).devices

    return read_node


def test_devices_are_indexed_by_driver_pool_and_name(read: Read) -> None:
    api = Api([resource_slice({"gpu-0": GPU, "gpu-1-mig-0": MIG})])
    assert read(api) == {
        (DRIVER, "node-1", "gpu-0"): SliceDevice("GPU-1", "0000:18:00.0", "gpu"),
        (DRIVER, "node-1", "gpu-1-mig-0"): SliceDevice("MIG-1", None, "mig"),
    }


def test_only_the_slices_of_the_node_are_requested(read: Read) -> None:
    api = Api([resource_slice({"gpu-0": GPU}), resource_slice({"gpu-0": GPU}, node="node-2", pool="node-2")])
    assert set(read(api, "node-2")) == {(DRIVER, "node-2", "gpu-0")}
    assert all("fieldSelector=spec.nodeName%3Dnode-2" in asked for asked in api.asked)


def test_every_page_of_a_list_is_read(read: Read) -> None:
    api = Api([resource_slice({f"gpu-{number}": GPU}, name=f"slice-{number}") for number in range(5)], page=2)
    assert len(read(api)) == 5
    assert len(api.asked) == 3


def test_only_the_newest_generation_of_a_pool_is_used(read: Read) -> None:
    """Both generations exist while a driver replaces its slices."""
    old = resource_slice({"gpu-0": {**GPU, "uuid": "GPU-old"}, "gpu-1": GPU}, generation=1)
    new = resource_slice({"gpu-0": {**GPU, "uuid": "GPU-new"}}, generation=2)
    other = resource_slice({"gpu-9": GPU}, pool="other")
    devices = read(Api([new, old, other]))
    assert devices[DRIVER, "node-1", "gpu-0"].uuid == "GPU-new"
    assert set(devices) == {(DRIVER, "node-1", "gpu-0"), (DRIVER, "other", "gpu-9")}


@pytest.mark.parametrize("version", ["v1", "v1beta2", "v1beta1"])
def test_every_version_is_read(version: str, read: Read) -> None:
    published = resource_slice({"gpu-0": GPU})
    if version == "v1beta1":
        for device in published["spec"]["devices"]:
            device["basic"] = {"attributes": device.pop("attributes")}
    devices = read(Api([published], versions=[version]))
    assert devices == {(DRIVER, "node-1", "gpu-0"): SliceDevice("GPU-1", "0000:18:00.0", "gpu")}


def test_attributes_may_be_qualified_by_the_driver(read: Read) -> None:
    api = Api([resource_slice({"gpu-0": {f"{DRIVER}/uuid": "GPU-1", "other.example.com/type": "vfio"}})])
    assert read(api) == {(DRIVER, "node-1", "gpu-0"): SliceDevice("GPU-1", None, None)}


def test_attributes_that_are_not_strings_are_ignored(read: Read) -> None:
    odd = resource_slice({"gpu-0": {}, "gpu-1": {}})
    odd["spec"]["devices"][0]["attributes"] = {"uuid": {"int": 7}}
    del odd["spec"]["devices"][1]["attributes"]
    empty = copy.deepcopy(odd)
    empty["spec"]["devices"] = None
    assert set(read(Api([odd, empty])).values()) == {SliceDevice()}


# ---------------------------------------------------------------- errors


@pytest.mark.fault("gpu", "the agent may not list ResourceSlices", "the log names the missing role")
def test_without_permission_the_next_step_is_a_cluster_role(read: Read) -> None:
    with pytest.raises(ApiServerError, match="ClusterRole with the verbs get and list"):
        read(Api([], allowed=False))


def test_an_invalid_token_is_reported(trust: Trust, tmp_path: Path) -> None:
    with serving(Api([]), trust, tmp_path / "account") as server:
        (server.account / "token").write_text("stale")
        with pytest.raises(ApiServerError, match="status 401"):
            read_slices(server, "node-1")
        (server.account / "token").write_text("token-of-a-service-account")
        assert read_slices(server, "node-1").devices == {}


def test_an_api_server_without_slices_is_reported(read: Read) -> None:
    with pytest.raises(ApiServerError, match="does not serve /apis/resource.k8s.io/v1/resourceslices"):
        read(Api([], versions=[]))


@pytest.mark.fault("gpu", "the API server shows a foreign certificate", "it is rejected")
def test_a_server_with_a_foreign_certificate_is_rejected(trust: Trust, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "authority", "another authority")
    with serving(Api([]), trust, tmp_path / "account") as server:
        (server.account / "ca.crt").write_bytes(stranger.certificate.read_bytes())
        with pytest.raises(ApiServerError, match="CERTIFICATE_VERIFY_FAILED"):
            read_slices(server, "node-1")


def test_without_an_account_or_a_server_the_reason_is_reported(trust: Trust, tmp_path: Path) -> None:
    with serving(Api([]), trust, tmp_path / "account") as server:
        with pytest.raises(ApiServerError, match="mount the pod's service account"):
            read_slices(ApiServer(server.host, server.port, tmp_path / "nothing"), "node-1")
        (server.account / "token").unlink()
        with pytest.raises(ApiServerError, match="token cannot be read"):
            read_slices(server, "node-1")
        (server.account / "token").touch()
        with pytest.raises(ApiServerError, match="cannot be reached"):
            read_slices(ApiServer("localhost", free_port(), server.account), "node-1")
