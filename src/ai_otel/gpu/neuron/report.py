"""
One report of `neuron-monitor`: the devices of the instance and their values.

The groups are those of AWS' Neuron Monitor User Guide. Values are by NeuronCore; a device has consecutive cores.
Percent are averages over the period, memory is in bytes, errors count since the driver was loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ai_otel.gpu.source import Device, GpuReading, Support
from ai_otel.gpu.values import ratio, set_value, valid_count

PERIOD_S = 1
CONFIGURATION = json.dumps({
    "period": f"{PERIOD_S}s",
    "neuron_runtimes": [
        {"tag_filter": ".*", "metrics": [{"type": "neuroncore_counters"}, {"type": "memory_used"}]},
    ],
    "system_metrics": [{"type": "neuron_hw_counters"}],
})  # fmt: skip
ERRORS = {
    "corrected": ("mem_ecc_corrected", "sram_ecc_corrected"),
    "uncorrected": ("mem_ecc_uncorrected", "sram_ecc_uncorrected"),
}


@dataclass(frozen=True)
class NeuronReport:
    """A parsed report. Devices read their values from it."""

    hardware: Mapping[str, Any]
    runtimes: Sequence[Mapping[str, Any]]
    counters: Mapping[str, Any]
    instance: str | None = None
    devices: Sequence[Device] = field(default=(), compare=False)

    @property
    def hardware_error(self) -> str:
        """Why the hardware is unknown; empty if it is known."""
        return str(self.hardware.get("error") or "")

    @property
    def cores_per_device(self) -> int:
        """Number of NeuronCores of one device."""
        return int(self.hardware.get("neuroncore_per_device_count") or 0)

    def reading(self, device: Device, *, processes: bool) -> GpuReading:
        """Return all values of one device."""
        number = int(device.id.rpartition("-")[2])
        cores = range(number * self.cores_per_device, (number + 1) * self.cores_per_device)
        reading = GpuReading()
        set_value(reading, "utilization", self._busy(cores))
        size = self.hardware.get("neuron_device_memory_size")
        set_value(reading, "memory_total_bytes", valid_count(int(size)) if size else Support.NOT_SUPPORTED)
        held = self._held(cores)
        set_value(reading, "memory_used_bytes", held if isinstance(held, Support) else sum(held.values()))
        if processes and not isinstance(held, Support):
            reading.process_memory_bytes = held
        for kind, names in ERRORS.items():
            set_value(reading, "errors", self._errors(number, names), kind)
        return reading

    def _busy(self, cores: Sequence[int]) -> float | Support:
        """Return the mean over the device's cores. Cores that no process holds are not listed and idle."""
        percent = 0.0
        for runtime in self.runtimes:
            group = _group(runtime, "neuroncore_counters")
            if isinstance(group, Support):
                return group
            in_use = _at(group, "neuroncores_in_use")
            percent += sum(float(_at(in_use, str(core)).get("neuroncore_utilization") or 0) for core in cores)
        return ratio(percent / 100 / len(cores)) if cores else Support.NOT_SUPPORTED

    def _held(self, cores: Sequence[int]) -> Mapping[int, int] | Support:
        """Return the device's memory in bytes by process, from the breakdown by core."""
        held: dict[int, int] = {}
        for runtime in self.runtimes:
            group = _group(runtime, "memory_used")
            if isinstance(group, Support):
                return group
            by_core = _at(group, "neuron_runtime_used_bytes", "usage_breakdown", "neuroncore_memory_usage")
            if not by_core and _at(group, "neuron_runtime_used_bytes").get("neuron_device"):
                return Support.NOT_SUPPORTED
            used = sum(int(size) for core in cores for size in _at(by_core, str(core)).values())
            if used:
                held[int(runtime.get("pid", 0))] = used
        return held

    def _errors(self, number: int, names: Sequence[str]) -> int | Support:
        if not self.counters:
            return Support.NOT_SUPPORTED
        if self.counters.get("error"):
            return Support.ERROR
        for row in self.counters.get("neuron_devices") or ():
            if row.get("neuron_device_index") == number and all(name in row for name in names):
                return valid_count(sum(int(row[name]) for name in names))
        return Support.NOT_SUPPORTED


def parse_report(line: bytes) -> NeuronReport | None:
    """Parse a line of output; `None` if it is not a complete report."""
    try:
        decoded = json.loads(line)
        hardware = decoded["neuron_hardware_info"]
        instance = _at(decoded, "instance_info").get("instance_id") or None
        report = NeuronReport(
            hardware=hardware,
            runtimes=decoded.get("neuron_runtime_data") or (),
            counters=_at(decoded, "system_data", "neuron_hw_counters"),
            instance=instance,
            devices=list(_devices(hardware, instance)),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return report


def _devices(hardware: Mapping[str, Any], instance: str | None) -> Iterator[Device]:
    """Yield the devices, identified by their number in the instance: they have no other stable name."""
    prefix = f"{instance}-neuron" if instance else "neuron"
    for number in range(int(hardware.get("neuron_device_count") or 0)):
        yield Device(id=f"{prefix}-{number}", vendor="neuron", model=hardware.get("neuron_device_type") or None)


def _at(decoded: Any, *names: str) -> Mapping[str, Any]:
    """Return a nested object; empty if it is missing or null, which is how empty ones are written."""
    for name in names:
        decoded = decoded.get(name) if isinstance(decoded, Mapping) else None
    return decoded if isinstance(decoded, Mapping) else {}


def _group(runtime: Mapping[str, Any], name: str) -> Mapping[str, Any] | Support:
    """Return a metric group of a process, or why it is unavailable."""
    group = _at(runtime, "report").get(name)
    if runtime.get("error") or (isinstance(group, Mapping) and group.get("error")):
        return Support.ERROR
    return group if isinstance(group, Mapping) else Support.NOT_SUPPORTED
