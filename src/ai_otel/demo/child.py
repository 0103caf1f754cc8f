"""The demo's model server: a child process that a user could have started, with `ai-otel run --` before its command."""

from __future__ import annotations

import importlib.util
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ai_otel.settings import Environment

STOP_TIMEOUT_S = 10.0


class ServerError(RuntimeError):
    """The server did not come up; the message ends with what it said last."""


@dataclass(frozen=True)
class Recipe:
    """How to run one engine's server, on a model that is made on the spot."""

    needs: tuple[str, ...]
    """Modules that must be importable here."""
    hint: str
    """What to do where one is not."""
    make_model: tuple[str, ...]
    """Python arguments that write the model to the path that follows them."""
    model_name: str
    serve: tuple[str, ...]
    """Python arguments; `{model}` and `{port}` are filled in."""
    environment: Mapping[str, str]
    start_timeout_s: float
    embeddings: bool

    def missing(self) -> list[str]:
        """Which of the modules are not here."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


RECIPES = {
    "llama_cpp": Recipe(
        needs=("gguf", "httpx", "rich", "starlette", "uvicorn", "xllamacpp"),
        hint="pip install 'ai-otel[demo]'",
        make_model=("-m", "ai_otel.demo.gguf"),
        model_name="random-words",
        serve=("-m", "ai_otel.demo.server", "--model", "{model}", "--name", "random-words", "--port", "{port}"),
        environment={},
        start_timeout_s=30,
        embeddings=True,
    ),
    "vllm": Recipe(
        needs=("vllm", "httpx", "rich"),
        hint="run it in the environment that has vLLM, after: pip install ai-otel httpx rich",
        make_model=("-m", "ai_otel.demo.tiny_llama"),
        model_name="tiny",
        serve=(
            *("-m", "vllm.entrypoints.openai.api_server", "--model", "{model}", "--served-model-name", "tiny"),
            # In bfloat16, its default, vLLM's worker dies of SIGILL on CPUs with AMX.
            *("--enforce-eager", "--dtype", "float32", "--max-model-len", "2048"),
            *("--host", "127.0.0.1", "--port", "{port}"),
        ),
        environment={"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"},
        start_timeout_s=240,
        embeddings=False,
    ),
}


@dataclass(frozen=True)
class Child:
    """A running server."""

    url: str
    command: str
    """As a user would type it."""
    log: Path
    running: subprocess.Popen[bytes]

    def last_words(self) -> str:
        """The end of what it printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def make_model(recipe: Recipe, directory: Path) -> Path:
    """Write the model, in a process of its own: its libraries are large and not needed afterwards."""
    path = directory / "model"
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, *recipe.make_model, str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServerError(f"the model could not be made:\n{done.stdout[-2000:]}")
    return path


@contextmanager
def serving(recipe: Recipe, model: Path, endpoint: str, log: Path) -> Iterator[Child]:
    """The server until the block ends, with its telemetry going to `endpoint`."""
    port = free_port()
    words = [word.format(model=model, port=port) for word in recipe.serve]
    command = [sys.executable, "-m", "ai_otel.cli", "run", "--", sys.executable, *words]
    with log.open("wb") as output:
        running = subprocess.Popen(  # noqa: S603 - what `ai-otel run` is for
            [*_environment(recipe, endpoint), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C stops the demo, which then stops the server
        )
    typed = shlex.join(["ai-otel", "run", "--", "python", *words])
    child = Child(f"http://127.0.0.1:{port}", typed, log, running)
    try:
        _wait_until_ready(child, recipe.start_timeout_s)
        yield child
    finally:
        stop(child)


def _environment(recipe: Recipe, endpoint: str) -> Sequence[str]:
    """`env` and its words. The user's own choices for OpenTelemetry are for the user's servers, not for this one."""
    chosen = {
        **recipe.environment,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    unset = [word for name in Environment.read().otel for word in ("-u", name)]
    return ["env", *unset, *(f"{name}={value}" for name, value in chosen.items())]


def _wait_until_ready(child: Child, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and child.running.poll() is None:
        try:
            with urllib.request.urlopen(f"{child.url}/health", timeout=5):  # noqa: S310 - our own address
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise ServerError(f"the server did not come up within {timeout_s:.0f} s:\n{child.last_words()}")


def stop(child: Child) -> None:
    """Interrupt it; kill it after `STOP_TIMEOUT_S`."""
    if child.running.poll() is None:
        child.running.send_signal(signal.SIGINT)
        try:
            child.running.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.running.kill()
            child.running.wait()


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
