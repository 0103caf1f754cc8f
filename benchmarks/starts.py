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
ACTIVATION = SOURCE / "ai_otel/activation"
ON = {"AI_OTEL_ENABLED": "true"}

LIMIT_MS = 20.0
LIMIT_MB = 4.0
"""Of a process that never imports an engine, time and resident memory."""

DISTRIBUTIONS = 200
"""As many as a vLLM image has: they are searched once, if something outside the standard library is imported."""
FOREIGN = "a_package_outside_the_standard_library"
MEMORY = "import sys; sys.stdout.write(open('/proc/self/status').read())"


def starts(rounds: int) -> list[Figure]:
    """Wall-clock milliseconds, and megabytes where the system shows them, of each kind in turn."""
    with tempfile.TemporaryDirectory() as folder:
        without, installed = environment(Path(folder, "no"), pth=False), environment(Path(folder, "yes"), pth=True)
        run = ON | {"PYTHONPATH": str(ACTIVATION)}
        kinds = {
            "plain": (without, "pass", {}),
            "off": (installed, "pass", {}),
            "on": (installed, "pass", ON),
            "run": (without, "pass", run),
            "foreign": (without, f"import {FOREIGN}", {}),
            "foreign, on": (installed, f"import {FOREIGN}", ON),
            "engine": (without, "import vllm", {}),
            "engine, on": (installed, "import vllm", ON),
            "wrapt": (without, "import wrapt", {}),
        }
        took: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in range(rounds + 1):
            for kind, (python, statement, extra) in kinds.items():
                milliseconds = start(python, statement, extra)[0]
                if turn:
                    took[kind].append(milliseconds)
        if sys.platform == "linux":
            shown = [megabytes(each, rounds) for each in ((without, {}), (installed, {}), (installed, ON))]
        else:
            shown = []
    series = {kind: Series.of(milliseconds) for kind, milliseconds in took.items()}
    return [
        Figure("python -c pass, without ai-otel", "ms", series["plain"]),
        Figure("installed, not enabled: additional", "ms", series["off"] - series["plain"]),
        Figure("enabled (AI_OTEL_ENABLED=true), no engine: additional", "ms", series["on"] - series["plain"], LIMIT_MS),
        Figure("enabled by ai-otel run, no engine: additional", "ms", series["run"] - series["plain"], LIMIT_MS),
        Figure(
            f"enabled, imports a package, {DISTRIBUTIONS} distributions: additional",
            "ms",
            series["foreign, on"] - series["foreign"],
            LIMIT_MS,
        ),
        Figure("enabled, imports an engine (empty vllm): additional", "ms", series["engine, on"] - series["engine"]),
        Figure("  of which a bare `import wrapt`", "ms", series["wrapt"] - series["plain"]),
        *memory(shown),
    ]


def memory(shown: list[Series]) -> list[Figure]:
    """The same starts in megabytes."""
    if not shown:
        return []
    plain, off, on = shown
    return [
        Figure("resident memory of python -c pass, without ai-otel", "MB", plain),
        Figure("installed, not enabled: additional", "MB", off - plain),
        Figure("enabled, no engine: additional", "MB", on - plain, LIMIT_MB),
    ]


def megabytes(kind: tuple[Path, dict[str, str]], rounds: int) -> Series:
    """Resident memory at the end of a start."""
    python, extra = kind
    texts = [start(python, MEMORY, extra)[1] for _ in range(rounds)]
    lines = [line.split() for text in texts for line in text.splitlines() if line.startswith("VmRSS:")]
    return Series.of([int(kibibytes) * 1024 / 1e6 for _, kibibytes, _ in lines])


def environment(path: Path, *, pth: bool) -> Path:
    """An environment with ai-otel's dependencies and source, with or without the wheel's `.pth` file."""
    venv.create(path, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(path), "platbase": str(path)}))
    (packages / "a.pth").write_text(f"{sysconfig.get_path('purelib')}\n{SOURCE}\n")
    for number in range(DISTRIBUTIONS):
        info = packages / f"distribution_{number}-1.dist-info"
        info.mkdir()
        if not number % 3:  # about as many have entry points
            (info / "entry_points.txt").write_text("[console_scripts]\nsome-script = some_module:main\n")
    (packages / f"{FOREIGN}.py").write_text("")
    (packages / "vllm").mkdir()
    (packages / "vllm/__init__.py").write_text("__version__ = '0.32.0'\n")
    if pth:
        (packages / "ai_otel.pth").write_text((SOURCE / "ai_otel.pth").read_text())
    return path / "bin/python"


def start(python: Path, statement: str, extra: dict[str, str]) -> tuple[float, str]:
    """One start and end: milliseconds, and what was printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AI_OTEL_", "PYTHON"))}
    before = time.perf_counter()
    done = subprocess.run([python, "-c", statement], env=inherited | extra, capture_output=True, check=True, text=True)
    milliseconds = (time.perf_counter() - before) * 1e3
    assert done.stderr == "", done.stderr
    return milliseconds, done.stdout


if __name__ == "__main__":
    for figure in starts(30):
        sys.stdout.write(f"{figure}\n")
