"""Fixtures of the node agent's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ai_otel.agent.kubelet_poller import PollerOptions
from ai_otel.settings import Settings
from harness.gpu.kubelet import Kubelet, running
from harness.gpu.slices import Trust


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust(tmp_path_factory.mktemp("trust"))


@pytest.fixture
def kubelet() -> Iterator[Kubelet]:
    with running(pods_api=True) as started:
        yield started


@pytest.fixture
def options(kubelet: Kubelet) -> PollerOptions:
    return PollerOptions(kubelet.socket, kubelet.pods_socket, Settings().agent_resources, node="node-1")
