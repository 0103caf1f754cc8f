"""Real servers without our library: vLLM, llama.cpp's own, Triton, BentoML. All have one model that tests know."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import parts
from ai_otel.demo.gguf import Shape, write_model
from harness.clients.vllm import CPU, FLOAT32
from harness.server import Server, free_port, serving

ENGINES = Path(__file__).parents[1] / "engines"

SLOTS = {"vllm": 4, "llama_cpp": 2, "triton": 2}
"""How many requests are computed at a time; further ones wait. BentoML does not report which of its requests wait."""
VLLM_BLOCK = 32
"""Tokens in a block of its KV cache."""


@dataclass(frozen=True)
class Started:
    """A running server, and where its metrics endpoint is: `host:port`."""

    server: Server
    page: str


@contextmanager
def vllm(directory: Path) -> Iterator[Started]:
    """Without ai-otel; its cache is so small that a few requests fill a good part of it."""
    found = parts.vllm_environment()
    assert found is not None, "mark the test with requires(part='vllm')"
    port = free_port()
    command = [
        found.python, "-m", "vllm.entrypoints.openai.api_server",
        "--model", found.model, "--served-model-name", "tiny", "--enforce-eager", "--max-model-len", "2048",
        "--max-num-seqs", str(SLOTS["vllm"]), "--block-size", str(VLLM_BLOCK), "--num-gpu-blocks-override", "256",
        *FLOAT32, "--stream-interval", "10", "--distributed-executor-backend", "uni",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    # The engine in one process and on one core. As two processes it waits for itself by turning in circles: on two
    # cores its streams then come in one piece, when all is over, and its page answers late. An event for ten tokens,
    # because the API cannot keep up with so small a model's single ones.
    environment = {**CPU, "OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "AI_OTEL_ENABLED": "false"}
    with serving(command, port, environment, directory / "vllm.log") as server:
        yield Started(server, f"127.0.0.1:{port}")


@contextmanager
def llama_cpp(directory: Path) -> Iterator[Started]:
    """What `llama-server --metrics` is."""
    model = write_model(directory / "tiny.gguf", Shape())
    port = free_port()
    command = [sys.executable, ENGINES / "llama_cpp/serve.py", model, str(port), str(SLOTS["llama_cpp"])]
    with serving(command, port, {}, directory / "llama_cpp.log") as server:
        yield Started(server, f"127.0.0.1:{port}")


@contextmanager
def triton(directory: Path) -> Iterator[Started]:
    """With the model `wait` on its Python backend."""
    installed = _servers()
    (bundled,) = (installed / "triton/lib").glob("python*/site-packages/pytriton/tritonserver/bin/tritonserver")
    port, page = free_port(), free_port()
    command = [
        bundled,
        # A copy: the server leaves compiled modules beside a model.
        f"--model-repository={shutil.copytree(ENGINES / 'triton/models', directory / 'models')}",
        f"--backend-directory={installed / 'triton-backends'}",
        "--allow-grpc=false",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={page}",
    ]
    with serving(
        command, port, parts.triton_libraries(installed), directory / "triton.log", health="/v2/health/ready"
    ) as server:
        yield Started(server, f"127.0.0.1:{page}")


@contextmanager
def bentoml(directory: Path) -> Iterator[Started]:
    """With the service of `tests/engines/bentoml/service.py`."""
    port = free_port()
    command = [
        _servers() / "bentoml/bin/bentoml", "serve", "service:Waiting",
        "--working-dir", ENGINES / "bentoml", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    environment = {
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(directory / "bentoml"),
        "PYTHONDONTWRITEBYTECODE": "1",  # its service lies in this checkout
    }
    with serving(command, port, environment, directory / "bentoml.log", health="/readyz") as server:
        yield Started(server, f"127.0.0.1:{port}")


def _servers() -> Path:
    found = parts.PARTS["servers"].find()
    assert found is not None, "mark the test with requires(part='servers')"
    return found


START: Mapping[str, Callable[[Path], AbstractContextManager[Started]]] = {
    "llama_cpp": llama_cpp,
    "triton": triton,
    "bentoml": bentoml,
    "vllm": vllm,
}
"""The quickest to start comes first."""
