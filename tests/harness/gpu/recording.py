"""Converts a recording of a GPU (`tools/record_nvml.py`) to a scenario of the simulated NVML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.gpu.nvml import Field, Gpu, Instance, Scenario

RECORDINGS = Path(__file__).parents[2] / "gpu/recordings"
"""Recordings of hardware. None exists yet."""

NOT_SUPPORTED = 3
Row = Mapping[str, Any]


def load(path: Path) -> dict[str, Any]:
    """Load a recording."""
    recording: dict[str, Any] = json.loads(path.read_text())
    assert recording["format"] == 1, "the recording has another format: record again"
    return recording


def scenario_of(recording: Mapping[str, Any]) -> Scenario:
    """Return the scenario of a recording."""
    gpus = [gpu_of(device) for device in recording["devices"]]
    return Scenario(gpus=gpus, driver=recording["driver"], nvml=recording["nvml"])


def gpu_of(device: Mapping[str, Any]) -> Gpu:
    """Return one GPU with constant values."""
    calls = device["calls"]
    memory = value(calls, "nvmlDeviceGetMemoryInfo_v2") or value(calls, "nvmlDeviceGetMemoryInfo") or {}
    rates = value(calls, "nvmlDeviceGetUtilizationRates") or {}
    generation, width = (
        value(calls, "nvmlDeviceGetMaxPcieLinkGeneration"),
        value(calls, "nvmlDeviceGetMaxPcieLinkWidth"),
    )
    capability = value(calls, "nvmlDeviceGetCudaComputeCapability") or [0, 0]
    energy_mj = value(calls, "nvmlDeviceGetTotalEnergyConsumption")
    fields = fields_of(device["fields"])
    power_mw = value(calls, "nvmlDeviceGetPowerUsage")
    gpm = device["gpm"]
    return Gpu(
        uuid=value(calls, "nvmlDeviceGetUUID"),
        name=value(calls, "nvmlDeviceGetName"),
        serial=value(calls, "nvmlDeviceGetSerial"),
        vbios=value(calls, "nvmlDeviceGetVbiosVersion"),
        bus_id=(value(calls, "nvmlDeviceGetPciInfo_v3") or {}).get("busId"),
        minor=value(calls, "nvmlDeviceGetMinorNumber") or 0,
        architecture=value(calls, "nvmlDeviceGetArchitecture") or 0,
        compute_capability=capability[0] * 10 + capability[1],
        persistence=value(calls, "nvmlDeviceGetPersistenceMode"),
        # Both energy calls exist if power does, unless they are refused by name below.
        power_w=None if power_mw is None else power_mw / 1000,
        energy=energy_mj is not None,
        energy_base_j=(energy_mj or 0) / 1000,
        memory_total=memory.get("total"),
        memory_used=memory.get("used", 0),
        memory_reserved=memory.get("reserved", 0),
        utilization=rates.get("gpu"),
        memory_busy=rates.get("memory"),
        encoder=(value(calls, "nvmlDeviceGetEncoderUtilization") or [None])[0],
        decoder=(value(calls, "nvmlDeviceGetDecoderUtilization") or [None])[0],
        temperature=first(calls, "nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"),
        thresholds=present({n: value(calls, f"nvmlDeviceGetTemperatureThreshold {n}") for n in range(4)}),
        clocks=present({n: value(calls, f"nvmlDeviceGetClockInfo {n}") for n in ("graphics", "sm", "memory", "video")}),
        fan_speeds=[value(calls, "nvmlDeviceGetFanSpeed_v2") or 0] * (value(calls, "nvmlDeviceGetNumFans") or 0),
        pcie=None if generation is None or width is None else (generation, width),
        fields=fields,
        gpm=numbers(gpm) if gpm.get("supported") else None,
        gpm_codes=codes(gpm),
        instances=[instance_of(part) for part in device["instances"]],
        process_utilization=calls["nvmlDeviceGetProcessUtilization"]["code"] != NOT_SUPPORTED,
        returns=refusals(calls) | step_refusals(gpm),
    )


def instance_of(part: Mapping[str, Any]) -> Instance:
    """Return one MIG device."""
    calls = part["calls"]
    memory = value(calls, "nvmlDeviceGetMemoryInfo_v2") or value(calls, "nvmlDeviceGetMemoryInfo") or {}
    name = str(value(calls, "nvmlDeviceGetName"))
    return Instance(
        gi=part["gi"],
        ci=part["ci"],
        uuid=str(value(calls, "nvmlDeviceGetUUID")),
        profile=name.partition(" MIG ")[2],
        memory_total=memory.get("total"),
        memory_used=memory.get("used", 0),
        memory_reserved=memory.get("reserved", 0),
        gpm=numbers(part["gpm"]),
        gpm_codes=codes(part["gpm"]),
    )


def fields_of(rows: Mapping[str, Row]) -> dict[tuple[int, int], Field]:
    """Return the fields with their types and return codes, except those that failed as a batch."""
    found: dict[tuple[int, int], Field] = {}
    for key, row in rows.items():
        number, scope = map(int, key.split("/"))
        if "type" in row:
            found[number, scope] = Field(float(row["value"] or 0), row["type"], row["code"])
    return found


def numbers(gpm: Mapping[str, Any]) -> dict[int, Any]:
    """Return the GPM metrics that have a value, including NaN."""
    return {int(n): float(row["value"]) for n, row in gpm.get("metrics", {}).items() if not row["code"]}


def codes(gpm: Mapping[str, Any]) -> dict[int, int]:
    """Return the return codes of the GPM metrics without a value."""
    return {int(n): row["code"] for n, row in gpm.get("metrics", {}).items() if row["code"]}


def refusals(calls: Mapping[str, Row]) -> dict[str, int]:
    """Return the calls that failed for every argument for a reason other than missing support."""
    return {
        key: row["code"]
        for key, row in calls.items()
        if " " not in key and row["code"] not in {0, NOT_SUPPORTED}
    }  # fmt: skip


def step_refusals(gpm: Mapping[str, Any]) -> dict[str, int]:
    """Return the return codes of the GPM calls."""
    steps = {
        "nvmlGpmSampleGet": max(gpm.get("sample_codes", [0])),
        "nvmlGpmMetricsGet": gpm.get("get_code", 0),
        "nvmlGpmQueryDeviceSupport": gpm.get("support_code", 0),
    }
    return {name: code for name, code in steps.items() if code}


def value(calls: Mapping[str, Row], key: str) -> Any:
    """Return the result of a call; `None` if it failed."""
    row = calls.get(key, {"code": NOT_SUPPORTED})
    return None if row["code"] else row["value"]


def first(calls: Mapping[str, Row], *keys: str) -> Any:
    """Return the first available result of several calls."""
    return next((found for key in keys if (found := value(calls, key)) is not None), None)


def present(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the values that are not `None`."""
    return {key: each for key, each in values.items() if each is not None}
