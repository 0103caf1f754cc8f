"""ResourceSlices as the API server tells them: over HTTPS, with a token, page by page, in every version."""

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


Told = Callable[..., Any]


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust(tmp_path_factory.mktemp("trust"))


@pytest.fixture
def told(trust: Trust, tmp_path: Path) -> Told:
    """Serve, and read what one node has."""

    def read(api: Api, node: str = "node-1") -> Any:
        with serving(api, trust, tmp_path / "account") as server:
            return read_slices(server, node)

    return read


def test_a_device_is_known_by_driver_pool_and_name(told: Told) -> None:
    api = Api([resource_slice({"gpu-0": GPU, "gpu-1-mig-0": MIG})])
    assert told(api) == {
        (DRIVER, "node-1", "gpu-0"): SliceDevice("GPU-1", "0000:18:00.0", "gpu"),
        (DRIVER, "node-1", "gpu-1-mig-0"): SliceDevice("MIG-1", None, "mig"),
    }


def test_only_this_nodes_slices_are_asked_for(told: Told) -> None:
    api = Api([resource_slice({"gpu-0": GPU}), resource_slice({"gpu-0": GPU}, node="node-2", pool="node-2")])
    assert set(told(api, "node-2")) == {(DRIVER, "node-2", "gpu-0")}
    assert all("fieldSelector=spec.nodeName%3Dnode-2" in asked for asked in api.asked)


def test_pages_are_followed_to_the_last(told: Told) -> None:
    api = Api([resource_slice({f"gpu-{number}": GPU}, name=f"slice-{number}") for number in range(5)], page=2)
    assert len(told(api)) == 5
    assert len(api.asked) == 3


def test_of_a_pool_only_the_newest_generation_counts(told: Told) -> None:
    """While a driver replaces its slices, both generations are there."""
    old = resource_slice({"gpu-0": {**GPU, "uuid": "GPU-old"}, "gpu-1": GPU}, generation=1)
    new = resource_slice({"gpu-0": {**GPU, "uuid": "GPU-new"}}, generation=2)
    other = resource_slice({"gpu-9": GPU}, pool="other")
    devices = told(Api([new, old, other]))
    assert devices[DRIVER, "node-1", "gpu-0"].uuid == "GPU-new"
    assert set(devices) == {(DRIVER, "node-1", "gpu-0"), (DRIVER, "other", "gpu-9")}


@pytest.mark.parametrize("version", ["v1", "v1beta2", "v1beta1"])
def test_every_version_is_read(version: str, told: Told) -> None:
    told_by_server = resource_slice({"gpu-0": GPU})
    if version == "v1beta1":
        for device in told_by_server["spec"]["devices"]:
            device["basic"] = {"attributes": device.pop("attributes")}
    devices = told(Api([told_by_server], versions=[version]))
    assert devices == {(DRIVER, "node-1", "gpu-0"): SliceDevice("GPU-1", "0000:18:00.0", "gpu")}


def test_an_attribute_may_be_qualified_by_its_driver(told: Told) -> None:
    api = Api([resource_slice({"gpu-0": {f"{DRIVER}/uuid": "GPU-1", "other.example.com/type": "vfio"}})])
    assert told(api) == {(DRIVER, "node-1", "gpu-0"): SliceDevice("GPU-1", None, None)}


def test_what_is_no_text_is_not_read(told: Told) -> None:
    odd = resource_slice({"gpu-0": {}, "gpu-1": {}})
    odd["spec"]["devices"][0]["attributes"] = {"uuid": {"int": 7}}
    del odd["spec"]["devices"][1]["attributes"]
    empty = copy.deepcopy(odd)
    empty["spec"]["devices"] = None
    assert set(told(Api([odd, empty])).values()) == {SliceDevice()}


# ---------------------------------------------------------------- what goes wrong


def test_without_the_right_the_next_step_is_a_role(told: Told) -> None:
    with pytest.raises(ApiServerError, match="ClusterRole with the verbs get and list"):
        told(Api([], allowed=False))


def test_a_token_that_is_not_good_is_told(trust: Trust, tmp_path: Path) -> None:
    with serving(Api([]), trust, tmp_path / "account") as server:
        (server.account / "token").write_text("stale")
        with pytest.raises(ApiServerError, match="status 401"):
            read_slices(server, "node-1")
        (server.account / "token").write_text("token-of-a-service-account")
        assert read_slices(server, "node-1") == {}


def test_an_api_server_without_slices_is_told(told: Told) -> None:
    with pytest.raises(ApiServerError, match="does not serve /apis/resource.k8s.io/v1/resourceslices"):
        told(Api([], versions=[]))


def test_a_server_with_another_certificate_is_not_believed(trust: Trust, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "authority", "somebody else")
    with serving(Api([]), trust, tmp_path / "account") as server:
        (server.account / "ca.crt").write_bytes(stranger.certificate.read_bytes())
        with pytest.raises(ApiServerError, match="CERTIFICATE_VERIFY_FAILED"):
            read_slices(server, "node-1")


def test_without_an_account_or_a_server_the_reason_is_told(trust: Trust, tmp_path: Path) -> None:
    with serving(Api([]), trust, tmp_path / "account") as server:
        with pytest.raises(ApiServerError, match="mount the pod's service account"):
            read_slices(ApiServer(server.host, server.port, tmp_path / "nothing"), "node-1")
        (server.account / "token").unlink()
        with pytest.raises(ApiServerError, match="token cannot be read"):
            read_slices(server, "node-1")
        (server.account / "token").touch()
        with pytest.raises(ApiServerError, match="cannot be reached"):
            read_slices(ApiServer("localhost", free_port(), server.account), "node-1")
