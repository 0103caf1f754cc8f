"""Check this checkout: the static checks, then the tests on other interpreters, then all tests on this one.

    python tools/check.py           what needs no large install; a tier whose dependency is missing says so
    python tools/check.py --all     make the missing dependencies first; then a missing one is a failure
    python tools/check.py --lint    only the static checks

Every step runs even when an earlier one failed: one run reports all failures. The last line counts all tests.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.etree import ElementTree as ET

import environments
import parts
from environments import ROOT, VENV, say

REPORTS = ROOT / "reports"
# Tiers without servers, ports and clocks: they run on every Python, two interpreters at a time.
PORTABLE_TIERS = ("unit", "integration", "contract", "safety", "conformance")
STEP_LIMIT_S = 3000.0


@dataclass(frozen=True)
class Result:
    """How one step ended; `passed`, `failed` and `skipped` count tests, where the step ran any."""

    name: str
    ok: bool
    took_s: float
    output: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line for the table."""
        tests = ", ".join(f"{count} {what}" for what, count in self.counts.items() if count)
        return f"  {'ok' if self.ok else 'FAILED':<7}{self.name:<28}{self.took_s:6.1f} s   {tests}".rstrip()


Step = Callable[[], Result]

DASHBOARDS_FROM = (3, 11)
"""The Python that Grafana's package for building dashboards needs; the tier `dashboards` says so where it is older."""


# ---------------------------------------------------------------- static checks


def static_steps() -> list[Step]:
    """Everything that reads the code without running it, the slowest first."""
    tool = VENV / "bin"
    commands: list[tuple[str, list[str | Path]]] = [
        ("types (mypy)", [tool / "mypy"]),
        ("imports (lint-imports)", [tool / "lint-imports", "--no-cache"]),
        ("lint (ruff check)", [tool / "ruff", "check", "--quiet"]),
        ("format (ruff format)", [tool / "ruff", "format", "--check", "--output-format", "concise"]),
        ("generated files are fresh", [tool / "python", "tools/generate.py", "--check"]),
    ]
    if tuple(map(int, environments.version_of(tool / "python").split("."))) >= DASHBOARDS_FROM:
        commands.append(
            ("dashboards are fresh", [tool / "python", "collector-config/dashboards/src/build.py", "--check"])
        )
    return [functools.partial(finished, name, command) for name, command in commands]


def finished(name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Result:
    """Run one command to its end, keeping what it says."""
    started = time.monotonic()
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=STEP_LIMIT_S,
        )
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode(errors="replace")
        return Result(name, False, STEP_LIMIT_S, f"{said}\nstopped after {STEP_LIMIT_S:.0f} s")
    return Result(name, done.returncode == 0, time.monotonic() - started, done.stdout)


# ---------------------------------------------------------------- tests on other interpreters


def portable_steps(everything: bool) -> tuple[list[Step], list[str]]:
    """
    The portable tiers beside the oldest requirements, and on each other Python here; and what cannot run.

    Without `everything`, on the newest other Python only: what one breaks and not the other is rare.
    """
    tiers = [str(path.relative_to(ROOT)) for tier in PORTABLE_TIERS if (path := ROOT / "tests" / tier).is_dir()]
    if not tiers:
        return [], ["other interpreters: none of the portable tiers exists yet"]
    wheel = environments.build_wheel(REPORTS / "wheel")
    found = {version: environments.interpreter(version) for version in environments.PYTHON_VERSIONS}
    here = environments.version_of(VENV / "bin/python")
    steps: list[Step] = []
    others = [(version, python) for version, python in found.items() if python and version != here]
    for version, python in others if everything else others[-1:]:
        steps.append(portable_step(f"Python {version}", python, environments.LOCK, wheel, tiers))
    oldest = next((python for python in found.values() if python), environments.this_interpreter())
    steps.append(portable_step("lowest requirements", oldest, environments.LOWEST_LOCK, wheel, tiers))
    missing = [
        f"Python {version}: no such interpreter on this machine; install python{version} and run again"
        for version, python in found.items()
        if python is None and version != here
    ]
    return steps, missing


def portable_step(name: str, python: Path, lock: Path, wheel: Path, tiers: Sequence[str]) -> Step:
    """Test the built wheel, not the checkout: what is left out of the wheel is then missed here."""

    def step() -> Result:
        started = time.monotonic()
        env_python = environments.cached("python", python, lock)
        environments.install_wheel(env_python, wheel)
        version = environments.version_of(env_python)
        label = name if version in name else f"{name}, Python {version}"
        report = REPORTS / f"{name.replace(' ', '-').lower()}.xml"
        # A leg lacks by design what only lives beside the newest SDK: there, missing is not a failure.
        env = {"AI_OTEL_TEST_ALL": "", "PYTHONPATH": ""}
        tests = finished(
            label, [env_python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tiers], env
        )
        return Result(label, tests.ok, time.monotonic() - started, tests.output, counted(report))

    return step


def counted(report: Path) -> dict[str, int]:
    """Read how many tests passed, failed and were skipped from a JUnit report."""
    if not report.exists():
        return {}
    suites = list(ET.parse(report).getroot().iter("testsuite"))  # noqa: S314 (our own file)

    def total(name: str) -> int:
        return sum(int(suite.get(name) or 0) for suite in suites)

    failed, skipped = total("failures") + total("errors"), total("skipped")
    return {"passed": total("tests") - failed - skipped, "failed": failed, "skipped": skipped}


# ---------------------------------------------------------------- the whole suite, here


def suite(everything: bool) -> list[Result]:
    """
    Run all tiers on `.venv`, in full view.

    With `everything`, what starts vLLM and what needs a cluster wait for other processes most of their time: they run
    beside the rest, one after the other, and are shown after it.
    """
    if not everything:
        return [in_view("all tiers, here", "")]
    with ThreadPoolExecutor(max_workers=1) as pool:
        beside = [pool.submit(out_of_view, *lane) for lane in BESIDE]
        results = [in_view("all other tiers, here", "1", "-m", "not vllm and not kubernetes")]
        results += [each.result() for each in beside]
    for result in results[1:]:
        say(result.output.rstrip())
    return results


def in_view(name: str, everything: str, *which: str) -> Result:
    """Run these tests, with what pytest says on the terminal."""
    started = time.monotonic()
    command, report = pytest_here("suite", *which)
    env = {**os.environ, "AI_OTEL_TEST_ALL": everything}
    done = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, check=False)
    return Result(name, done.returncode == 0, time.monotonic() - started, "", counted(report))


BESIDE = (
    ("all that starts vLLM, here", "vllm", "vllm"),
    ("Kubernetes, here", "kubernetes", "kubernetes and not vllm"),
)


def out_of_view(name: str, report_name: str, which: str) -> Result:
    """Run the tests with these markers, keeping what pytest says."""
    command, report = pytest_here(report_name, "-m", which)
    done = finished(name, command, {"AI_OTEL_TEST_ALL": "1"})
    return replace(done, counts=counted(report))


def pytest_here(name: str, *which: str) -> tuple[list[str], Path]:
    """The command, and the report that it writes."""
    report = REPORTS / f"{name}.xml"
    return [str(VENV / "bin/python"), "-m", "pytest", "--durations=15", f"--junitxml={report}", *which], report


# ---------------------------------------------------------------- the run


def run_all(steps: Iterable[Step]) -> list[Result]:
    """Run steps two at a time; show each as it ends, and what it said if it failed."""
    results: list[Result] = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for result in pool.map(lambda step: step(), steps):
            say(str(result))
            if not result.ok:
                say(result.output.rstrip())
            results.append(result)
    return results


def conclude(results: Sequence[Result], not_run: Sequence[str]) -> int:
    """Say how everything ended; the last line counts all tests, and a failed step without tests as one failure."""
    say("\n== what ran")
    for result in results:
        say(str(result))
    for line in not_run:
        say(f"  not run  {line}")
    total = {what: sum(result.counts.get(what, 0) for result in results) for what in ("passed", "failed", "skipped")}
    total["failed"] += sum(not result.ok and not result.counts.get("failed") for result in results)
    say(f"total: {total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 0 if all(result.ok for result in results) else 1


def main() -> int:
    """Run the command described at the top of this file."""
    parser = argparse.ArgumentParser(prog="python tools/check.py", description="Check this checkout.")
    parser.add_argument("--all", action="store_true", dest="everything", help="make the missing dependencies first")
    parser.add_argument("--lint", action="store_true", help="only the static checks")
    asked = parser.parse_args()
    say("== static checks (about 20 s)")
    results = run_all(static_steps())
    if asked.lint:
        return 0 if all(result.ok for result in results) else 1
    REPORTS.mkdir(exist_ok=True)
    for stale in REPORTS.glob("*.xml"):
        stale.unlink()
    if asked.everything:
        say("\n== dependencies")
        for part in parts.PARTS.values():
            part.ensure()
    say(f"\n== {', '.join(PORTABLE_TIERS)} on other interpreters")
    steps, not_run = portable_steps(asked.everything)
    results += run_all(steps)
    say("\n== every tier here")
    results += suite(asked.everything)
    return conclude(results, not_run)


if __name__ == "__main__":
    sys.exit(main())
