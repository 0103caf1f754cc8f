"""A client of a running Kubernetes: kubectl and helm as its administrator runs them, and what tests ask of it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import parts
from harness.polling import wait_until

Tree = dict[str, Any]

NODES = "test/node=played"
"""The label of nodes that kwok plays."""


class Refused(RuntimeError):
    """The API server, or a client of it, said no; the message is what it said."""


def part() -> Path:
    """The directory of the part; ask for it beside `@pytest.mark.requires(part="kubernetes")`."""
    found = parts.PARTS["kubernetes"].find()
    assert found is not None, "mark the test with requires(part='kubernetes')"
    return found


@dataclass(frozen=True)
class Cluster:
    """A running control plane, seen by its administrator."""

    directory: Path
    url: str
    ca: Path
    """Who signed the API server's certificate."""
    kubeconfig: Path
    """Its administrator's."""
    defined: dict[str, set[str]] = field(default_factory=dict)
    """The custom resources that are there, by the project that they are of."""

    @property
    def environment(self) -> dict[str, str]:
        """For any client of the cluster: it finds it, and keeps what it writes below the cluster's directory."""
        home = self.directory / "home"
        return {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "HOME": str(home),
            **{f"HELM_{kind}_HOME": str(home / f"helm-{kind.lower()}") for kind in ("CACHE", "CONFIG", "DATA")},
        }

    def kubectl(self, *args: str | Path, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """What it printed; `Refused` with what it complained of, where it failed."""
        return self._run("kubectl", args, stdin, kubeconfig)

    def helm(self, *args: str | Path, stdin: str | None = None) -> str:
        """The same for helm."""
        return self._run("helm", args, stdin, None)

    def _run(self, program: str, args: tuple[str | Path, ...], stdin: str | None, kubeconfig: Path | None) -> str:
        chosen = {"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}
        done = subprocess.run(
            [part() / "bin" / program, *args],
            env=self.environment | chosen,
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=self.directory,
        )
        if done.returncode:
            raise Refused(f"{done.stderr}{done.stdout}".strip())
        return done.stdout

    def apply(self, text: str) -> list[Tree]:
        """Apply manifests on the server, strictly; the objects as they are stored."""
        return self._applied(text)

    def dry_run(self, text: str) -> list[Tree]:
        """The same, with everything that the server does before it stores; a namespace of theirs must exist already."""
        return self._applied(text, "--dry-run=server")

    def _applied(self, text: str, *more: str) -> list[Tree]:
        how = ("--server-side", "--force-conflicts", "--validate=strict", "--output=json", *more)
        return _items(self.kubectl("apply", *how, "--filename=-", stdin=text))

    def get(self, *args: str, namespace: str = "default") -> list[Tree]:
        """Objects, asked for as `kubectl get` is; an empty list where there are none."""
        return _items(self.kubectl("get", *args, "--namespace", namespace, "--output=json", "--ignore-not-found"))

    def wait_for(self, condition: Callable[[], Any], timeout_s: float = 30) -> Any:
        """The first truthy value of `condition`."""
        found = wait_until(condition, timeout_s)
        events = "" if found else self.kubectl("get", "events", "--all-namespaces")
        assert found, f"not within {timeout_s} s; the logs are in {self.directory}; events:\n{events}"
        return found

    def running(self, selector: str, namespace: str = "default") -> list[Tree]:
        """Running pods with these labels that are not being deleted."""
        pods = self.get("pods", "--selector", selector, namespace=namespace)
        alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return [pod for pod in alive if pod["status"].get("phase") == "Running"]

    def add_node(
        self, name: str, labels: Mapping[str, str] | None = None, has: Mapping[str, str] | None = None
    ) -> None:
        """One more node, that kwok plays; `has` resources (`nvidia.com/gpu`) besides processors, memory and pods."""
        key, _, value = NODES.partition("=")
        system = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        resources = {"cpu": "64", "memory": "512Gi", "pods": "500", **(has or {})}
        metadata = {"name": name, "labels": {key: value, **system, **(labels or {})}}
        status = {"allocatable": resources, "capacity": resources}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status}
        self.kubectl("create", "--filename=-", stdin=json.dumps(node))
        self.kubectl("wait", "--for=condition=Ready", f"node/{name}", "--timeout=30s")

    def load_crds(self, *names: str) -> set[str]:
        """Define the custom resources of these projects (directories of the part); what they are called."""
        for name in names:
            if name not in self.defined:
                self.defined[name] = self._define(sorted((part() / "crds" / name).glob("*.yaml")))
        return set().union(*(self.defined[name] for name in names))

    def _define(self, files: list[Path]) -> set[str]:
        chosen = [word for path in files for word in ("--filename", path)]
        applied = self.kubectl("apply", "--server-side", "--force-conflicts", "--output=name", *chosen).splitlines()
        kinds = [line.partition("/") for line in applied]
        defined = {name for kind, _, name in kinds if kind.startswith("customresourcedefinition.")}
        self.wait_for(lambda: defined <= set(self.kubectl("api-resources", "--output=name").splitlines()))
        return defined

    def token_of(self, service_account: str, namespace: str = "default") -> str:
        """A token that this service account's pods would hold."""
        return self.kubectl("create", "token", service_account, "--namespace", namespace).strip()

    def kubeconfig_of(self, service_account: str, namespace: str = "default") -> Path:
        """A kubeconfig with that token."""
        return write_kubeconfig(
            self.directory / f"{namespace}.{service_account}.kubeconfig",
            self.url,
            self.ca,
            self.token_of(service_account, namespace),
        )


def _items(text: str) -> list[Tree]:
    answer: Tree = json.loads(text) if text.strip() else {"kind": "List", "items": []}
    return list(answer["items"]) if answer["kind"] == "List" else [answer]


def write_kubeconfig(path: Path, url: str, ca: Path, token: str) -> Path:
    """Write how to reach the API server, and as whom."""
    tree = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(ca)}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(tree))
    return path
