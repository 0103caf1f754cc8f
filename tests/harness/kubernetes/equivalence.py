"""Says whether Helm and Kustomize made the same: objects without what each adds, and the configurations beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.kubernetes.charts import WORKLOADS, Tree, of_kind, parsed

OF_HELM = {
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
    "helm.sh/chart",
    "checksum/config",
}


def laid_over(below: Tree, above: Tree) -> Tree:
    """As the Collector does it with a second file: maps are merged, all else replaced."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = laid_over(result[key], value) if both else value
    return result


def meant(tree: Any) -> Any:
    """Without what says nothing: `null`, extensions that no service starts, and that a plain URL is without TLS."""
    if not isinstance(tree, dict):
        return tree
    if str(tree.get("endpoint")).startswith("http://"):
        tree = {key: value for key, value in tree.items() if key != "tls"}
    started = tree.get("service", {}).get("extensions") if "service" in tree else None
    cleaned = {key: meant(value) for key, value in tree.items() if value is not None}
    if started is not None:
        cleaned["extensions"] = {key: cleaned["extensions"][key] for key in started}
    return {key: value for key, value in cleaned.items() if value != {}} if "service" in tree else cleaned


def files_of(workload: Tree, objects: list[Tree]) -> dict[str, str]:
    """The files that the Collector of a workload is given, in the order in which it reads them."""
    pod = workload["spec"]["template"]["spec"]
    container = (pod.get("initContainers") or pod["containers"])[0]
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(objects, "ConfigMap")}
    volumes = {volume["name"]: volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
    mounts = {
        mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"] if mount["name"] in volumes
    }
    paths = [Path(argument.removeprefix("--config=")) for argument in container["args"]]
    return {path.name: maps[mounts[str(path.parent)]][path.name] for path in paths}


def configured(workload: Tree, objects: list[Tree]) -> Tree:
    """The configuration that it runs with."""
    tree: Tree = {}
    for text in files_of(workload, objects).values():
        (above,) = parsed(text)
        tree = laid_over(tree, above)
    return tree


def by_name(entries: Iterable[Tree]) -> dict[str, Tree]:
    return {entry["name"]: entry for entry in entries}


def shared(objects: list[Tree]) -> dict[str, Tree]:
    """Objects by kind and name, without what Helm and Kustomize each add, and with the configurations beside them."""
    workloads = of_kind(objects, *WORKLOADS)
    configurations = {
        each["metadata"]["name"]: meant(configured(each, objects))
        for each in workloads
        if each["metadata"]["name"] != "ai-otel-gpu-agent"
    }
    kept = [each for each in objects if each["kind"] not in ("ConfigMap", "Namespace")]
    result = {f"{each['kind']}/{plain(each['metadata']['name'])}": normal(each) for each in kept}
    return result | {f"configuration/{name}": tree for name, tree in configurations.items()}


def plain(name: str) -> str:
    """Without the hash of Kustomize, and the namespace that the chart puts before what is the cluster's."""
    return re.sub(r"^(ai-otel(?:-[a-z]+)+)-[0-9a-z]{10}$", r"\1", name).replace("ai-otel-ai-otel-", "ai-otel-")


def normal(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        cleaned = {key: normal(value) for key, value in tree.items() if key not in OF_HELM}
        if "args" in cleaned:
            cleaned["args"] = [argument for argument in cleaned["args"] if "/config/" not in argument]
        # Lists whose order says nothing.
        cleaned |= {key: by_name(cleaned[key]) for key in ("env", "volumes") if isinstance(cleaned.get(key), list)}
        return {key: value for key, value in cleaned.items() if not (key == "annotations" and value == {})}
    if isinstance(tree, list):
        return [normal(value) for value in tree]
    return plain(tree) if isinstance(tree, str) else tree


def different(one: dict[str, Tree], other: dict[str, Tree]) -> dict[str, tuple[Any, Any]]:
    return {key: (one.get(key), other.get(key)) for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
