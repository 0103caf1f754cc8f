"""What the start of an interpreter costs: most of a server's processes never serve."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

from measure import Figure, Series

SOURCE = Path(__file__).parents[1] / "src"


def starts(rounds: int) -> list[Figure]:
    """Wall-clock milliseconds of `python -c pass`, each kind in turn."""
    with tempfile.TemporaryDirectory() as folder:
        without, installed = environment(Path(folder, "no"), pth=False), environment(Path(folder, "yes"), pth=True)
        kinds = {
            "plain": (without, "pass", {}),
            "off": (installed, "pass", {}),
            "on": (installed, "pass", {"AI_OTEL_ENABLED": "true"}),
            "wrapt": (without, "import wrapt", {}),
        }
        took: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in range(rounds + 1):
            for kind, (python, statement, extra) in kinds.items():
                milliseconds = start(python, statement, extra)
                if turn:
                    took[kind].append(milliseconds)
    plain, off, on, wrapt = (Series.of(milliseconds) for milliseconds in took.values())
    return [
        Figure("python -c pass, without ai-otel", "ms", plain),
        Figure("installed, not enabled: additional", "ms", off - plain),
        Figure("enabled (AI_OTEL_ENABLED=true), no engine: additional", "ms", on - plain),
        Figure("  of which a bare `import wrapt`", "ms", wrapt - plain),
    ]


def environment(path: Path, *, pth: bool) -> Path:
    """An environment with ai-otel's dependencies and source, with or without the wheel's `.pth` file."""
    venv.create(path, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(path), "platbase": str(path)}))
    (packages / "a.pth").write_text(f"{sysconfig.get_path('purelib')}\n{SOURCE}\n")
    if pth:
        (packages / "ai_otel.pth").write_text((SOURCE / "ai_otel.pth").read_text())
    return path / "bin/python"


def start(python: Path, statement: str, extra: dict[str, str]) -> float:
    """One start and end, in milliseconds."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AI_OTEL_", "PYTHON"))}
    before = time.perf_counter()
    done = subprocess.run([python, "-c", statement], env=inherited | extra, capture_output=True, check=True, text=True)
    milliseconds = (time.perf_counter() - before) * 1e3
    assert done.stderr == "", done.stderr
    return milliseconds


if __name__ == "__main__":
    for figure in starts(20):
        sys.stdout.write(f"{figure}\n")
