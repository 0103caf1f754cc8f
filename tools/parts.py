"""The large dependencies of some test tiers, made once and kept in the cache.

    python tools/parts.py               what there is, and what is already made
    python tools/parts.py vllm          make it (does nothing when it is there); and so with every other
    python tools/parts.py vllm --path   print where it is; fails when it is not there
    python tools/parts.py all           make every dependency

The directory of a dependency is named after its inputs, so a changed pin makes a new one. Its marker is written last:
what was interrupted counts as absent and is made again from nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import environments
import golang
import kubernetes_parts
from environments import ROOT, say

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MARKER = "complete"


@dataclass(frozen=True)
class Dependency:
    """A large test dependency: `make` fills an empty directory, `inputs` name everything that goes into it."""

    name: str
    what: str
    usual: str
    inputs: tuple[str | Path, ...]
    make: Callable[[Path], None]

    @property
    def directory(self) -> Path:
        """Where it is, or will be."""
        return environments.cache_dir() / f"{self.name}-{environments.key_of(*self.inputs)}"

    def find(self) -> Path | None:
        """Return its directory if it is complete."""
        return self.directory if (self.directory / MARKER).exists() else None

    @property
    def next_step(self) -> str:
        """Return what to do when it is missing."""
        return f"python tools/parts.py {self.name}   ({self.usual})"

    def ensure(self) -> Path:
        """Return its directory, making it first if it must be made."""
        with environments.exclusive(self.directory):
            if self.find() is None:
                started = time.monotonic()
                say(f"{self.name}: making {self.what} in {self.directory} ({self.usual})")
                shutil.rmtree(self.directory, ignore_errors=True)
                self.directory.mkdir(parents=True)
                self.make(self.directory)
                (self.directory / MARKER).touch()
                say(f"{self.name}: ready in {time.monotonic() - started:.0f} s")
        return self.directory


# ---------------------------------------------------------------- vLLM

VLLM_LOCK = environments.LOCKS / "vllm.lock"
TINY_LLAMA = ROOT / "src/ai_otel/demo/tiny_llama.py"


@dataclass(frozen=True)
class VllmEnvironment:
    """A real vLLM for CPUs and a model for it. Start it with `[python, "-m", "vllm.entrypoints.openai.api_server", …]`.

    The `vllm` console script of this build fails (no distribution has that name): use the module.
    """

    python: Path
    model: Path

    def install(self, wheel: Path) -> None:
        """Put our wheel into it, as a user would."""
        environments.install_wheel(self.python, wheel)


def vllm_environment() -> VllmEnvironment | None:
    """Return the vLLM environment if it is in the cache."""
    directory = PARTS["vllm"].find()
    return VllmEnvironment(directory / "env/bin/python", directory / "model") if directory else None


def _make_vllm(directory: Path) -> None:
    wanted = ("3.11", "3.12", "3.13")  # of our versions, those that this vLLM supports
    python = next((found for version in wanted if (found := environments.interpreter(version))), None)
    if python is None:
        raise SystemExit(f"vllm needs one of Python {', '.join(wanted)}, and none is on this machine: install one")
    env = directory / "env"
    environments.run_uv("venv", "--quiet", "--python", python, env)
    environments.run_uv("pip", "sync", "--quiet", "--require-hashes", "--python", env / "bin/python", VLLM_LOCK)
    _add_our_requirements(env / "bin/python")
    say("vllm: making a small model with random weights (about 15 s)")
    environments.run([env / "bin/python", TINY_LLAMA, directory / "model"], _offline())


def _add_our_requirements(python: Path) -> None:
    """Install what ai-otel requires, and refuse if that moved anything: the engine's versions are the engine's."""
    before = _versions(python)
    environments.run_uv("pip", "install", "--quiet", "--python", python, *our_requirements())
    after = _versions(python)
    moved = {name: after.get(name) for name, version in before.items() if after.get(name) != version}
    if moved:
        raise SystemExit(
            f"ai-otel's requirements would change what vLLM brought: {moved}; widen them in pyproject.toml"
        )


def our_requirements() -> list[str]:
    """Return `[project] dependencies`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [str(requirement) for requirement in project["dependencies"]]


def _versions(python: Path) -> dict[str, str]:
    lines = environments.run_uv("pip", "freeze", "--python", python).splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def _offline() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


# ---------------------------------------------------------------- other servers

OTHER_SERVERS = ("triton", "bentoml")
SERVERS_PYTHON = "3.11"


def _make_servers(directory: Path) -> None:
    python = environments.interpreter(SERVERS_PYTHON)
    if python is None:
        raise SystemExit(f"servers needs Python {SERVERS_PYTHON}, and there is none on this machine: install it")
    for name in OTHER_SERVERS:
        lock = environments.LOCKS / f"{name}.lock"
        environments.run_uv("venv", "--quiet", "--python", python, directory / name)
        installed = directory / name / "bin/python"
        environments.run_uv("pip", "sync", "--quiet", "--require-hashes", "--python", installed, lock)
    _lay_out_triton(directory)


def _lay_out_triton(directory: Path) -> None:
    """Put its Python backend together: the wheel has one half of it for each version of Python."""
    (packages,) = (directory / "triton/lib").glob("python*/site-packages")
    wheel = packages / "pytriton/tritonserver"
    backend = directory / "triton-backends/python"
    shutil.copytree(wheel / "backends/python", backend)
    stub = backend / "triton_python_backend_stub"
    shutil.copy2(wheel / "python_backend_stubs" / SERVERS_PYTHON / stub.name, stub)
    missing = [
        line.strip()
        for line in environments.run(["ldd", stub], triton_libraries(directory)).splitlines()
        if "not found" in line
    ]
    if missing:
        raise SystemExit(f"Triton's Python backend lacks {missing}: install a Python {SERVERS_PYTHON} with libpython")


def triton_libraries(directory: Path) -> dict[str, str]:
    """The environment in which Triton finds its libraries, and the Python of its environment."""
    python = directory / "triton/bin/python"
    said = environments.run([python, "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"])
    (bundled,) = (directory / "triton/lib").glob("python*/site-packages/nvidia_pytriton.libs")
    return {
        **os.environ,
        "LD_LIBRARY_PATH": f"{bundled}:{said.strip()}",
        "PATH": f"{python.parent}:{os.environ['PATH']}",
    }


# ---------------------------------------------------------------- Go programs

DISTRIBUTION = ROOT / "collector-config/distribution"
PROMETHEUS = ROOT / "tools/prometheus"

# `grpcnotrace` as in the official distributions; of Prometheus' service discoveries only Kubernetes'.
COLLECTOR_TAGS = ("grpcnotrace", "remove_all_sd", "enable_kubernetes_sd")
PROMETHEUS_TAGS = ("tools", "remove_all_sd")


def _make_collector(directory: Path) -> None:
    golang.build(DISTRIBUTION, ["."], directory / "ai-otel-collector", COLLECTOR_TAGS)


def _make_prometheus(directory: Path) -> None:
    commands = [f"github.com/prometheus/prometheus/cmd/{name}" for name in ("prometheus", "promtool")]
    (programs := directory / "bin").mkdir()
    golang.build(PROMETHEUS, commands, programs, PROMETHEUS_TAGS)


# ---------------------------------------------------------------- the list, and the command

PARTS: dict[str, Dependency] = {
    part.name: part
    for part in (
        Dependency(
            name="vllm",
            what="an environment with vLLM for CPUs and a tiny model",
            usual="half a minute to 3 min, 6 GB",
            inputs=(VLLM_LOCK, TINY_LLAMA, *our_requirements()),
            make=_make_vllm,
        ),
        Dependency(
            name="servers",
            what="environments with Triton and BentoML",
            usual="5 s to 1 min, 330 MB",
            inputs=(*(environments.LOCKS / f"{name}.lock" for name in OTHER_SERVERS), SERVERS_PYTHON),
            make=_make_servers,
        ),
        Dependency(
            name="collector",
            what="ai-otel's distribution of the OpenTelemetry Collector",
            usual="7 min, a few seconds when its modules are built already",
            inputs=(*golang.sources_of(DISTRIBUTION), *COLLECTOR_TAGS),
            make=_make_collector,
        ),
        Dependency(
            name="prometheus",
            what="prometheus and promtool",
            usual="5 min, a few seconds when its modules are built already",
            inputs=(*golang.sources_of(PROMETHEUS), *PROMETHEUS_TAGS),
            make=_make_prometheus,
        ),
        Dependency(
            name="kubernetes",
            what="a control plane, kubectl, kwok, helm, kubeconform, and definitions of custom resources",
            usual="11 min, a minute when its modules are built already",
            inputs=(*kubernetes_parts.inputs(kubernetes_parts.PROGRAMS), repr(kubernetes_parts.EXCERPTS)),
            make=kubernetes_parts.make_kubernetes,
        ),
        Dependency(
            name="operator",
            what="the OpenTelemetry Operator",
            usual="6 min, a few seconds when its modules are built already",
            inputs=(*kubernetes_parts.inputs(kubernetes_parts.OPERATOR), repr(kubernetes_parts.WEBHOOKS)),
            make=kubernetes_parts.make_operator,
        ),
    )
}


def show() -> None:
    """List the dependencies and their state."""
    for part in PARTS.values():
        state = "in the cache" if part.find() else f"not made yet ({part.usual})"
        say(f"{part.name:<12} {part.what}: {state}")


def program(part: str, path: str) -> Path | None:
    """Return a program of a dependency, if it is in the cache."""
    directory = PARTS[part].find()
    return directory / path if directory else None


def main() -> int:
    """Run the command described at the top of this file."""
    parser = argparse.ArgumentParser(prog="python tools/parts.py", description="Large dependencies of the test suite.")
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], help="what to make; left out: show what there is")
    parser.add_argument("--path", action="store_true", help="only print where it is")
    asked = parser.parse_args()
    if asked.part is None:
        show()
        return 0
    chosen = list(PARTS.values()) if asked.part == "all" else [PARTS[asked.part]]
    if not asked.path:
        for part in chosen:
            part.ensure()
        return 0
    for part in chosen:
        if (found := part.find()) is None:
            sys.stderr.write(f"{part.name} is not in the cache; make it: {part.next_step}\n")
            return 1
        say(str(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
