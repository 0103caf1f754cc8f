"""
What looking at eight GPUs costs: `python benchmarks/gpu.py [--seconds N]`, a minute in all.

The GPUs are simulated: NVIDIA's unpatched binding on a library of ours, so the figures are ours, the binding's and the
simulation's, and a real driver adds its own. All are CPU time of the thread that samples.

* back to back: one look after the other, everything in the processor's caches; the least of several rounds;
* at its own pace: as in a server, once a second and ten times a second, with everything else asleep in between;
* beside a thread that computes: the same, and how long a look takes by the clock, which is what the interpreter's lock
  makes it wait, and how often it is taken then.
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

LOOKS, ROUNDS = 50, 10


class Nobody:
    """Hears of everything and does nothing: energy is read, and nothing is made of it."""

    def opened(self, devices: Sequence[Device]) -> None:
        """Devices."""

    def saw_energy(self, device: Device, time_s: float, energy_j: float | None) -> None:
        """One counter."""

    def saw_reading(self, device: Device, time_s: float, reading: GpuReading) -> None:
        """One device."""

    def saw_event(self, event: GpuEvent) -> None:
        """One event."""

    def collected(self, time_s: float) -> None:
        """One sample."""


@dataclass
class Looks:
    """What each look took, and the thread's CPU time after it."""

    took_s: dict[str, list[float]] = field(default_factory=lambda: {"readings": [], "energy": []})
    cpu_s: list[float] = field(default_factory=list)

    def passed(self, kind: str, took_s: float) -> None:
        """One look is over; called on the thread that samples."""
        self.took_s[kind].append(took_s)
        self.cpu_s.append(time.thread_time())


def eight() -> Scenario:
    """All as an H200 is."""
    gpus = [
        Gpu(uuid=f"GPU-51a0fa4e-0000-4000-8000-00000000000{number}", minor=number, memory_used=number * GIB)
        for number in range(8)
    ]
    return Scenario(gpus)


def back_to_back() -> tuple[float, float]:
    """CPU seconds of one look at everything, and of one at the energy counters."""
    now_s = 0.0
    source = NvmlSource(Options(), clock=lambda: now_s)
    devices = source.open()
    sampler = Sampler(dict, clock=lambda: now_s)
    sampler._sources = {"nvidia": source}  # noqa: SLF001 - without its thread, which would ask for them
    sampler.collect()
    everything, energy = [], []
    for _ in range(ROUNDS):
        before_s = time.thread_time()
        for _ in range(LOOKS):
            now_s += 1.0
            sampler.collect()
        everything.append((time.thread_time() - before_s) / LOOKS)
        before_s = time.thread_time()
        for _ in range(LOOKS):
            for device in devices:
                source.read_energy(device)
        energy.append((time.thread_time() - before_s) / LOOKS)
    source.close()
    return min(everything), min(energy)


def at_its_own_pace(seconds: float, *, energy: bool) -> tuple[float, Looks]:
    """CPU seconds a second, and the samples."""
    samples = Looks()
    source = NvmlSource(Options())
    sampler = Sampler(lambda: {"nvidia": source}, listener=Nobody() if energy else None, on_collected=samples.passed)
    sampler.start()
    time.sleep(seconds)
    sampler.stop()
    settled = samples.cpu_s[len(samples.cpu_s) // 5 :]  # the first looks find out what there is
    return (settled[-1] - settled[0]) / (0.8 * seconds), samples


def beside_a_thread_that_computes(work: Callable[[], tuple[float, Looks]]) -> tuple[float, Looks]:
    """The same, while the interpreter is never free for long."""
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
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each of the paced cases runs")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder, nvml.library(Path(folder), eight()):
        everything_s, energy_s = back_to_back()
        print("eight simulated GPUs, CPU time of the thread that looks")
        print(f"  back to back   everything {everything_s * 1e3:6.2f} ms a look: {everything_s:.3%} of a core at 1 Hz")
        print(f"                 energy     {energy_s * 1e3:6.2f} ms a look: {10 * energy_s:.3%} of a core at 10 Hz")
        for energy in (False, True):
            pace = "1 Hz and energy at 10 Hz" if energy else "1 Hz"
            share, samples = at_its_own_pace(seconds, energy=energy)
            told("at its own pace", pace, share, samples)
            share, samples = beside_a_thread_that_computes(lambda on=energy: at_its_own_pace(seconds, energy=on))
            told("beside a busy thread", pace, share, samples)
    return 0


def told(case: str, pace: str, share: float, samples: Looks) -> None:
    """One line."""
    by_kind = [
        f"{len(took)} x {statistics.median(took) * 1e3:.2f} ms {kind}" for kind, took in samples.took_s.items() if took
    ]
    print(f"  {case}, {pace}: {share:.3%} of a core; by the clock {', '.join(by_kind)}")


if __name__ == "__main__":
    sys.exit(main())
