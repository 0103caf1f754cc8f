"""Argo CD and Flux apply the same objects from the chart and from the overlay, and their paths exist."""

from __future__ import annotations

import pytest
import yaml

from harness.kubernetes.charts import CHART, HOME, KUSTOMIZE, NAMESPACE, Tree, kustomized, rendered
from harness.kubernetes.equivalence import different, shared

pytestmark = pytest.mark.requires(part="kubernetes")

ROOT = HOME.parents[1]


def read(name: str) -> Tree:
    tree: Tree = yaml.safe_load((HOME / "gitops" / name).read_text())
    return tree


def argo_values() -> Tree:
    source = read("argocd/chart.yaml")["spec"]["source"]
    assert ROOT / source["path"] == CHART
    assert source["helm"]["releaseName"] == "ai-otel"
    values: Tree = source["helm"]["valuesObject"]
    return values


def flux_values() -> Tree:
    spec = read("flux/chart.yaml")["spec"]
    assert ROOT / spec["chart"]["spec"]["chart"] == CHART
    assert spec["chart"]["spec"]["sourceRef"]["name"] == read("flux/source.yaml")["metadata"]["name"]
    assert (spec["releaseName"], spec["targetNamespace"]) == ("ai-otel", NAMESPACE)
    values: Tree = spec["values"]
    return values


def test_overlays_are_where_they_are_expected() -> None:
    argo = read("argocd/overlay.yaml")["spec"]["source"]["path"]
    flux = read("flux/overlay.yaml")["spec"]
    assert ROOT / argo == ROOT / flux["path"] == KUSTOMIZE / "overlays/prod"
    assert flux["sourceRef"]["name"] == read("flux/source.yaml")["metadata"]["name"]


def test_all_four_apply_the_same_objects() -> None:
    overlay = shared(kustomized(KUSTOMIZE / "overlays/prod"))
    for values in (argo_values(), flux_values()):
        assert different(shared(rendered(values)), overlay) == {}


def test_argo_applies_on_the_server() -> None:
    """The agent's configuration is larger than an annotation may be, in which client-side apply keeps a copy."""
    largest = max(len(yaml.safe_dump(each)) for each in kustomized(KUSTOMIZE / "overlays/prod"))
    assert largest > 262_144
    for name in ("argocd/chart.yaml", "argocd/overlay.yaml"):
        assert "ServerSideApply=true" in read(name)["spec"]["syncPolicy"]["syncOptions"]
