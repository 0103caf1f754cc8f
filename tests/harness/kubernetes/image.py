"""What the injection image holds, and what a container of an injected pod would be started with."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import environments
from harness.kubernetes.cluster import Tree
from harness.kubernetes.pod import here, variables as of_a_pod

ROOT = Path(__file__).parents[3]
INJECTION = ROOT / "collector-config/kubernetes/injection"
INNER = "opentelemetry/instrumentation/auto_instrumentation"
IN_IMAGE = "/autoinstrumentation"
IN_POD = "/ai-otel"


def loaded(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def new_environment(place: Path, *wanted: str) -> Path:
    """The interpreter of a new environment with these requirements."""
    environments.run_uv("venv", "--quiet", "--python", environments.this_interpreter(), place)
    python = place / "bin/python"
    if wanted:
        environments.run_uv("pip", "install", "--quiet", "--python", python, *wanted)
    return python


def copied(initial: Tree, layout: Path, place: Path) -> Path:
    """The init container's command, run here on an image that holds `layout`; the volume that it filled."""
    assert IN_POD in {mount["mountPath"] for mount in initial["volumeMounts"]}
    image, volume = place / "image", place / "volume"
    volume.mkdir(parents=True)
    shutil.copytree(layout, image / IN_IMAGE.strip("/"))
    places = {IN_POD: volume, IN_IMAGE: image / IN_IMAGE.strip("/")}
    command = [here(word, places) for word in initial["command"]]
    subprocess.run(command, check=True, timeout=60, env={"PATH": "/usr/bin:/bin"})
    return volume


def variables(container: Tree, pod: Tree, volume: Path) -> dict[str, str]:
    """What a container of an injected pod is started with, where `volume` has the copy."""
    return {"PATH": "/usr/bin:/bin", **of_a_pod(container, pod, {IN_POD: volume})}
