"""The test dependencies `kubernetes` and `operator`: programs built from source, and files out of modules.

One wrapper module below `tools/kubernetes` for each set of dependencies. To move a program to another release:
`go get <module>@<version>` and `go mod tidy` in its directory, then the version here.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import golang
from environments import ROOT, say

MODULES = ROOT / "tools/kubernetes"
KUBERNETES = {
    "k8s.io/component-base/version.gitVersion": "v1.36.3",
    "k8s.io/component-base/version.gitMajor": "1",
    "k8s.io/component-base/version.gitMinor": "36",
}
OPERATOR_VERSIONS = "github.com/open-telemetry/opentelemetry-operator/internal/version"


@dataclass(frozen=True)
class Program:
    """A program of a wrapper module, the package that it is, and what its release stamps into it."""

    name: str
    module: str
    package: str
    stamps: Mapping[str, str] = field(default_factory=dict)


PROGRAMS = (
    Program("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    Program("kube-apiserver", "kube", "k8s.io/kubernetes/cmd/kube-apiserver", KUBERNETES),
    Program("kube-controller-manager", "kube", "k8s.io/kubernetes/cmd/kube-controller-manager", KUBERNETES),
    Program("kube-scheduler", "kube", "k8s.io/kubernetes/cmd/kube-scheduler", KUBERNETES),
    Program("kubectl", "kube", "k8s.io/kubernetes/cmd/kubectl", KUBERNETES),
    Program("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    Program("helm", "helm", "helm.sh/helm/v4/cmd/helm", {"helm.sh/helm/v4/internal/version.version": "v4.3.1"}),
    Program("kubeconform", "kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", {"main.version": "v0.8.0"}),
)
# The versions of the release's own versions.txt; without them it injects images of version 0.0.0.
OPERATOR = (
    Program(
        "operator",
        "operator",
        "github.com/open-telemetry/opentelemetry-operator",
        {
            f"{OPERATOR_VERSIONS}.version": "0.139.0",
            f"{OPERATOR_VERSIONS}.otelCol": "0.139.0",
            f"{OPERATOR_VERSIONS}.targetAllocator": "0.139.0",
            f"{OPERATOR_VERSIONS}.operatorOpAMPBridge": "0.139.0",
            f"{OPERATOR_VERSIONS}.autoInstrumentationPython": "0.59b0",
        },
    ),
)


@dataclass(frozen=True)
class Excerpt:
    """
    The YAML files of one directory of a module; `into` is where they go.

    With `file` only this one, and of it only the definitions of custom resources.
    """

    into: str
    module: str
    version: str
    checksum: str
    directory: str
    file: str = ""


WEBHOOKS = Excerpt(
    "webhooks",
    "github.com/open-telemetry/opentelemetry-operator",
    "v0.139.0",
    "h1:HD4ptH5NQDroxpBRPpMG3puPhCUVtKVAoHtVx6FRPPw=",
    "config/webhook",
)
# Custom resource definitions, and what kwok does with nodes and pods. Flux' helm-controller is not on the module proxy.
EXCERPTS = (
    Excerpt(
        "crds/opentelemetry",
        "github.com/open-telemetry/opentelemetry-operator",
        "v0.139.0",
        "h1:HD4ptH5NQDroxpBRPpMG3puPhCUVtKVAoHtVx6FRPPw=",
        "config/crd/bases",
    ),
    Excerpt(
        "crds/prometheus",
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        "example/prometheus-operator-crd",
    ),
    Excerpt(
        "crds/argocd",
        "github.com/argoproj/argo-cd/v3",
        "v3.6.1",
        "h1:OmhqeKiR3C//awbFrhQqFdtRI+Qiv17j8vqm3UkMj/g=",
        "manifests/crds",
    ),
    Excerpt(
        "crds/keda",
        "github.com/kedacore/keda/v2",
        "v2.21.0",
        "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=",
        "config/crd/bases",
    ),
    Excerpt(
        "crds/flux",
        "github.com/fluxcd/source-controller",
        "v1.10.1",
        "h1:vkYpgpLZu20LQ2UN4lPBdWH7sqTNdQ8FjcZD/HogN2E=",
        "config/crd/bases",
    ),
    Excerpt(
        "crds/flux",
        "github.com/fluxcd/kustomize-controller",
        "v1.10.1",
        "h1:IjTnrkIy0ULJoTNC2ZKuMb32vkqj7dJ6zt6UqbTFxKA=",
        "config/crd/bases",
    ),
    # Flux's helm-controller is on no proxy; the release's own manifests are in this module.
    Excerpt(
        "crds/flux",
        "github.com/controlplaneio-fluxcd/flux-operator",
        "v0.59.0",
        "h1:jByuiWYtjSJxucGHuz68tV0DeVFz5CYrKQYfxAwE7lE=",
        "config/data/flux/v2.9.5",
        "helm-controller.yaml",
    ),
    Excerpt(
        "crds/cert-manager",
        "github.com/cert-manager/cert-manager",
        "v1.21.2",
        "h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68=",
        "deploy/crds",
    ),
    Excerpt(
        "crds/gateway",
        "sigs.k8s.io/gateway-api",
        "v1.7.0",
        "h1:duVnm7nO6oXfMMUWfcDoBph47CYR/ME3NGxccOVglaY=",
        "config/crd/standard",
    ),
    Excerpt(
        "stages/node",
        "sigs.k8s.io/kwok",
        "v0.8.0",
        "h1:OTIOTwgROqPMovcTwxICx2eYQ4AwLpSx5EpjbDKF4SQ=",
        "kustomize/stage/node/fast",
    ),
    Excerpt(
        "stages/pod",
        "sigs.k8s.io/kwok",
        "v0.8.0",
        "h1:OTIOTwgROqPMovcTwxICx2eYQ4AwLpSx5EpjbDKF4SQ=",
        "kustomize/stage/pod/fast",
    ),
)


def inputs(programs: Sequence[Program]) -> tuple[str | Path, ...]:
    """Everything that these programs are made of."""
    modules = sorted({program.module for program in programs})
    sources = (path for module in modules for path in golang.sources_of(MODULES / module))
    return (*sources, repr(programs))


def make_kubernetes(directory: Path) -> None:
    """Fill `bin/`, `crds/<name>/` and `stages/<kind>/`."""
    _build(PROGRAMS, directory)
    for excerpt in EXCERPTS:
        _unpack(excerpt, directory / excerpt.into)


def make_operator(directory: Path) -> None:
    """Fill `bin/` and `webhooks/`."""
    _build(OPERATOR, directory)
    _unpack(WEBHOOKS, directory / WEBHOOKS.into)


def _build(programs: Sequence[Program], directory: Path) -> None:
    for program in programs:  # one after the other: each uses all cores, and most of what they share is built once
        say(f"    {program.name}")
        golang.build(MODULES / program.module, [program.package], directory / "bin" / program.name, (), program.stamps)


def _unpack(excerpt: Excerpt, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    wanted = PurePosixPath(f"{excerpt.module}@{excerpt.version}") / excerpt.directory
    with zipfile.ZipFile(golang.module_zip(excerpt.module, excerpt.version, excerpt.checksum)) as archive:
        members = [PurePosixPath(name) for name in archive.namelist()]
        beside = [name for name in members if name.parent == wanted and name.suffix == ".yaml"]
        chosen = [name for name in beside if name.name != "kustomization.yaml" and excerpt.file in {"", name.name}]
        for name in chosen:
            text = archive.read(str(name)).decode()
            (into / name.name).write_text(_definitions(text) if excerpt.file else text, encoding="utf-8")
    if not chosen:
        raise SystemExit(f"{wanted} holds no YAML files any more: see where its release keeps them")


def _definitions(text: str) -> str:
    """Of a file with many objects those that define custom resources."""
    documents = text.split("\n---\n")
    return "\n---\n".join(each for each in documents if "\nkind: CustomResourceDefinition\n" in f"\n{each}\n")
