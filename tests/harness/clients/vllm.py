"""What tests of a vLLM server share: bodies of requests, and its metrics endpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

import parts
from harness.polling import eventually
from harness.server import Server
from harness.telemetry.sink import Sink

Start = Callable[..., AbstractContextManager[Server]]
"""`start(*flags, bare=False, environment=None)`: a running vLLM."""

PROMPT = "the quick brown fox observes a model server on kubernetes "


class Page:
    """vLLM's metrics endpoint, read by Prometheus' parser."""

    def __init__(self, text: str) -> None:
        self.samples = [s for family in text_string_to_metric_families(text) for s in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """Sum over all series of a sample name that carry these labels."""
        return sum(s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items())


def chat(content: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], "ignore_eos": True, **more}


def completion(prompt: Any, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": prompt, "ignore_eos": True, **more}


STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def settled(server: Server) -> Page:
    """Return the metrics once no request runs or waits."""

    def idle() -> Page | None:
        page = Page(server.page())
        busy = page.total("vllm:num_requests_running") or page.total("vllm:num_requests_waiting")
        return None if busy else page

    page = eventually(idle, 10, "requests still run", interval_s=0.1)
    assert page is not None
    return page


FLOAT32 = ("--dtype", "float32")
"""
On Intel CPUs with AMX, vLLM's worker dies of SIGILL in bfloat16 at some shapes, which is what `auto` resolves to there.
Every vLLM that a test starts is given these flags, or `dtype="float32"` offline.
"""

CPU = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


SERVED = {**CPU, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""
Of a server. vLLM for CPUs takes no executor in the engine's own process without this setting; a third process
then imports everything once more, which is a third of a start, and on few cores spins on the others' time.
"""


def telemetry_to(sink: Sink) -> dict[str, str]:
    """The variables a user sets."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        # On a busy machine the receiver, a thread of the tests, may be late; which is no
        # error of the exporter.
        "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
    }


def run_offline(installed: parts.VllmEnvironment, sink: Sink, program: str) -> str:
    """Run a Python program in vLLM's environment, below `ai-otel run`."""
    done = subprocess.run(
        [installed.python.parent / "ai-otel", "run", "--", installed.python, "-c", program],
        env={**os.environ, **telemetry_to(sink), **CPU},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(done.stdout[-3000:], done.stderr[-6000:], file=sys.stderr)
    assert done.returncode == 0
    return done.stdout
