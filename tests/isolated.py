"""A fresh interpreter for tests of imports, entry points, exits and forks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent


def python(code: str, *arguments: str, limit_s: float = 60, **options: Any) -> str:
    """Run `code` and return what it prints; what it says on standard error fails the test."""
    done = run(code, *arguments, limit_s=limit_s, **options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def run(
    code: str,
    *arguments: str,
    path: tuple[str, ...] = (),
    launcher: tuple[str, ...] = (),
    limit_s: float = 60,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """
    Run `code` in an interpreter of this environment, with nothing in its own environment but what is given.

    `launcher` is a command that runs the interpreter, such as `ai-otel run --`.
    """
    search = ":".join([*path, str(TESTS)])
    return subprocess.run(
        [*launcher, sys.executable, "-c", code, *arguments],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": search, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=limit_s,
        stdin=subprocess.DEVNULL,
    )
