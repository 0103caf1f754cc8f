"""Real processes on one host: which of them samples, what the others export, and what `ai-otel doctor` reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.gpu import nvml
from harness.gpu.host import unique_device
from harness.gpu.nvml import Gpu, Scenario

pytestmark = pytest.mark.requires(**nvml.REQUIRES)

SERVER = """
import os, sys, time
from ai_otel.testing import captured
options = {"metrics": sys.argv[1] == "on", "lock_dir": os.environ["AI_OTEL_LOCK_DIR"]}
with captured(attach=False, engine="vllm", gpu="nvidia", gpu_interval=0.1, **options) as telemetry:
    telemetry.recorder.wake()
    deadline = time.monotonic() + float(sys.argv[2])
    while not telemetry.points("hw.power") and time.monotonic() < deadline:
        time.sleep(0.05)
    print(len(telemetry.points("hw.power")), flush=True)
    sys.stdin.read()
"""


@contextmanager
def server(variables: dict[str, str], *, metrics: str = "on", wait_s: float = 30.0) -> Iterator[tuple[int, int]]:
    """Run a server until the block ends; yields its process id and its number of `hw.power` points."""
    command = [sys.executable, "-c", SERVER, metrics, str(wait_s)]
    environment = {**os.environ, **variables}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.communicate(timeout=60)


@pytest.fixture
def with_a_gpu(tmp_path: Path) -> dict[str, str]:
    return {**nvml.environment(Scenario([Gpu()]), tmp_path), "AI_OTEL_LOCK_DIR": str(tmp_path)}


@pytest.fixture
def without_a_gpu(tmp_path: Path) -> dict[str, str]:
    (empty := tmp_path / "empty").mkdir()
    return {**nvml.environment(Scenario([]), empty), "AI_OTEL_LOCK_DIR": str(tmp_path)}


def sampling(tmp_path: Path, pid: int) -> list[str]:
    """What doctor reports of the leader, asked about one process."""
    command = [sys.executable, "-m", "ai_otel.cli", "doctor", "--json", "--pid", str(pid)]
    environment = {
        **os.environ,
        "AI_OTEL_LOCK_DIR": str(tmp_path),
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    said = [each["says"] for each in json.loads(done.stdout)["findings"] if each["subject"] == "sampling"]
    assert said[0].endswith(f"by lock files in {tmp_path}")
    return said[1:]


@pytest.mark.fault(
    "gpu",
    "a demo server that sees no GPU was left running on the host of a server with one",
    "the server with the GPU exports hw.*, and `ai-otel doctor` names it",
)
def test_a_server_without_a_gpu_leaves_the_sampling_to_others(
    with_a_gpu: dict[str, str], without_a_gpu: dict[str, str], tmp_path: Path
) -> None:
    with server(without_a_gpu, wait_s=2.0) as (demo, none), server(with_a_gpu) as (serving, points):
        assert (none, points) == (0, 1)
        (own,) = sampling(tmp_path, serving)
        assert own.startswith(f"this server {serving} samples 1 device since ")
        leading, following = sampling(tmp_path, demo)
        assert leading.startswith(f"process {serving} samples 1 device since ")
        assert following.startswith(f"process {demo} does not sample")


def test_a_server_without_metrics_leaves_the_sampling_to_others(with_a_gpu: dict[str, str]) -> None:
    with server(with_a_gpu, metrics="off", wait_s=2.0) as (_, none), server(with_a_gpu) as (_, points):
        assert (none, points) == (0, 1)


def test_one_of_two_servers_samples(with_a_gpu: dict[str, str]) -> None:
    with server(with_a_gpu) as (_, first), server(with_a_gpu, wait_s=3.0) as (_, second):
        assert (first, second) == (1, 0)


@pytest.mark.fault(
    "gpu",
    "two servers of one host have the same GPU and different TMPDIR",
    "one of them exports hw.*",
)
def test_one_of_two_servers_with_different_temporary_directories_samples(tmp_path: Path) -> None:
    temporary = [tmp_path / "first", tmp_path / "second"]
    for each in temporary:
        each.mkdir()
    with unique_device() as uuid:
        variables = {**nvml.environment(Scenario([Gpu(uuid=uuid)]), tmp_path), "AI_OTEL_LOCK_DIR": ""}
        first, second = ({**variables, "TMPDIR": str(each)} for each in temporary)
        with server(first) as (_, leading), server(second, wait_s=3.0) as (_, following):
            assert (leading, following) == (1, 0)
