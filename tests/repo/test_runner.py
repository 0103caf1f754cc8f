"""The test runner works when started by any shell, also in the background."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.server import ServerError, death_of, serving

LINE = (
    "(EngineCore pid=7) ERROR [multiproc_executor.py:300] Worker proc VllmWorker-0 died unexpectedly (exit code: -4)."
)
VLLM_STARTS = re.compile(r"enforce[-_]eager")


def test_worker_killed_by_a_signal_is_reported_with_its_line() -> None:
    assert death_of(f"INFO ready\n{LINE}\nINFO stopping") == f"a worker of the server died of SIGILL: {LINE}"
    assert death_of("INFO ready", -9) == "the server died of SIGKILL"
    assert death_of("INFO ready", 1) is None
    assert death_of("INFO ready") is None


def test_server_that_never_listens_reports_how_it_died(tmp_path: Path) -> None:
    program = f"import os, signal; print({LINE!r}, flush=True); os._exit(1)"
    with (
        pytest.raises(ServerError, match="died of SIGILL: .*died unexpectedly"),
        serving([sys.executable, "-c", program], 9, {}, tmp_path / "log"),
    ):
        pass


def test_failure_beside_a_dead_server_names_its_death_first(tmp_path: Path, root: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "from harness import server\n"
        "class Dead:\n    def death(self): return 'a worker died of SIGILL'\n"
        "def test_it():\n    server.RUNNING.append(Dead())\n    raise ConnectionRefusedError\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-c", root / "pyproject.toml", tmp_path / "test_it.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=root / "tests",
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.index("a worker died of SIGILL") < done.stdout.index("ConnectionRefusedError")


def test_children_can_be_interrupted_under_a_background_runner(root: Path) -> None:
    program = (
        "import signal, subprocess, sys, conftest; conftest.take_signals();"
        "show = 'import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)';"
        "sys.exit(subprocess.run([sys.executable, '-c', show], capture_output=True).stdout.strip() != b'False')"
    )
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable, "-c", program]
    path = f"{root / 'tests'}:{root / 'tools'}"
    assert subprocess.run(ignoring, env={"PYTHONPATH": path}, check=False).returncode == 0


def test_every_vllm_started_here_runs_in_float32(root: Path) -> None:
    """In bfloat16 its worker dies of SIGILL on CPUs with AMX."""
    places = [root / "tests", root / "benchmarks", root / "examples", root / "src/ai_otel/demo"]
    files = [file for place in places for file in place.rglob("*.py") if file != Path(__file__)]
    starting = {file for file in files if VLLM_STARTS.search(file.read_text())}
    assert len(starting) >= 6, "the pattern no longer finds how tests start vLLM"
    assert {file for file in starting if not re.search(r"float32|FLOAT32", file.read_text())} == set()
