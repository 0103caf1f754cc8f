# ruff: noqa: INP001 - a script
"""
Makes the directory that the Operator copies into a pod: `python build.py --wheel ai_otel-….whl --into DIRECTORY`.

    opentelemetry/instrumentation/auto_instrumentation/sitecustomize.py   what the Operator's PYTHONPATH runs
    ai-otel/preflight.py, parts.txt   whether we can work beside what the server has
    ai-otel/library                   ai-otel, and nothing else
    ai-otel/vendored/NAME             one distribution each, for servers that lack it

No directory below it but the namespace can be imported by its name: `ai-otel` is none for Python. Needs pip, because
only pip has an option to take pure wheels alone; versions and hashes are those of `requirements.lock`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or find_spec("packaging"):
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
else:
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.utils import canonicalize_name

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
INNER = "opentelemetry/instrumentation/auto_instrumentation"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")

# Of OTLP's two exporters the one for gRPC is compiled for one Python on one system, so only the other comes along.
INSTEAD = {"opentelemetry-exporter-otlp": "opentelemetry-exporter-otlp-proto-http"}
NAMESPACES = {"google", "opentelemetry", "opentelemetry/exporter", "opentelemetry/exporter/otlp"}
NAMESPACES |= {"opentelemetry/exporter/otlp/proto", "google/logging"}


def build(wheel: Path, into: Path, pip: str = sys.executable) -> None:
    """Make the layout afresh; `pip` is an interpreter that has pip."""
    shutil.rmtree(into, ignore_errors=True)
    library, vendored = into / "ai-otel/library", into / "ai-otel/vendored"
    library.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(library)
    (library / "ai_otel.pth").unlink()  # read in site-packages alone
    parts = {"ai-otel": library}
    waiting = ["ai-otel"]
    with tempfile.TemporaryDirectory() as scratch:
        while waiting:
            for name in _requirements(parts[waiting.pop()]):
                if name not in parts:
                    parts[name] = vendored / name
                    _install(name, parts[name], pip, Path(scratch))
                    waiting.append(name)
    lines = [_line(name, place) for name, place in sorted(parts.items())]
    (into / "ai-otel/parts.txt").write_text("".join(lines), encoding="utf-8")
    (into / INNER).mkdir(parents=True)
    shutil.copyfile(HERE / "layout/sitecustomize.py", into / INNER / "sitecustomize.py")
    shutil.copyfile(HERE / "layout/preflight.py", into / "ai-otel/preflight.py")
    for path in [into, *into.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)  # the server may run as any user


def _install(name: str, place: Path, pip: str, scratch: Path) -> None:
    """One distribution, in the version of the lock, from a wheel that no system and no interpreter is tied to."""
    found = re.search(rf"^{re.escape(name)}==.*(?:\n    .*)*", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"requirements.lock has no {name}: run `make lock`")
    (wanted := scratch / "wanted.txt").write_text(found[0])
    pure = ("--only-binary=:all:", "--platform=any", "--implementation=py", "--abi=none", "--python-version=3.10")
    how = ("--quiet", "--no-deps", "--no-compile", "--require-hashes", "--disable-pip-version-check", *pure)
    command = [pip, "-m", "pip", "install", *how, "--target", str(place), "-r", str(wanted)]
    subprocess.run(command, check=True)  # noqa: S603 - our own arguments
    shutil.rmtree(place / "bin", ignore_errors=True)


def _requirements(place: Path) -> dict[str, str]:
    """Bounds by name, for any interpreter that we may meet."""
    found = {}
    for requirement in map(Requirement, _metadata(place).get_all("Requires-Dist", [])):
        marker = requirement.marker
        if marker and not any(marker.evaluate({"python_version": each, "extra": ""}) for each in PYTHONS):
            continue
        name = canonicalize_name(requirement.name)
        found[INSTEAD.get(name, name)] = str(requirement.specifier)
    return found


def _metadata(place: Path) -> Message:
    (metadata,) = [each for each in place.glob("*.dist-info/METADATA") if "activation" not in each.parent.name]
    return Parser().parsestr(metadata.read_text(encoding="utf-8"))


def _line(name: str, place: Path) -> str:
    requires = ";".join(f"{each} {bounds}" for each, bounds in sorted(_requirements(place).items()))
    return f"{name}\t{_metadata(place)['Version']}\t{' '.join(_places(place))}\t{requires}\n"


def _places(place: Path) -> list[str]:
    """The highest paths that are this distribution's alone."""
    found, waiting = [], [place]
    while waiting:
        for path in sorted(waiting.pop().iterdir()):
            relative = path.relative_to(place).as_posix()
            if relative in NAMESPACES:
                waiting.append(path)
            elif path.suffix not in {".dist-info", ".typed", ".pyi"} and not path.name.endswith("-stubs"):
                found.append(relative)
    return sorted(found)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0].strip())
    arguments.add_argument("--wheel", type=Path, required=True, help="ai-otel's own")
    arguments.add_argument("--into", type=Path, required=True, help="an empty or older layout; it is made afresh")
    given = arguments.parse_args()
    build(given.wheel, given.into)
