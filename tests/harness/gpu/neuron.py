"""
A simulated `neuron-monitor`: a program that writes one report a line, at the rate that a test needs.

The reports have the format that AWS documents (Neuron Monitor User Guide, "The JSON output format"). The numbers are
invented, not recorded from a device. The program checks its configuration.
"""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ai_otel.gpu.neuron.source import NeuronSource
from ai_otel.gpu.source import Options

REQUIRES: Sequence[Mapping[str, str]] = ()
GIB = 2**30

PROGRAM = """\
#!{python} -IS
# Simulated: writes its reports, then continues as configured.
import json, pathlib, sys, time
configuration = json.loads(pathlib.Path(sys.argv[sys.argv.index("-c") + 1]).read_text())
assert configuration["period"] == "1s", configuration
here = pathlib.Path(__file__).parent
(here / "pid").write_text(str(__import__("os").getpid()))
for line in (here / "reports").read_text().splitlines():
    print(line, flush=True)
if {goes_on}:
    time.sleep(600)
sys.exit({status})
"""


def memory(tensors: int, constants: int = 0) -> Mapping[str, int]:
    """Return the memory of one core by category."""
    return {
        "constants": constants,
        "model_code": 0,
        "model_shared_scratchpad": 0,
        "runtime_memory": 0,
        "tensors": tensors,
    }


def runtime(pid: int, busy: Mapping[str, float], held: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Return the report of one process: percent and bytes by core."""
    return {
        "pid": pid,
        "address": "",
        "neuron_runtime_tag": str(pid),
        "error": "",
        "report": {
            "neuroncore_counters": {
                "period": 1.0,
                "neuroncores_in_use": {core: {"neuroncore_utilization": percent} for core, percent in busy.items()},
                "error": "",
            },
            "memory_used": {
                "period": 1.0,
                "neuron_runtime_used_bytes": {
                    "host": GIB,
                    "neuron_device": sum(sum(parts.values()) for parts in held.values()),
                    "usage_breakdown": {"host": {}, "neuroncore_memory_usage": held},
                },
                "loaded_models": [],
                "error": "",
            },
        },
    }


def report(**differing: Any) -> dict[str, Any]:
    """Return a report of two devices with two cores each: one process on three cores, another on the fourth."""
    return {
        "neuron_runtime_data": [
            runtime(
                4711,
                {"0": 80.0, "1": 60.0, "2": 10.0},
                {"0": memory(2 * GIB, GIB), "1": memory(3 * GIB), "2": memory(GIB)},
            ),
            runtime(4712, {"3": 30.0}, {"3": memory(GIB)}),
        ],
        "system_data": {
            "neuron_hw_counters": {
                "period": 1.0,
                "neuron_devices": [
                    {
                        "neuron_device_index": device,
                        "mem_ecc_corrected": 3 * device,
                        "mem_ecc_uncorrected": 0,
                        "sram_ecc_corrected": 2,
                        "sram_ecc_uncorrected": device,
                    }
                    for device in (0, 1)
                ],
                "error": "",
            },
        },
        "instance_info": {"instance_id": "i-51a0fa4e", "instance_type": "trn1.2xlarge", "error": ""},
        "neuron_hardware_info": {
            "neuron_device_type": "trainium",
            "neuron_device_count": 2,
            "neuron_device_memory_size": 32 * GIB,
            "neuroncore_per_device_count": 2,
            "error": "",
        },
        **differing,
    }


TRUTH: Mapping[tuple[str, str | None], Mapping[str, Any]] = {
    ("i-51a0fa4e-neuron-0", None): {
        "utilization": 0.7,
        "memory_total_bytes": 32 * GIB,
        "memory_used_bytes": 6 * GIB,
        "errors": {"corrected": 2, "uncorrected": 0},
    },
    ("i-51a0fa4e-neuron-1", None): {
        "utilization": 0.2,
        "memory_total_bytes": 32 * GIB,
        "memory_used_bytes": 2 * GIB,
        "errors": {"corrected": 5, "uncorrected": 1},
    },
}
"""Expected readings of `running()` by `Device.key`."""


def program(directory: Path, *reports: object, goes_on: bool = True, status: int = 0) -> Path:
    """Write the program and its output: reports, or raw lines."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [each if isinstance(each, str) else json.dumps(each) for each in reports]
    (directory / "reports").write_text("".join(f"{line}\n" for line in lines))
    path = directory / "neuron-monitor"
    path.write_text(PROGRAM.format(python=sys.executable, goes_on=goes_on, status=status))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@contextmanager
def running(
    directory: Path,
    scenario: Sequence[object] = (report(),),
    *,
    options: Options = Options(),  # noqa: B008  frozen
) -> Iterator[NeuronSource]:
    """Yield an unopened production source whose `neuron-monitor` writes the reports and then waits."""
    path = program(directory / "neuron", *scenario)
    source = NeuronSource(Options(processes=options.processes, neuron_monitor=str(path)))
    try:
        yield source
    finally:
        source.close()
