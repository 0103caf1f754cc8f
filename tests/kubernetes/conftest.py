"""One real control plane for the whole session; mark a test that asks for it with `requires(part="kubernetes")`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import environments
from harness.kubernetes.cluster import Cluster
from harness.kubernetes.control_plane import control_plane
from harness.kubernetes.image import INJECTION, loaded, new_environment
from harness.kubernetes.operator import operator as running_operator

COUNT = itertools.count(1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """API server, controllers, scheduler, and one node, `node-1`."""
    with control_plane(tmp_path_factory.mktemp("cluster")) as running:
        running.add_node("node-1")
        yield running


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own, with its service account."""
    name = f"test-{next(COUNT)}"
    cluster.kubectl("create", "namespace", name)
    cluster.wait_for(lambda: cluster.get("serviceaccount", "default", namespace=name))
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def operator(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The real OpenTelemetry Operator beside it; mark the test with `requires(part="operator")` as well."""
    with running_operator(cluster, tmp_path_factory.mktemp("operator")):
        yield


@pytest.fixture(scope="session")
def injection_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image holds, made by the script of its Dockerfile; the wheel is beside it.

    For copies alone: a Python that runs from it leaves caches there.
    """
    place = tmp_path_factory.mktemp("image")
    pip = environments.uv().with_name("python")
    loaded(INJECTION / "build.py").build(environments.build_wheel(place / "wheel"), place / "layout", str(pip))
    return place / "layout"


@pytest.fixture(scope="session")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The interpreter of a new environment with these requirements."""
    return lambda *wanted: new_environment(tmp_path_factory.mktemp("venv"), *wanted)
