"""What all tiers share: a marker per tier, `requires`, and a list at the end of everything that did not run.

A tier is a directory of `tests/`; `pytest -m unit` and `pytest tests/unit` are the same. A test that needs something
large or foreign says so and is never silently absent:

    @pytest.mark.requires(part="vllm")                        a part of tools/parts.py
    @pytest.mark.requires(module="opentelemetry.configuration")
    @pytest.mark.requires(command="promtool", why="the alert rules are checked by Prometheus' own tool")

Where it is missing the test is skipped, and the summary names it with its reason and the next step. With
`AI_OTEL_TEST_ALL=1`, as in `make test-all`, it fails instead: there, everything is meant to run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

import parts
from ai_otel.hooks import guard
from harness import server

HERE = Path(__file__).parent
EVERYTHING = os.environ.get("AI_OTEL_TEST_ALL", "") not in {"", "0"}

# In the order they run: what answers quickly comes first.
TIERS = {
    "repo": "the rules of this repository",
    "unit": "each module, alone",
    "integration": "several modules in an interpreter of their own",
    "contract": "one suite for all engines, all GPU sources",
    "safety": "a hook never changes what the app does",
    "conformance": "every name, unit and bucket against the published conventions",
    "drift": "hook points and fields exist in the engines' own wheels",
    "cli": "the commands, as a person types them",
    "demo": "the demo, from nothing to a trace",
    "gpu": "a fake NVML, and a real GPU where there is one",
    "dashboards": "every query returns data, every alert fires when it should",
    "collector": "the real Collector on every shipped file",
    "kubernetes": "manifests against a real API server",
    "engines": "the real server, a real request",
}


@pytest.fixture(autouse=True)
def no_failures_so_far() -> Iterator[None]:
    """Failures of hooks in one test are not the next one's."""
    yield
    guard.errors.clear()
    guard.disabled.clear()


def pytest_configure(config: pytest.Config) -> None:
    take_signals()
    for tier, proves in TIERS.items():
        config.addinivalue_line("markers", f"{tier}: {proves}")
    config.addinivalue_line("markers", "vllm: starts the real vLLM, for most of a minute")
    config.addinivalue_line("markers", "fault(area, fault, effect): a row of docs/robustness.md, which is made of them")
    config.addinivalue_line("markers", "requires(part=, module=, command=, why=): what the test cannot run without")


def take_signals() -> None:
    """
    Handle SIGINT where the runner was started in the background.

    An ignored signal is inherited by every child, and a handled one is reset to its default: without this, no process
    that a test starts could be interrupted.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say first that a server died of a signal: what a test sees of it is a refused connection."""
    report = yield
    deaths = [line for each in server.RUNNING if (line := each.death())] if report.failed else []
    if deaths:
        report.longrepr = "\n".join([*deaths, "", str(report.longrepr)])
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {tier: place for place, tier in enumerate(TIERS)}
    items.sort(key=lambda item: order.get(tier_of(item.path), len(order)))
    for item in items:
        if (tier := tier_of(item.path)) in TIERS:
            item.add_marker(tier)
        if any(mark.kwargs.get("part") == "vllm" for mark in item.iter_markers("requires")):
            item.add_marker("vllm")


def tier_of(path: Path) -> str:
    """The directory below `tests/`."""
    return path.relative_to(HERE).parts[0] if path.is_relative_to(HERE) else path.name


# ---------------------------------------------------------------- requires


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("requires"):
        absent = missing(**mark.kwargs)
        if absent and EVERYTHING:
            pytest.fail(absent, pytrace=False)
        if absent:
            pytest.skip(absent)


def missing(part: str = "", module: str = "", command: str = "", why: str = "") -> str:
    """Say what is not here and how to get it; the empty string when all is."""
    if part and parts.PARTS[part].find() is None:
        absent, next_step = f"{part} is not in the cache", parts.PARTS[part].next_step
    elif module and not importable(module):
        absent, next_step = (
            f"{module} is not installed on Python {sys.version_info[0]}.{sys.version_info[1]}",
            "make setup",
        )
    elif command and shutil.which(command) is None:
        absent, next_step = f"{command} is not on PATH", f"install {command}"
    else:
        return ""
    return f"{absent}{f' ({why})' if why else ''}; next: {next_step}"


def importable(module: str) -> bool:
    """Search without importing: an import may start threads or freeze a library's mode."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is what is missing
        return False


@pytest.fixture(scope="session")
def vllm() -> parts.VllmEnvironment:
    """A real vLLM and a tiny model; ask for it beside `@pytest.mark.requires(part="vllm")`."""
    found = parts.vllm_environment()
    assert found is not None, "mark the test with requires(part='vllm')"
    return found


@pytest.fixture(scope="session", autouse=True)
def temporary_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """
    A temporary directory of this run, for this process and the servers it starts.

    The lock files of the leader election are there. In the directory of the host, a process of another run could be the
    leader, and no server of the tests would sample its GPU. The path is short: a socket's has at most 107 bytes.
    """
    directory = tmp_path_factory.mktemp("t", numbered=False)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", str(directory))
        patched.setenv("AI_OTEL_LOCK_DIR", str(directory))
        patched.setattr(tempfile, "tempdir", str(directory))
        yield directory


@pytest.fixture
def no_hook_failures() -> Iterator[None]:
    """Fail a test in which a guard suppressed an exception."""
    with guard.strict() as failures:
        yield
    assert failures == []


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return HERE.parent


# ---------------------------------------------------------------- what did not run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for nodeid, reason in skipped(terminalreporter):
        reasons[tier_of(HERE.parent / nodeid.partition("::")[0]), reason].append(nodeid)
    if not reasons:
        return
    terminalreporter.section("did not run")
    for (tier, reason), tests in sorted(reasons.items()):
        names = tests[0] if len(tests) == 1 else f"{len(tests)} tests, the first {tests[0]}"
        terminalreporter.line(f"{tier}: {reason}")
        terminalreporter.line(f"    {names}")


def skipped(terminalreporter: pytest.TerminalReporter) -> Iterator[tuple[str, str]]:
    """Each skipped test or module, with its reason."""
    for report in terminalreporter.stats.get("skipped", []):
        longrepr = report.longrepr
        reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
        yield report.nodeid, reason.removeprefix("Skipped: ")
