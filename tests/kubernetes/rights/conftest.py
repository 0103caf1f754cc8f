"""The chart's service accounts on a real API server, without rights and with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from harness.kubernetes.charts import NAMESPACE, Tree, of_kind, rendered
from harness.kubernetes.cluster import Cluster
from harness.kubernetes.rights import KINDS, LEASE, VALUES


@pytest.fixture(scope="module")
def objects() -> list[Tree]:
    return rendered(VALUES)


@pytest.fixture
def accounts(cluster: Cluster, objects: list[Tree]) -> Iterator[Cluster]:
    """With the chart's service accounts; rights come with the tests, and go with them, as the lease does."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    cluster.apply(yaml.safe_dump_all([space, *of_kind(objects, "ServiceAccount")]))
    yield cluster
    for kind in KINDS:
        cluster.kubectl("delete", kind, "--all-namespaces", "--selector", "app.kubernetes.io/part-of=ai-otel", "--wait")
    cluster.kubectl("delete", "lease", LEASE, "--namespace", NAMESPACE, "--ignore-not-found")


@pytest.fixture
def granted(accounts: Cluster, objects: list[Tree]) -> Cluster:
    """The same with all rights of the chart."""
    accounts.apply(yaml.safe_dump_all(of_kind(objects, *KINDS)))
    return accounts
