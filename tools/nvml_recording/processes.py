"""Experiments with other processes: a forked child, the PIDs that NVML reports, and the memory of a new process."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nvml_recording import load
from nvml_recording.bench import Bench


def fork(bench: Bench) -> dict[str, Any]:
    """Record the return codes of a forked child that uses its parent's NVML. The child is killed after 10 s."""
    calls = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetUtilizationRates")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        codes = {name: bench.nvml.ask(name, bench.handle)[0] for name in calls}
        os.write(writer, json.dumps(codes).encode())
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], 10)
    results = json.loads(os.read(reader, 4096) or b'"no output"') if ready else "hangs"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    return {"child": results, "parent_after": {name: bench.nvml.ask(name, bench.handle)[0] for name in calls}}


def processes(bench: Bench) -> dict[str, Any]:
    """Record whether NVML reports the PID that a process has in this namespace."""
    if load.missing():
        return {"skipped": load.missing()}
    with bench.under("matmul") as work:
        time.sleep(min(1.0, bench.seconds))
        _, listed = bench.nvml.ask("nvmlDeviceGetComputeRunningProcesses_v3", bench.handle)
        code, used = bench.nvml.ask("nvmlDeviceGetProcessUtilization", bench.handle, 0)
        inside = Path(f"/proc/{work.pid}/status").read_text()
        return {
            "listed": len(listed or []),
            "listed_by_own_pid": any(one.pid == work.pid for one in listed or []),
            "pid_namespaces": len(next(line for line in inside.splitlines() if line.startswith("NSpid")).split()) - 1,
            "utilization_code": code,
            "utilization_by_own_pid": any(one.pid == work.pid for one in used or []),
            "memory_known": [one.usedGpuMemory is not None for one in listed or []],
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
    """Measure the resident memory of NVML and of a hundred samples."""
    done = subprocess.run([sys.executable, "-c", NEW_PROCESS], capture_output=True, text=True, check=False, timeout=120)
    results: dict[str, Any] = (
        json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr.splitlines()[-1:]}
    )
    return results
