"""
The questions that only a real GPU answers, each a function that returns what was seen and judges nothing.

Nothing here changes a setting of the GPU.
"""

from __future__ import annotations

import json
import os
import select
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ai_otel.gpu.nvidia.source import NvmlSource
from ai_otel.gpu.source import Options
from nvml_recording import load, support
from nvml_recording.library import ALL_LINKS, CALLS, Nvml, latencies_us, plain

POWER_AVERAGE, POWER_INSTANT = 185, 186
TRAFFIC = ((197, 0), (198, 0), (138, 0), (138, ALL_LINKS), (139, 0), (139, ALL_LINKS))
THROTTLING = (74, 75, 76, 77, 78, 79, 251, 252, 253, 269, 270, 271)
UNPRIVILEGED = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all")


@dataclass
class Bench:
    """One GPU, and how long to sample."""

    nvml: Nvml
    handle: Any
    seconds: float
    device: str = "cuda"
    """Where the load runs, as torch calls it."""

    def under(self, kind: str) -> Any:
        """A load for a little longer than we look; nothing for `idle`."""
        return nullcontext() if kind == "idle" else load.running(kind, self.seconds + 1, self.device)

    def kinds(self) -> tuple[str, ...]:
        """What can be run here."""
        return ("idle",) if load.missing() else ("idle", *load.KINDS)


def memory_versions(bench: Bench) -> dict[str, Any]:
    """Whether what the first version calls used is the second's used and reserved together."""
    (old_code, old), (new_code, new) = (
        bench.nvml.ask(*(CALLS[key][0], bench.handle, *CALLS[key][1]))
        for key in ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2")
    )
    if old_code or new_code:
        return {"codes": [old_code, new_code]}
    return {
        "v1": plain(old),
        "v2": plain(new),
        "v1_used_minus_v2_used_and_reserved": old.used - new.used - new.reserved,
        "v2_total_minus_its_parts": new.total - new.used - new.free - new.reserved,
    }


def energy_cadence(bench: Bench) -> dict[str, Any]:
    """Asked every millisecond: how long the counter stands still, and how far it then jumps."""
    changes: list[tuple[float, float]] = []
    until = time.perf_counter() + bench.seconds
    while (now := time.perf_counter()) < until:
        joules = bench.nvml.energy_j(bench.handle)
        if joules is None:
            return {"skipped": "there is no energy counter"}
        if not changes or joules != changes[-1][1]:
            changes.append((now, joules))
        time.sleep(0.001)
    steps_ms = [(later[0] - sooner[0]) * 1000 for sooner, later in pairwise(changes)]
    jumps_j = [later[1] - sooner[1] for sooner, later in pairwise(changes)]
    return {"changes": len(changes), "step_ms": spread(steps_ms), "jump_j": spread(jumps_j)}


def power_against_energy(bench: Bench) -> dict[str, Any]:
    """Under each load: the energy counter, and both powers added up over the same time."""
    told = {}
    for kind in bench.kinds():
        with bench.under(kind):
            told[kind] = _integrals(bench)
    return told


def _integrals(bench: Bench) -> dict[str, Any]:
    times, watts = [], {POWER_AVERAGE: [], POWER_INSTANT: []}  # type: tuple[list[float], dict[int, list[float]]]
    began_j = bench.nvml.energy_j(bench.handle)
    began = time.perf_counter()
    while time.perf_counter() - began < bench.seconds:
        times.append(time.perf_counter())
        for number, seen in watts.items():
            seen.append((bench.nvml.number(bench.handle, number) or 0.0) / 1000)
        time.sleep(0.02)
    ended_j = bench.nvml.energy_j(bench.handle)
    counted = None if began_j is None or ended_j is None else ended_j - began_j
    spans = [later - sooner for sooner, later in pairwise(times)]
    added = {
        number: sum(span * power for span, power in zip(spans, seen, strict=False)) for number, seen in watts.items()
    }
    return {
        "seconds": times[-1] - times[0],
        "counter_j": counted,
        "average_j": added[POWER_AVERAGE],
        "instant_j": added[POWER_INSTANT],
        "instant_w": spread(watts[POWER_INSTANT]),
    }


def gpm_privileges(bench: Bench) -> dict[str, Any]:
    """The performance metrics as whoever runs this, and as nobody without capabilities."""
    told: dict[str, Any] = {"uid": os.getuid(), "as_we_are": support.gpm(bench.nvml, bench.handle)}
    command = [*UNPRIVILEGED, sys.executable, str(Path(__file__).parents[1] / "record_nvml.py"), "--gpm-only"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        return told | {"as_nobody": {"skipped": "setpriv is not on PATH"}}
    if done.returncode:
        return told | {"as_nobody": {"failed": done.stderr.strip().splitlines()[-1:]}}
    return told | {"as_nobody": json.loads(done.stdout)}


def activity(bench: Bench) -> dict[str, Any]:
    """Utilization and performance metrics under each load: which of them one tiny kernel makes full."""
    told = {}
    for kind in bench.kinds():
        with bench.under(kind):
            gpm = support.gpm(bench.nvml, bench.handle, between_s=max(0.2, bench.seconds / 2))
            rates = plain(bench.nvml.ask("nvmlDeviceGetUtilizationRates", bench.handle)[1])
            told[kind] = {"utilization": rates, "gpm": gpm.get("metrics"), "codes": gpm.get("sample_codes")}
    return told


def latency(bench: Bench) -> dict[str, Any]:
    """What a whole look and the energy counter alone cost, idle and loaded."""
    told = {}
    for kind in bench.kinds()[:2]:
        with bench.under(kind):
            told[kind] = _look_latencies(bench)
    return told


def _look_latencies(bench: Bench) -> dict[str, Any]:
    source = NvmlSource(Options())
    try:
        device = source.open()[0]
        return {
            "read": latencies_us(lambda: source.read(device), 200, bench.seconds / 2),
            "read_energy": latencies_us(lambda: source.read_energy(device), 1000, bench.seconds / 2),
        }
    finally:
        source.close()


def throughput(bench: Bench) -> dict[str, Any]:
    """What looking costs the work: matrix products per second with no sample, one and ten a second, in turn."""
    if load.missing():
        return {"skipped": load.missing()}
    told: dict[str, list[float]] = {"0": [], "1": [], "10": []}
    for _ in range(3):
        for rate, rounds in told.items():
            with _Sampled(float(rate)), load.running("matmul", bench.seconds, bench.device) as work:
                pass
            rounds.append(work.told["rounds"] / work.told["seconds"])
    return {"looks_per_s": told}


class _Sampled:
    """Looks at everything so many times a second, on a thread."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        source = NvmlSource(Options())
        devices = source.open()
        while not self._ended.wait(1 / self._per_second if self._per_second else None):
            for device in devices:
                source.read(device)
        source.close()


def fork(bench: Bench) -> dict[str, Any]:
    """What the child of a fork is answered when it uses its parent's NVML; killed after 10 s."""
    calls = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetUtilizationRates")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        codes = {name: bench.nvml.ask(name, bench.handle)[0] for name in calls}
        os.write(writer, json.dumps(codes).encode())
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], 10)
    told = json.loads(os.read(reader, 4096) or b'"it ended without a word"') if ready else "hangs"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    return {"child": told, "parent_after": {name: bench.nvml.ask(name, bench.handle)[0] for name in calls}}


def processes(bench: Bench) -> dict[str, Any]:
    """Whether NVML tells a process by the number that it has here."""
    if load.missing():
        return {"skipped": load.missing()}
    with bench.under("matmul") as work:
        time.sleep(min(1.0, bench.seconds))
        _, listed = bench.nvml.ask("nvmlDeviceGetComputeRunningProcesses_v3", bench.handle)
        code, used = bench.nvml.ask("nvmlDeviceGetProcessUtilization", bench.handle, 0)
        inside = Path(f"/proc/{work.pid}/status").read_text()
        return {
            "listed": len(listed or []),
            "listed_by_our_number": any(one.pid == work.pid for one in listed or []),
            "numbers_in_namespaces": len(next(line for line in inside.splitlines() if line.startswith("NSpid")).split())
            - 1,
            "utilization_code": code,
            "utilization_by_our_number": any(one.pid == work.pid for one in used or []),
            "memory_told": [one.usedGpuMemory is not None for one in listed or []],
        }


def traffic(bench: Bench) -> dict[str, Any]:
    """The byte counters while nothing and while a known number of bytes goes to the GPU."""
    told = {}
    for kind in ("idle",) if load.missing() else ("idle", "host_to_device"):
        with bench.under(kind) as work:
            before = _traffic(bench)
            time.sleep(bench.seconds)
        after = _traffic(bench)
        sent = work.told.get("bytes") if work else 0
        told[kind] = {"sent_bytes": sent, "before": before, "after": after}
    return told


def _traffic(bench: Bench) -> dict[str, float | None]:
    return {f"{number}/{scope}": bench.nvml.number(bench.handle, number, scope) for number, scope in TRAFFIC}


def throttling(bench: Bench) -> dict[str, Any]:
    """The nanosecond counters of throttling before and after work."""
    before = {number: bench.nvml.number(bench.handle, number) for number in THROTTLING}
    kind = bench.kinds()[-1 if len(bench.kinds()) == 1 else 1]
    with bench.under(kind):
        time.sleep(bench.seconds)
    return {
        "load": kind,
        "seconds": bench.seconds,
        "by_number": {number: [was, bench.nvml.number(bench.handle, number)] for number, was in before.items()},
    }


NEW_PROCESS = """
import json
from pathlib import Path
def pages(): return int(Path("/proc/self/statm").read_text().split()[1])
from ai_otel.gpu.nvidia.source import NvmlSource
from ai_otel.gpu.source import Options
import os
before = pages(); source = NvmlSource(Options()); device = source.open()[0]
opened = pages(); [source.read(device) for _ in range(100)]; after = pages(); source.close()
size = os.sysconf("SC_PAGE_SIZE")
print(json.dumps({"open_bytes": (opened - before) * size, "hundred_reads_bytes": (after - opened) * size}))
"""


def footprint(_bench: Bench) -> dict[str, Any]:
    """How much resident memory NVML and a hundred looks take."""
    done = subprocess.run([sys.executable, "-c", NEW_PROCESS], capture_output=True, text=True, check=False, timeout=120)
    told: dict[str, Any] = (
        json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr.splitlines()[-1:]}
    )
    return told


SMI = {
    "power.draw.average": "power_w",
    "power.draw.instant": None,
    "memory.total": "memory_total_bytes",
    "memory.used": "memory_used_bytes",
    "memory.reserved": "memory_reserved_bytes",
    "utilization.gpu": "utilization",
    "temperature.gpu": "temperature_c.gpu",
    "temperature.memory": "temperature_c.memory",
    "clocks.current.sm": "frequency_hz.sm",
    "clocks.current.memory": "frequency_hz.memory",
    "enforced.power.limit": "power_limit_w.enforced",
}
"""NVIDIA's own program's name of a value → ours."""


def nvidia_smi(bench: Bench) -> dict[str, Any]:
    """The same moment by NVIDIA's own program, idle and loaded."""
    told: dict[str, Any] = {}
    for kind in bench.kinds()[:2]:
        with bench.under(kind):
            time.sleep(min(1.0, bench.seconds / 2))
            told[kind] = _smi_and_ours()
    return told


def _smi_and_ours() -> dict[str, Any]:
    command = ["nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        return {"skipped": "nvidia-smi is not on PATH"}
    ours = support.as_read()[0].get("reading", {})
    theirs = [word.strip() for word in done.stdout.strip().split(",")]
    if done.returncode or len(theirs) != len(SMI):
        return {"failed": (done.stderr or done.stdout).strip().splitlines()[-1:]}
    return {
        name: {"nvidia_smi": told, "ours": ours.get(SMI[name] or "")} for name, told in zip(SMI, theirs, strict=True)
    }


def spread(numbers: list[float]) -> dict[str, float] | None:
    """Smallest, median, largest and how many."""
    if not numbers:
        return None
    return {"min": min(numbers), "median": statistics.median(numbers), "max": max(numbers), "n": len(numbers)}


ALL: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "memory_versions": memory_versions,
    "energy_cadence": energy_cadence,
    "power_against_energy": power_against_energy,
    "gpm_privileges": gpm_privileges,
    "activity": activity,
    "latency": latency,
    "throughput": throughput,
    "fork": fork,
    "processes": processes,
    "traffic": traffic,
    "throttling": throttling,
    "footprint": footprint,
    "nvidia_smi": nvidia_smi,
}
"""In the order in which they run."""
