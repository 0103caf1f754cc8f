"""A source of two fake GPUs."""

from __future__ import annotations

from ai_otel.gpu.source import Device, GpuReading
from ai_otel.testing import FakeGpu

ONE, TWO = Device("GPU-1", "fake"), Device("GPU-2", "fake")


def two_gpus() -> FakeGpu:
    """Return the source; each device has a power and an energy counter."""
    return FakeGpu({ONE: GpuReading(power_w=100.0, energy_j=50.0), TWO: GpuReading(power_w=200.0, energy_j=70.0)})
