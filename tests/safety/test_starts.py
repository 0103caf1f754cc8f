"""What the start of an interpreter costs where ai-otel is on and no engine is imported: most processes are so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pytest
import wrapt

from ai_otel import activation

ROOT = Path(__file__).parents[2]
ON = {"AI_OTEL_ENABLED": "true"}
PTH = (ROOT / "src/ai_otel.pth").read_text()

# What may be loaded at the start of an interpreter. Each module of ai-otel takes 0.1 to 0.2 ms; anything else that
# appears here is likely to take more than all of them.
OF_AI_OTEL = {
    "ai_otel",
    "ai_otel.activation",
    "ai_otel.activation.first_engine",
    "ai_otel.engines",
    "ai_otel.entrypoints",
    "ai_otel.hooks",
    "ai_otel.hooks.imports",
    "ai_otel.inputs",
    "ai_otel.inputs.flag",
    "ai_otel.version",
}
OF_PYTHON = {"__future__"}
OF_RUN = {"sitecustomize", "importlib", "importlib._bootstrap", "importlib._bootstrap_external", "importlib.machinery"}
# Of `importlib` itself, by version of Python.
OF_IMPORTLIB = {"warnings", "types", "_imp", "importlib._abc"}

REPORT = "import sys; sys.stdout.write(' '.join(sys.modules))"
MEMORY = "import sys; sys.stdout.write(open('/proc/self/status').read())"


def start(statement: str, folder: Path, *, run: bool = False, **environment: str) -> str:
    """What a fresh interpreter prints that has only the standard library, ai-otel and its `.pth` file."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import site; site.addsitedir({str(folder)!r})\n{statement}"]
        if not run
        else [sys.executable, "-c", statement],
        env={"PATH": "/usr/bin:/bin", **({"PYTHONPATH": activation.DIRECTORY} if run else {}), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """As `site-packages` after an installation."""
    (tmp_path / "a.pth").write_text(f"{ROOT / 'src'}\n")
    (tmp_path / "ai_otel.pth").write_text(PTH)
    return tmp_path


@pytest.mark.parametrize("run", [False, True], ids=[".pth", "ai-otel run"])
def test_the_start_loads_a_few_small_modules(run: bool, folder: Path) -> None:
    off, on = (set(start(REPORT, folder, run=run, **extra).split()) for extra in ({}, ON))
    allowed = OF_AI_OTEL | OF_PYTHON | (OF_RUN | OF_IMPORTLIB if run else set())
    assert on - off <= allowed
    assert on >= OF_AI_OTEL


@pytest.mark.parametrize("text", ["", "false", "0"])
def test_switched_off_it_loads_next_to_nothing(text: str, folder: Path) -> None:
    without, off = (set(start(REPORT, folder, **extra).split()) for extra in ({}, {"AI_OTEL_ENABLED": text}))
    expected = {"ai_otel", "ai_otel.entrypoints", "ai_otel.inputs", "ai_otel.inputs.flag", "ai_otel.version"}
    assert off - without <= (expected | OF_PYTHON if text else set())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.fault(
    "configuration",
    "ai-otel is on in the environment of a hundred processes that import no engine",
    "each of them has at most 4 MB and 20 ms more than without: settings and hooks load with the first engine",
)
def test_the_start_takes_at_most_4_megabytes(folder: Path) -> None:
    def kilobytes(**environment: str) -> int:
        texts = [start(MEMORY, folder, **environment) for _ in range(3)]
        lines = [line.split() for text in texts for line in text.splitlines() if line.startswith("VmRSS:")]
        return min(int(number) for _, number, _ in lines)

    assert kilobytes(**ON) - kilobytes() < 4000


def test_the_start_takes_a_fraction_of_an_import_of_wrapt(folder: Path) -> None:
    """CPU time, of which other programs take nothing; in turn, so that a slow minute is the same for all."""

    def cpu(statement: str, **environment: str) -> float:
        before = getrusage(RUSAGE_CHILDREN)
        start(statement, folder, **environment)
        after = getrusage(RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    site_packages = str(Path(wrapt.__file__).parents[1])
    kinds: list[tuple[str, dict[str, str]]] = [
        ("pass", {}),
        ("pass", ON),
        (f"import sys; sys.path.append({site_packages!r}); import wrapt", {}),
    ]
    rounds = [[cpu(statement, **extra) for statement, extra in kinds] for _ in range(6)]
    plain, on, of_wrapt = (min(each) for each in zip(*rounds, strict=True))
    assert on - plain < max(0.5 * (of_wrapt - plain), 0.03)


def test_ai_otel_run_loads_nothing_that_the_server_would_wait_for(folder: Path) -> None:
    statement = f"from ai_otel.cli import main\ntry:\n    main(['run', '--help'])\nfinally:\n    {REPORT}"
    loaded = set(start(statement, folder).split())
    assert "ai_otel.cli.run" in loaded
    assert loaded.isdisjoint({"asyncio", "dataclasses", "importlib.metadata", "logging", "opentelemetry", "wrapt"})
