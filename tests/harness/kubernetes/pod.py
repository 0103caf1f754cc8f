"""A pod that the API server stored, run without a container runtime: its containers are processes of this machine.

What a kubelet would do is done to the letter: init containers in their order, the environment from the downward API and
from Secrets, `$(NAME)`, volumes as directories. A path of the container's becomes the directory that stands for it,
wherever it is named; so does a port, because here all pods share one network.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harness.kubernetes.cluster import Tree
from harness.server import Server, serving

Places = Mapping[str, Path]
"""Directory or file in a container → the one that stands for it here."""


def variables(container: Tree, pod: Tree, places: Places, secrets: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment that a kubelet would give to the container, and nothing else; `secrets` by `name/key`."""
    values: dict[str, str] = {}
    for entry in container.get("env", ()):
        source = entry.get("valueFrom", {})
        value = entry.get("value", "")
        if "fieldRef" in source:
            value = _field(pod, source["fieldRef"]["fieldPath"])
        elif "secretKeyRef" in source:
            value = (secrets or {})[f"{source['secretKeyRef']['name']}/{source['secretKeyRef']['key']}"]
        else:
            assert not source, entry
        value = re.sub(r"\$\((\w+)\)", lambda match: values.get(match[1], match[0]), value)
        values[entry["name"]] = here(value, places)
    return values


def _field(pod: Tree, path: str) -> str:
    """Value that the downward API gives; empty for an absent annotation."""
    if named := re.fullmatch(r"metadata\.(annotations|labels)\['([^']+)'\]", path):
        return str(pod["metadata"].get(named[1], {}).get(named[2], ""))
    if path in {"status.hostIP", "status.podIP"}:
        return "127.0.0.1"
    area, _, key = path.partition(".")
    return str(pod[area][key])


def here(text: str, places: Places) -> str:
    """With what stands here for directories of the container."""
    for inside, outside in sorted(places.items(), key=lambda place: -len(place[0])):
        text = re.sub(rf"(?<![\w/]){re.escape(inside)}(?![\w-])", str(outside), text)
    return text


class LocalPod:
    """The pod's volumes below `directory`; `files` has what its Secrets hold, by `secret/key`."""

    def __init__(self, pod: Tree, directory: Path, files: Mapping[str, Path]) -> None:
        self.pod = pod
        self.volumes = {volume["name"]: directory / volume["name"] for volume in pod["spec"]["volumes"]}
        for volume in pod["spec"]["volumes"]:
            place = self.volumes[volume["name"]]
            place.mkdir(parents=True)
            for item in volume.get("secret", {}).get("items", ()):
                content = files[f"{volume['secret']['secretName']}/{item['key']}"].read_bytes()
                (place / item["path"]).write_bytes(content)

    def container(self, name: str) -> Tree:
        """By its name, init containers too."""
        spec = self.pod["spec"]
        (found,) = [each for each in (*spec["initContainers"], *spec["containers"]) if each["name"] == name]
        assert isinstance(found, dict)
        return found

    def places(self, container: Tree, image: Places) -> dict[str, Path]:
        """Where its mounts are, and what its image holds."""
        return {**image, **{mount["mountPath"]: self.volumes[mount["name"]] for mount in container["volumeMounts"]}}

    def initialise(self, name: str, image: Places) -> None:
        """Run an init container to its end."""
        container = self.container(name)
        places = self.places(container, image)
        command = [here(word, places) for word in (*container["command"], *container.get("args", ()))]
        environment = {"PATH": "/usr/bin:/bin", **variables(container, self.pod, places)}
        subprocess.run(command, check=True, timeout=60, env=environment, stdin=subprocess.DEVNULL)

    @contextmanager
    def running(
        self, name: str, port: int, places: Places, also: Mapping[str, str], log: Path, health: str = "/health"
    ) -> Iterator[Server]:
        """Run a container until the block ends; `places` has its image, `also` more variables, for the ports here."""
        container = self.container(name)
        everything = self.places(container, places)
        command = [here(word, everything) for word in (*container.get("command", ()), *container.get("args", ()))]
        environment = {"PATH": "/usr/bin:/bin", **variables(container, self.pod, everything), **also}
        with serving(command, port, environment, log, health=health, inherit=False) as server:
            yield server
