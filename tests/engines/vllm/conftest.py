"""A real vLLM server with our wheel installed, started the way a user starts it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

import environments
import parts
from harness.clients.vllm import FLOAT32, SERVED, Start, telemetry_to
from harness.server import Server, free_port, serving
from harness.telemetry.sink import Sink, listening


@pytest.fixture(scope="session")
def installed(vllm: parts.VllmEnvironment, tmp_path_factory: pytest.TempPathFactory) -> parts.VllmEnvironment:
    """vLLM's environment with this checkout's wheel in it."""
    vllm.install(environments.build_wheel(tmp_path_factory.mktemp("wheel")))
    return vllm


@pytest.fixture
def sink() -> Iterator[Sink]:
    """Where telemetry arrives."""
    with listening() as kept:
        yield kept


@pytest.fixture(scope="module")
def module_sink() -> Iterator[Sink]:
    """One for a whole module."""
    with listening() as kept:
        yield kept


@pytest.fixture
def start(installed: parts.VllmEnvironment, sink: Sink, tmp_path: Path) -> Start:
    """Start `vllm serve` below `ai-otel run`, with extra flags and variables."""
    return starter(installed, sink, tmp_path)


@pytest.fixture(scope="module")
def module_start(
    installed: parts.VllmEnvironment, module_sink: Sink, tmp_path_factory: pytest.TempPathFactory
) -> Start:
    """The same for a whole module."""
    return starter(installed, module_sink, tmp_path_factory.mktemp("vllm"))


def starter(installed: parts.VllmEnvironment, sink: Sink, directory: Path) -> Start:
    """How to start a server whose telemetry goes to `sink`."""

    @contextmanager
    def run(
        *flags: str,
        bare: bool = False,
        module: tuple[str, ...] = ("vllm.entrypoints.openai.api_server",),
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[Server]:
        port = free_port()
        command = [
            *([] if bare else [installed.python.parent / "ai-otel", "run", "--"]),
            installed.python, "-m", *module,
            "--model", installed.model, "--served-model-name", "tiny", "--enforce-eager",
            "--distributed-executor-backend", "uni", *FLOAT32,
            "--max-model-len", "512", "--host", "127.0.0.1", "--port", str(port), *flags,
        ]  # fmt: skip
        with serving(
            command, port, {**telemetry_to(sink), **SERVED, **(environment or {})}, directory / "vllm.log"
        ) as server:
            yield server

    return run
