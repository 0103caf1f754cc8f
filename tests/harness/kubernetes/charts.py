"""Renders the chart and the Kustomize directories with the real programs, and finds things in what comes out."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.kubernetes.cluster import part

Tree = dict[str, Any]

HOME = Path(__file__).parents[3] / "collector-config/kubernetes"
CHART = HOME / "chart"
KUSTOMIZE = HOME / "kustomize"
EXAMPLES = sorted(path.parent for path in CHART.glob("examples/*/values.yaml"))
NAMESPACE = "ai-otel"
# Minimal values: what every rendering needs.
BACKEND: Tree = {"backends": {"otlp": {"endpoint": "otlp.example.com:4317"}}}

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Refused(RuntimeError):
    """The program said no; the message is what it said."""


def run(program: str, *arguments: str | Path) -> str:
    """What a program of the part printed."""
    done = subprocess.run(
        [part() / "bin" / program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise Refused(f"{done.stderr}{done.stdout}".strip())
    return done.stdout


def template(values: Tree | Path, *arguments: str, chart: Path = CHART, kube: str = "1.36.3") -> str:
    """The text that `helm template` prints for these values."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as written:
        if not isinstance(values, Path):
            yaml.safe_dump(values, written)
            written.flush()
        file = values if isinstance(values, Path) else Path(written.name)
        command = ("template", "ai-otel", chart, "--namespace", NAMESPACE, "--kube-version", kube, "--values", file)
        return run("helm", *command, *arguments)


def rendered(values: Tree | Path, *arguments: str) -> list[Tree]:
    """The objects of it."""
    return parsed(template(values, *arguments))


def kustomized(directory: Path) -> list[Tree]:
    """The objects that `kubectl apply -k` would apply."""
    return parsed(run("kubectl", "kustomize", directory))


def parsed(text: str) -> list[Tree]:
    """The objects of a stream of YAML documents."""
    return [each for each in yaml.load_all(text, _Loader) if each]


def merged(*trees: Tree) -> Tree:
    """Values laid over each other, as helm does it."""
    result: Tree = {}
    for tree in trees:
        for key, value in tree.items():
            below = result.get(key)
            result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def one(objects: Iterable[Tree], kind: str, name: str) -> Tree:
    """The object of this kind and name."""
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def of_kind(objects: Iterable[Tree], *kinds: str) -> list[Tree]:
    """All objects of these kinds."""
    return [each for each in objects if each["kind"] in kinds]


def configuration(config_map: Tree) -> Tree:
    """The Collector configuration in a ConfigMap."""
    tree: Tree = yaml.load(config_map["data"]["collector.yaml"], _Loader)
    return tree


WORKLOADS = ("DaemonSet", "Deployment", "StatefulSet")


def pods(objects: Iterable[Tree]) -> dict[str, Tree]:
    """The pod specification of each workload, by its name, and of bare pods."""
    found = {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in of_kind(objects, *WORKLOADS)}
    return found | {each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "Pod")}


def containers(pod: Tree) -> Sequence[Tree]:
    """All of them, those that run before included."""
    return [*pod.get("initContainers", ()), *pod["containers"]]


def sentence(error: Refused) -> str:
    """What the chart itself said, without where."""
    return re.sub(r"^Error: execution error at \([^)]*\): ", "", str(error)).partition("\n\nUse --debug")[0]
