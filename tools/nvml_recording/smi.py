"""Comparison of the source's readings with nvidia-smi."""

from __future__ import annotations

import subprocess
import time
from typing import Any

from nvml_recording import support
from nvml_recording.bench import Bench

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
"""Value of nvidia-smi → name of the reading's value."""


def nvidia_smi(bench: Bench) -> dict[str, Any]:
    """Compare a reading with nvidia-smi at the same time, idle and loaded."""
    results: dict[str, Any] = {}
    for kind in bench.kinds()[:2]:
        with bench.under(kind):
            time.sleep(min(1.0, bench.seconds / 2))
            results[kind] = _compare()
    return results


def _compare() -> dict[str, Any]:
    command = ["nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        return {"skipped": "nvidia-smi is not on PATH"}
    readings = support.as_read()[0].get("reading", {})
    printed = [word.strip() for word in done.stdout.strip().split(",")]
    if done.returncode or len(printed) != len(SMI):
        return {"failed": (done.stderr or done.stdout).strip().splitlines()[-1:]}
    return {
        name: {"nvidia_smi": value, "source": readings.get(SMI[name] or "")}
        for name, value in zip(SMI, printed, strict=True)
    }
