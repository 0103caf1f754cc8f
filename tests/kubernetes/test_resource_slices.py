"""What the node agent reads of a real API server: real ResourceSlices, with its own service account's rights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ai_otel.agent.api_server import ApiServer, ApiServerError
from ai_otel.agent.kubelet_poller import KubeletPoller, PollerOptions
from ai_otel.agent.slices import SliceDevice, read_slices
from ai_otel.gpu.source import Device
from ai_otel.settings import Settings
from harness.gpu import kubelet, node
from harness.gpu.slices import resource_slice
from harness.kubernetes.cluster import Cluster

pytestmark = [
    pytest.mark.requires(part="kubernetes"),
    pytest.mark.requires(command="openssl", why="the API server shows a certificate"),
]

ROLE = "ai-otel-gpu-agent-slices"


@pytest.fixture
def slices(cluster: Cluster) -> Iterator[None]:
    """As a DRA driver publishes them: one pool of node-1, in as many slices as it has devices; and another node's."""
    own = node.slices()
    for each in own:
        each["spec"]["pool"]["resourceSliceCount"] = len(own)
    theirs = resource_slice({"gpu-3": {"uuid": "GPU-elsewhere"}}, node="node-2", pool="node-2", name="slice-elsewhere")
    names = [each["metadata"]["name"] for each in (*own, theirs)]
    cluster.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": [*own, theirs]}))
    yield
    cluster.kubectl("delete", "resourceslices", *names)


@pytest.fixture
def account(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[ApiServer]:
    """A service account as it is mounted into a pod: with a token, the authority, and no right yet."""
    cluster.kubectl("create", "serviceaccount", "gpu-agent", "--namespace", namespace)
    (tmp_path / "token").write_text(cluster.token_of("gpu-agent", namespace))
    (tmp_path / "ca.crt").write_bytes(cluster.ca.read_bytes())
    url = urlsplit(cluster.url)
    assert url.hostname
    assert url.port
    yield ApiServer(url.hostname, url.port, tmp_path)
    cluster.kubectl("delete", "clusterrole,clusterrolebinding", ROLE, "--ignore-not-found")


def allow(cluster: Cluster, namespace: str) -> None:
    """The one right that the agent needs."""
    rule = ("--verb=get,list", "--resource=resourceslices.resource.k8s.io")
    cluster.kubectl("create", "clusterrole", ROLE, *rule)
    bound = (f"--clusterrole={ROLE}", f"--serviceaccount={namespace}:gpu-agent")
    cluster.kubectl("create", "clusterrolebinding", ROLE, *bound)


def test_the_one_right_to_list_slices_is_enough_to_map_claims(
    cluster: Cluster, namespace: str, slices: None, account: ApiServer
) -> None:
    with pytest.raises(ApiServerError, match="status 403.*ClusterRole with the verbs get and list"):
        read_slices(account, "node-1")
    allow(cluster, namespace)

    def read() -> dict[str, SliceDevice] | None:
        try:
            return {device: described for (_, _, device), described in read_slices(account, "node-1").devices.items()}
        except ApiServerError:
            return None  # a role takes its moment

    assert cluster.wait_for(read) == {
        "gpu-3": SliceDevice(node.gpu(4), "0000:14:00.0", "gpu"),
        "gpu-2-mig-1": SliceDevice(node.mig(5, 1), None, "mig"),
        "gpu-2-mig-2": SliceDevice(node.mig(5, 2), None, "mig"),
        "gpu-2-mig-dynamic": SliceDevice(None, None, "mig"),
    }
    devices = [
        Device(node.gpu(4), "nvidia"),
        *(Device(node.gpu(5), "nvidia", instance_id=str(part), instance_uuid=node.mig(5, part)) for part in (1, 2)),
    ]
    with kubelet.running() as running:
        running.pods = node.pods()
        options = PollerOptions(
            running.socket,
            running.pods_socket,
            Settings().agent_resources,
            slices_on=True,
            api_server=account,
            node="node-1",
        )
        view = KubeletPoller(options, lambda: devices).poll()
    mapped = {
        node.Held(each.container.pod, each.device.id, each.device.instance_id, each.sharing, each.attribution)
        for each in view.allocated.allocations
    }
    assert mapped == {held for held in node.TRUTH if held.attribution == "dra"}
    assert view.errors == {}
