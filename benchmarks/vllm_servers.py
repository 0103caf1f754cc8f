"""Real vLLM servers side by side: without telemetry, with ai-otel, and with vLLM's own tracing."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

import environments  # noqa: E402
import parts  # noqa: E402
from harness.clients.vllm import FLOAT32, SERVED  # noqa: E402
from harness.server import free_port, serving  # noqa: E402

VARIANTS = {"bare": "without", "ai-otel": "ai-otel", "own": "vLLM's own tracing"}
KINDS: Mapping[str, Sequence[str]] = {"chat": (), "embeddings": ("--runner", "pooling", "--convert", "embed")}


@dataclass(frozen=True)
class Engine:
    """A running server: its port, the process that serves HTTP, and those of the engine."""

    port: int
    front: int
    rest: tuple[int, ...]

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far."""
        return {"front": cpu_s(self.front), "engine": sum(cpu_s(pid) for pid in self.rest)}

    def pin(self, front: set[int], rest: set[int]) -> None:
        """Have every thread run on these processors."""
        for pid, processors in ((self.front, front), *((pid, rest) for pid in self.rest)):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), processors)


def cpu_s(pid: int) -> float:
    """CPU time of another process, by its clock (`clock_getcpuclockid`): all its threads, also those that ended."""
    return time.clock_gettime((~pid << 3) | 2)


def descendants(pid: int) -> tuple[int, ...]:
    """All processes below one."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(") ")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return (*found, *(below for child in found for below in descendants(child)))


def vllm() -> parts.VllmEnvironment:
    """The environment of vLLM."""
    found = parts.vllm_environment()
    if found is None:
        raise SystemExit(f"vllm is not in the cache; next: {parts.PARTS['vllm'].next_step}")
    return found


def library(into: Path, python: Path, tree: Path) -> Path:
    """A checkout's wheel in a directory of its own: vLLM's environment stays as it is."""
    build = ("build", "--quiet", "--wheel", "--no-build-isolation", "--python", environments.VENV / "bin/python")
    environments.run_uv(*build, "--out-dir", into / "wheel", tree)
    (wheel,) = (into / "wheel").glob("*.whl")
    target = into / "library"
    environments.run_uv("pip", "install", "--quiet", "--no-deps", "--python", python, "--target", target, wheel)
    return target


@contextmanager
def running(kind: str, sink: str, folder: Path, tree: Path) -> Iterator[dict[str, Engine]]:
    """Run one server of each variant, with the ai-otel of `tree`; each exports below `sink`, under its own name."""
    found = vllm()
    target = library(folder, found.python, tree)
    with ExitStack() as stack:
        yield {name: stack.enter_context(_one(name, kind, sink, folder, found, target)) for name in VARIANTS}


@contextmanager
def _one(name: str, kind: str, sink: str, folder: Path, found: parts.VllmEnvironment, target: Path) -> Iterator[Engine]:
    port = free_port()
    serve = [
        found.python, "-m", "vllm.entrypoints.openai.api_server",
        "--model", found.model, "--served-model-name", "tiny", "--enforce-eager", *FLOAT32,
        "--distributed-executor-backend", "uni", "--max-model-len", "512", "--disable-uvicorn-access-log",
        "--host", "127.0.0.1", "--port", str(port), *KINDS[kind],
    ]  # fmt: skip
    variables = {**SERVED, "PYTHONPATH": str(target)}
    match name:
        case "ai-otel":
            serve = [found.python, "-m", "ai_otel.cli", "run", "--", *serve]
            variables |= {"OTEL_EXPORTER_OTLP_ENDPOINT": f"{sink}/{name}", "OTEL_METRIC_EXPORT_INTERVAL": "5000"}
        case "own":
            serve += ["--otlp-traces-endpoint", f"{sink}/{name}/v1/traces"]
            variables |= {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    with serving(serve, port, variables, folder / f"{kind}-{name}.log") as server:
        pid = server.process.pid
        yield Engine(port, pid, descendants(pid))
