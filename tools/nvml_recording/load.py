"""
Loads for a GPU. They run in a separate process, because this one must not initialize CUDA.

A load prints `ready` after its warm-up, runs for the given seconds, and prints its number of rounds as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

WORK = """
import json, os, sys, time
import torch

kind, seconds, device = sys.argv[1], float(sys.argv[2]), sys.argv[3]
on_gpu = device == "cuda"
size = 8192 if on_gpu else 256
number = torch.bfloat16 if on_gpu else torch.float32
a, b = (torch.randn(size, size, device=device, dtype=number) for _ in range(2))
memory = torch.empty(2**30 if on_gpu else 2**22, device=device, dtype=torch.uint8)
other = torch.empty_like(memory)
host = torch.empty(2**28 if on_gpu else 2**20, dtype=torch.uint8, pin_memory=on_gpu)
landing = torch.empty(host.shape, device=device, dtype=torch.uint8)


def matmul():
    torch.mm(a, b)


def copy():
    other.copy_(memory)


def host_to_device():
    landing.copy_(host, non_blocking=True)


def spin():
    # One thread of one block: utilization is 100 %, one compute unit is active.
    torch.cuda._sleep(10_000_000) if on_gpu else time.sleep(0.001)


def square():
    # Ten times a second: 50 ms of work, 50 ms idle.
    until = time.perf_counter() + 0.05
    while time.perf_counter() < until:
        torch.mm(a, b)
        finish()
    time.sleep(0.05)


def finish():
    if on_gpu:
        torch.cuda.synchronize()


step = {"matmul": matmul, "copy": copy, "host_to_device": host_to_device, "spin": spin, "square": square}[kind]
for _ in range(3):
    step()
finish()
print("ready", flush=True)
sys.stdin.readline()
rounds, began = 0, time.perf_counter()
while time.perf_counter() - began < seconds:
    step()
    rounds += 1
    if rounds % 8 == 0:
        finish()
finish()
print(json.dumps({"rounds": rounds, "seconds": time.perf_counter() - began, "pid": os.getpid(),
                  "bytes": rounds * host.numel() if kind == "host_to_device" else None}))
"""

KINDS = ("matmul", "copy", "spin", "square")


@dataclass
class Load:
    """A running load; after its end, its output."""

    pid: int
    output: dict[str, Any] = field(default_factory=dict)


def missing() -> str | None:
    """Return why no load can run; `None` if one can."""
    return None if importlib.util.find_spec("torch") else "torch is not installed in this environment"


@contextmanager
def running(kind: str, seconds: float, device: str = "cuda") -> Iterator[Load]:
    """Start a load after its warm-up, and read its output at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, kind, str(seconds), device],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    to, of = process.stdin, process.stdout
    try:
        if to is None or of is None or of.readline().strip() != "ready":
            raise RuntimeError(f"the load {kind} did not start: see its output above")
        to.write("go\n")
        to.flush()
        load = Load(process.pid)
        yield load
        load.output = json.loads(of.readline())
    finally:
        process.kill()
        process.communicate()
