"""
Cost of sampling eight GPUs: `python benchmarks/gpu.py [--seconds N]`, about a minute.

The GPUs are simulated: NVIDIA's unpatched binding on a simulated library. The results include the binding and the
simulation, not a real driver. All results are CPU time of the sampling thread.

* back to back: samples without pauses, with warm processor caches; the minimum of several rounds;
* at the default interval: as in a server, once a second and ten times a second, idle in between;
* beside a busy thread: the same, with the elapsed time of a sample, which includes waiting for the interpreter lock.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / place) for place in ("src", "tools", "tests")]

from ai_otel.gpu.nvidia.source import NvmlSource  # noqa: E402
from ai_otel.gpu.sampler import Sampler  # noqa: E402
from ai_otel.gpu.source import Device, GpuEvent, GpuReading, Options  # noqa: E402
from harness.gpu import nvml  # noqa: E402
from harness.gpu.nvml import GIB, Gpu, Scenario  # noqa: E402

SAMPLES, ROUNDS = 50, 10


class NullListener:
    """Makes the sampler read energy, and ignores it."""

    def opened(self, devices: Sequence[Device]) -> None:
        """Ignore devices."""

    def saw_energy(self, device: Device, time_s: float, energy_j: float | None) -> None:
        """Ignore a counter."""

    def saw_reading(self, device: Device, time_s: float, reading: GpuReading) -> None:
        """Ignore a reading."""

    def saw_event(self, event: GpuEvent) -> None:
        """Ignore an event."""

    def collected(self, time_s: float) -> None:
        """Ignore a collection."""


@dataclass
class Collections:
    """Duration of each collection, and the thread's CPU time after it, in seconds."""

    took_s: dict[str, list[float]] = field(default_factory=lambda: {"readings": [], "energy": []})
    cpu_s: list[float] = field(default_factory=list)

    def record(self, kind: str, took_s: float) -> None:
        """Record a collection, on the sampling thread."""
        self.took_s[kind].append(took_s)
        self.cpu_s.append(time.thread_time())


def eight() -> Scenario:
    """Return eight GPUs with the values of an H200."""
    gpus = [
        Gpu(uuid=f"GPU-51a0fa4e-0000-4000-8000-00000000000{number}", minor=number, memory_used=number * GIB)
        for number in range(8)
    ]
    return Scenario(gpus)


def back_to_back() -> tuple[float, float]:
    """Return CPU seconds of one sample of all values, and of all energy counters."""
    now_s = 0.0
    source = NvmlSource(Options(), clock=lambda: now_s)
    devices = source.open()
    sampler = Sampler(lambda: {"nvidia": source}, clock=lambda: now_s)
    sampler.collect()
    everything, energy = [], []
    for _ in range(ROUNDS):
        before_s = time.thread_time()
        for _ in range(SAMPLES):
            now_s += 1.0
            sampler.collect()
        everything.append((time.thread_time() - before_s) / SAMPLES)
        before_s = time.thread_time()
        for _ in range(SAMPLES):
            for device in devices:
                source.read_energy(device)
        energy.append((time.thread_time() - before_s) / SAMPLES)
    source.close()
    return min(everything), min(energy)


def at_default_interval(seconds: float, *, energy: bool) -> tuple[float, Collections]:
    """Return CPU seconds per second, and the collections."""
    collections = Collections()
    source = NvmlSource(Options())
    sampler = Sampler(
        lambda: {"nvidia": source}, listener=NullListener() if energy else None, on_collected=collections.record
    )
    sampler.start()
    time.sleep(seconds)
    sampler.stop()
    steady = collections.cpu_s[len(collections.cpu_s) // 5 :]  # the first ones discover supported values
    return (steady[-1] - steady[0]) / (0.8 * seconds), collections


def beside_a_busy_thread(work: Callable[[], tuple[float, Collections]]) -> tuple[float, Collections]:
    """Run `work` while another thread computes."""
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    try:
        return work()
    finally:
        over.set()
        thread.join()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="duration of each case at the default interval")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder, nvml.library(Path(folder), eight()):
        everything_s, energy_s = back_to_back()
        print("eight simulated GPUs, CPU time of the sampling thread")
        print(
            f"  back to back   everything {everything_s * 1e3:6.2f} ms a sample: {everything_s:.3%} of a core at 1 Hz"
        )
        print(f"                 energy     {energy_s * 1e3:6.2f} ms a sample: {10 * energy_s:.3%} of a core at 10 Hz")
        for energy in (False, True):
            interval = "1 Hz and energy at 10 Hz" if energy else "1 Hz"
            share, collections = at_default_interval(seconds, energy=energy)
            report("at the default interval", interval, share, collections)
            share, collections = beside_a_busy_thread(lambda on=energy: at_default_interval(seconds, energy=on))
            report("beside a busy thread", interval, share, collections)
    return 0


def report(case: str, interval: str, share: float, collections: Collections) -> None:
    """Print one line."""
    by_kind = [
        f"{len(took)} x {statistics.median(took) * 1e3:.2f} ms {kind}"
        for kind, took in collections.took_s.items()
        if took
    ]
    print(f"  {case}, {interval}: {share:.3%} of a core; elapsed {', '.join(by_kind)}")


if __name__ == "__main__":
    sys.exit(main())
