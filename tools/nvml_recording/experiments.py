"""Experiments that need a real GPU. Each returns its observations. None changes a setting of the GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from ai_otel.gpu.nvidia.source import NvmlSource
from ai_otel.gpu.source import Options
from nvml_recording import load, support
from nvml_recording.bench import Bench, spread
from nvml_recording.library import ALL_LINKS, CALLS, latencies_us, plain
from nvml_recording.processes import footprint, fork, processes
from nvml_recording.smi import nvidia_smi

POWER_AVERAGE, POWER_INSTANT = 185, 186
TRAFFIC = ((197, 0), (198, 0), (138, 0), (138, ALL_LINKS), (139, 0), (139, ALL_LINKS))
THROTTLING = (74, 75, 76, 77, 78, 79, 251, 252, 253, 269, 270, 271)
UNPRIVILEGED = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all")


def memory_versions(bench: Bench) -> dict[str, Any]:
    """Compare used memory of version 1 with the sum of used and reserved memory of version 2."""
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
    """Measure interval and size of the energy counter's steps, reading it every millisecond."""
    changes: list[tuple[float, float]] = []
    until = time.perf_counter() + bench.seconds
    while (now := time.perf_counter()) < until:
        joules = bench.nvml.energy_j(bench.handle)
        if joules is None:
            return {"skipped": "the GPU has no energy counter"}
        if not changes or joules != changes[-1][1]:
            changes.append((now, joules))
        time.sleep(0.001)
    steps_ms = [(later[0] - sooner[0]) * 1000 for sooner, later in pairwise(changes)]
    jumps_j = [later[1] - sooner[1] for sooner, later in pairwise(changes)]
    return {"changes": len(changes), "step_ms": spread(steps_ms), "jump_j": spread(jumps_j)}


def power_against_energy(bench: Bench) -> dict[str, Any]:
    """Compare the energy counter with the integrals of both power values, under each load."""
    results = {}
    for kind in bench.kinds():
        with bench.under(kind):
            results[kind] = _integrals(bench)
    return results


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
    """Read the performance metrics as the current user and as an unprivileged one."""
    results: dict[str, Any] = {"uid": os.getuid(), "as_current_user": support.gpm(bench.nvml, bench.handle)}
    command = [*UNPRIVILEGED, sys.executable, str(Path(__file__).parents[1] / "record_nvml.py"), "--gpm-only"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        return results | {"as_unprivileged": {"skipped": "setpriv is not on PATH"}}
    if done.returncode:
        return results | {"as_unprivileged": {"failed": done.stderr.strip().splitlines()[-1:]}}
    return results | {"as_unprivileged": json.loads(done.stdout)}


def activity(bench: Bench) -> dict[str, Any]:
    """Read utilization and performance metrics under each load, one of which is a tiny kernel."""
    results = {}
    for kind in bench.kinds():
        with bench.under(kind):
            gpm = support.gpm(bench.nvml, bench.handle, between_s=max(0.2, bench.seconds / 2))
            rates = plain(bench.nvml.ask("nvmlDeviceGetUtilizationRates", bench.handle)[1])
            results[kind] = {"utilization": rates, "gpm": gpm.get("metrics"), "codes": gpm.get("sample_codes")}
    return results


def latency(bench: Bench) -> dict[str, Any]:
    """Measure the latency of a reading and of the energy counter alone, idle and loaded."""
    results = {}
    for kind in bench.kinds()[:2]:
        with bench.under(kind):
            results[kind] = _latencies(bench)
    return results


def _latencies(bench: Bench) -> dict[str, Any]:
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
    """Measure matrix products per second with no sample, one and ten samples a second."""
    if load.missing():
        return {"skipped": load.missing()}
    results: dict[str, list[float]] = {"0": [], "1": [], "10": []}
    for _ in range(3):
        for rate, rounds in results.items():
            with _Sampling(float(rate)), load.running("matmul", bench.seconds, bench.device) as work:
                pass
            rounds.append(work.output["rounds"] / work.output["seconds"])
    return {"by_samples_per_s": results}


class _Sampling:
    """Reads all devices at a rate on a thread."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        source = NvmlSource(Options())
        devices = source.open()
        while not self._stopping.wait(1 / self._per_second if self._per_second else None):
            for device in devices:
                source.read(device)
        source.close()


def traffic(bench: Bench) -> dict[str, Any]:
    """Read the byte counters before and after a known number of bytes is sent to the GPU."""
    results = {}
    for kind in ("idle",) if load.missing() else ("idle", "host_to_device"):
        with bench.under(kind) as work:
            before = _traffic(bench)
            time.sleep(bench.seconds)
        after = _traffic(bench)
        sent = work.output.get("bytes") if work else 0
        results[kind] = {"sent_bytes": sent, "before": before, "after": after}
    return results


def _traffic(bench: Bench) -> dict[str, float | None]:
    return {f"{number}/{scope}": bench.nvml.number(bench.handle, number, scope) for number, scope in TRAFFIC}


def throttling(bench: Bench) -> dict[str, Any]:
    """Read the throttle counters in nanoseconds before and after work."""
    before = {number: bench.nvml.number(bench.handle, number) for number in THROTTLING}
    kind = bench.kinds()[-1 if len(bench.kinds()) == 1 else 1]
    with bench.under(kind):
        time.sleep(bench.seconds)
    return {
        "load": kind,
        "seconds": bench.seconds,
        "by_number": {number: [was, bench.nvml.number(bench.handle, number)] for number, was in before.items()},
    }


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
"""Name → experiment, in the order in which they run."""
