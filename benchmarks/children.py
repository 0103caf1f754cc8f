"""The servers that are measured, and the sink that they export to: one process each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

NEVER_MS = 3_600_000

ENVIRONMENT = {
    "AI_OTEL_GPU": "none",  # benchmarks/gpu.py has its cost
    "OTEL_SERVICE_NAME": "benchmark",
    "OTEL_METRIC_EXPORT_INTERVAL": str(NEVER_MS),  # exports are asked for, so that each round has the same number
}
VARIABLES: Mapping[str, Mapping[str, str]] = {"ai-otel-bare": {"AI_OTEL_PHASES": "false"}}
"""What a variant has besides."""


class Child:
    """A process that answers lines of JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def send(self, do: str, **arguments: Any) -> None:
        """Ask for an action."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a server died: {self._process.args!r} ended with {self._process.wait(10)}")
        return json.loads(line)

    def ask(self, do: str, **arguments: Any) -> Any:
        """Ask for an action, and wait."""
        self.send(do, **arguments)
        return self.answer()


@contextmanager
def running(
    *command: str, environment: Mapping[str, str] | None = None, quiet: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Run a script beside this file until the block ends, without the telemetry variables of this process."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AI_OTEL_", "OTEL_"))}
    process = subprocess.Popen(
        [sys.executable, str(HERE / command[0]), *command[1:]],
        env={**inherited, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def server(variant: str, recipe: Path, endpoint: str, *, quiet: bool = False, **variables: str) -> Iterator[Child]:
    """Run a server that exports below `endpoint`; `quiet` drops what it logs."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"{endpoint}/{variant}", **ENVIRONMENT, **VARIABLES.get(variant, {})}
    with running("child.py", variant, str(recipe), environment={**environment, **variables}, quiet=quiet) as process:
        child = Child(process)
        child.answer()
        yield child


class Sink:
    """A receiver of telemetry in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.pid = process.pid
        self.url = f"http://127.0.0.1:{port}"

    def get(self, what: str) -> Any:
        """`counts`, `keep` or `bodies`."""
        with urllib.request.urlopen(f"{self.url}/{what}", timeout=30) as response:
            return json.load(response)

    def bytes_of(self, variant: str) -> int:
        """What a server has exported so far."""
        counts = self.get("counts")
        return sum(counts[name]["bytes"] for name in counts if name.partition("/")[0] == variant)


@contextmanager
def sink(port: int = 0) -> Iterator[Sink]:
    """Run a sink."""
    with running("sink.py", str(port)) as process:
        assert process.stdout is not None
        yield Sink(process, int(process.stdout.readline()))


@contextmanager
def servers(variants: Mapping[str, Path], endpoint: str) -> Iterator[dict[str, Child]]:
    """Run several."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(server(name, recipe, endpoint)) for name, recipe in variants.items()}
