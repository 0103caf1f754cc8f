"""
`tools/record_nvml.py`, and what becomes of a recording.

No recording of hardware exists yet: what is recorded here is the simulated library, and says so. Where a recording of a
GPU lies in tests/gpu/recordings, the simulated library must support exactly what that GPU did.
"""

from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ai_otel.gpu.nvidia import library as nvml_library
from environments import ROOT
from harness.gpu import nvml, recording
from harness.gpu.nvml import Field, Gpu, Instance, Scenario

pytestmark = pytest.mark.requires(**nvml.REQUIRES)

HARDWARE = sorted(recording.RECORDINGS.glob("*.json")) if recording.RECORDINGS.exists() else []


def recorded(directory: Path, scenario: Scenario, *options: str, **variables: str) -> dict[str, Any]:
    """Run the recorder's command against the simulated library."""
    out = directory / "recording.json"
    recorder = str(ROOT / "tools/record_nvml.py")
    command = [sys.executable, recorder, str(out), "--times", "3", "--seconds", "0.3", *options]
    environment = os.environ | nvml.environment(scenario, directory) | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "SIMULATED" in done.stdout
    return recording.load(out)


AWKWARD = Scenario(
    driver="575.51.03",
    gpus=[
        Gpu(
            encoder=None,
            fan_speeds=[30],
            gpm={2: math.nan, 3: 12.0, 5: 3.0},
            gpm_codes={10: 21},
            fields=nvml.fields_of_an_h200()
            | {(82, -1): Field(0), (83, -1): Field(0, "ullong", code=3), (190, -1): Field(1, code=4)},
            thresholds={0: 95},
            clocks={"sm": 1000, "graphics": 1000},
            process_utilization=False,
        ),
        Gpu(
            uuid="GPU-51a0fa4e-0000-4000-8000-000000000002",
            architecture=8,
            gpm=None,
            energy=False,
            temperature=None,
            fields={(185, 0): Field(250_000), (3, 0): Field(5, "uint")},
            returns={"nvmlDeviceGetUtilizationRates": 4, "nvmlDeviceGetMemoryInfo_v2": 13},
        ),
        Gpu(
            uuid="GPU-51a0fa4e-0000-4000-8000-000000000003",
            instances=[Instance(1, gpm={2: 5.0}), Instance(2, profile="3g.71gb", gpm_codes={2: 21})],
            returns={"nvmlGpmSampleGet": 4},
        ),
    ],
)  # fmt: skip


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Recording of GPUs that each lack other values."""
    return recorded(tmp_path_factory.mktemp("awkward"), AWKWARD)


def test_a_recording_of_the_simulation_is_marked(awkward: dict[str, Any]) -> None:
    assert awkward["simulated"] is True


def test_a_recording_contains_no_identifiers(awkward: dict[str, Any]) -> None:
    text = json.dumps(awkward)
    for secret in ("51a0fa4e", "1650000000001", "00000000:18:00.0"):
        assert secret not in text
    assert "GPU-00000000-0000-4000-8000-000000000001" in text, "devices are still distinguishable"


def test_a_replayed_recording_supports_the_same_values(awkward: dict[str, Any], tmp_path: Path) -> None:
    """Recorded, replayed as a scenario, and recorded again: the same values and the same reasons of absence."""
    again = recorded(tmp_path, recording.scenario_of(awkward))
    assert support_maps(again) == support_maps(awkward)
    assert return_codes(again) == return_codes(awkward)
    supported = {support for device in support_maps(awkward).values() for support in device.values()}
    assert {"ok", "not_supported", "no_permission", "invalid", "error"} <= supported


def test_the_simulated_library_supports_what_the_hardware_does(tmp_path: Path) -> None:
    if not HARDWARE:
        pytest.skip("no recording of a real GPU exists yet; next: python tools/record_nvml.py --all where there is one")
    for path in HARDWARE:
        hardware = recording.load(path)
        assert hardware["simulated"] is False
        assert support_maps(recorded(tmp_path, recording.scenario_of(hardware))) == support_maps(hardware), path.name


def test_a_present_gpu_can_be_recorded(tmp_path: Path) -> None:
    if not any(trace.exists() for trace in nvml_library.TRACES):
        pytest.skip("there is no NVIDIA GPU here")
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(ROOT / "tools/record_nvml.py"), str(out), "--only", "memory_versions"]
    subprocess.run(command, check=True, timeout=300)
    recorded_json = recording.load(out)
    assert recorded_json["simulated"] is False
    assert recorded_json["experiments"]["memory_versions"]["v1_used_minus_v2_used_and_reserved"] == 0


def support_maps(recorded_json: dict[str, Any]) -> dict[tuple[str, str | None], dict[str, str]]:
    """Return, by device, each value's name → `ok`, or why it is absent."""
    return {(device["id"], device["instance_id"]): device["support"] for device in recorded_json["as_read"]}


def return_codes(recorded_json: dict[str, Any]) -> list[dict[str, int]]:
    """Return, by GPU, the return codes of every call, field and metric."""
    return [
        {f"call {key}": row["code"] for key, row in gpu["calls"].items()}
        | {f"field {key}": row["code"] for key, row in gpu["fields"].items()}
        | {f"metric {key}": row["code"] for key, row in gpu["gpm"].get("metrics", {}).items()}
        for gpu in recorded_json["devices"]
    ]


# ---------------------------------------------------------------- the experiments


SMI = """#!/bin/sh
# Simulated output of nvidia-smi for the simulated GPU.
echo '300.00, 300.00, 144384, 40960, 512, 87, 61, 52, 1755, 3201, 650.00'
"""


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of all experiments on one GPU at 300 W."""
    directory = tmp_path_factory.mktemp("experiments")
    program = directory / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    recorded_json = recorded(directory, Scenario(), "--all", PATH=f"{directory}:{os.environ['PATH']}")
    found: dict[str, Any] = recorded_json["experiments"]
    return found


def test_one_command_runs_every_experiment(experiments: dict[str, Any]) -> None:
    assert {name: recorded_json for name, recorded_json in experiments.items() if "failed" in recorded_json} == {}
    assert len(experiments) == 13


def test_memory_versions_are_compared(experiments: dict[str, Any]) -> None:
    assert experiments["memory_versions"]["v1_used_minus_v2_used_and_reserved"] == 0
    assert experiments["memory_versions"]["v2_total_minus_its_parts"] == 0


def test_the_energy_counters_step_is_measured(experiments: dict[str, Any]) -> None:
    """The simulated counter steps by 30 J ten times a second. A busy machine may merge two steps."""
    cadence = experiments["energy_cadence"]
    assert cadence["jump_j"]["min"] == pytest.approx(30, abs=0.01)
    assert cadence["step_ms"]["max"] >= 90


def test_energy_and_the_integral_of_power_are_compared(experiments: dict[str, Any]) -> None:
    idle = experiments["power_against_energy"]["idle"]
    assert idle["instant_j"] == pytest.approx(300 * idle["seconds"], rel=0.02)
    # One step of the counter at each end.
    assert idle["counter_j"] == pytest.approx(300 * idle["seconds"], abs=70)


def test_calls_of_a_forked_child_are_recorded(experiments: dict[str, Any]) -> None:
    assert set(experiments["fork"]["child"]) == set(experiments["fork"]["parent_after"])


def test_the_values_of_nvidia_smi_are_recorded_beside_the_sources(experiments: dict[str, Any]) -> None:
    compared = experiments["nvidia_smi"]["idle"]
    assert compared["memory.used"] == {"nvidia_smi": "40960", "source": 40 * nvml.GIB}
    assert compared["power.draw.average"]["source"] == pytest.approx(300)


def test_without_torch_the_loads_are_reported_as_missing(experiments: dict[str, Any]) -> None:
    skipped = experiments["throughput"].get("skipped")
    assert skipped in {None, "torch is not installed in this environment"}
