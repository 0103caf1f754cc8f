"""
Reads one physical GPU by NVML.

In MIG mode activity, memory and processes are read from the instances only, so that sums do not count them twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ai_otel.gpu.library_source import place
from ai_otel.gpu.nvidia.calls import Calls, scaled
from ai_otel.gpu.nvidia.fields import LANE_BYTES_PER_S, Fields, celsius, joules, watts
from ai_otel.gpu.nvidia.gpm import METRICS, Gpm
from ai_otel.gpu.nvidia.memory import MEMORY, read_memory
from ai_otel.gpu.nvidia.mig import Layout, instances_of, is_enabled, layout_of
from ai_otel.gpu.nvidia.processes import Processes
from ai_otel.gpu.source import Device, DeviceLost, GpuReading, Outdated, Support
from ai_otel.gpu.values import percent, set_value, valid_count

CODECS: Mapping[str, str] = {
    "encoder_utilization": "nvmlDeviceGetEncoderUtilization",
    "decoder_utilization": "nvmlDeviceGetDecoderUtilization",
}
BUSY = ("utilization", "memory_controller_utilization", *CODECS)
SM_CLOCK = 1
OTHER_CLOCKS: Mapping[str, int] = {"memory": 2, "video": 3}
THRESHOLDS: Mapping[int, tuple[str, str]] = {
    0: ("gpu", "high.critical"),
    1: ("gpu", "high.degraded"),
    2: ("memory", "high.degraded"),
}
"""
NVML threshold (shutdown, GPU slowdown, memory slowdown) → sensor and `hw.limit_type`, in °C. The T.Limit fields of
newer GPUs are distances to a limit and are not read.
"""
GPU_SENSOR = 0
AMPERE = 7
GA100 = (8, 0)
"""Compute capability of the only Ampere GPU whose `PowerUsage` is instantaneous."""

MOST_MHZ = 100_000
TRIES = 3
"""How often the UUID is read: it is the GPU's name in every series."""
SLOW_INTERVAL_S = 10.0
"""
Seconds between two reads of slowly changing values: limits, errors, state, fans, codecs and secondary clocks. Together
they cost as much as all other values.
"""


def hertz(megahertz: int) -> int | Support:
    """Return hertz for a value in megahertz."""
    return int(megahertz) * 1_000_000 if 0 <= megahertz <= MOST_MHZ else Support.INVALID


class Gpu:
    """One GPU that NVML enumerates, with or without MIG instances."""

    def __init__(
        self,
        calls: Calls,
        handle: Any,
        device: Device,
        *,
        layout: Layout | None,
        processes: bool,
        holders: bool,
    ) -> None:
        self.device = device
        self.handle = handle
        self._calls = calls
        self._layout = layout
        self._mig = mig = layout is not None
        self._fields = Fields(calls, handle, device.driver_version)
        self._gpm = Gpm(calls, handle)
        self._processes = Processes(
            calls,
            handle,
            device.driver_version,
            memory=processes and not mig,
            share=not mig,
            holders=holders and not mig,
        )
        self._limits: dict[int, Any] = {}
        self._slow = GpuReading()
        self._slow_until_s = float("-inf")
        self._slot = self._slot_bytes_per_s()
        self.sleeps = calls.ask("nvmlDeviceGetPersistenceMode", handle) == 0
        """Whether the driver deinitializes the GPU when it is unused: persistence mode is off."""
        self.smoothed = self._fields.power_smoothing()
        """Whether power smoothing keeps the power draw up between bursts."""

    def start(self) -> None:
        """Take the first of the two samples that the performance metrics compare. Raises `DeviceLost`."""
        if not self._mig:
            self._gpm.start()

    def read(self) -> GpuReading:
        """Read all values. Raises `DeviceLost`."""
        reading = self._with_slow_values()
        rates: Mapping[str, float] = {}
        if not self._mig:
            self._utilization(reading)
            read_memory(self._calls, self.handle, reading)
            rates = self._gpm.read(reading)
        self._fields.read(reading, rates, self._slot)
        self._energy_and_power(reading)
        versions = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
        degrees = self._calls.first(*((name, self.handle, GPU_SENSOR) for name in versions))
        set_value(reading, "temperature_c", scaled(degrees, celsius), "gpu")
        self._clock(reading, "sm", SM_CLOCK)
        self._processes.read(reading)
        reading.absent |= self._slow.absent
        return reading

    def _with_slow_values(self) -> GpuReading:
        """Return a new reading that contains the slowly changing values."""
        now_s = self._calls.clock()
        if now_s >= self._slow_until_s:
            self._slow_until_s = now_s + SLOW_INTERVAL_S
            self._check_layout()
            self._slow = self._read_slow_values()
        slow = self._slow
        return GpuReading(
            encoder_utilization=slow.encoder_utilization,
            decoder_utilization=slow.decoder_utilization,
            power_limit_w=slow.power_limit_w,
            temperature_limit_c=slow.temperature_limit_c,
            fan_speed_ratio=slow.fan_speed_ratio,
            frequency_hz={**slow.frequency_hz},
            errors=slow.errors,
            status=slow.status,
        )

    def _check_layout(self) -> None:
        """Raise `Outdated` if MIG mode was toggled, or instances were created or removed."""
        enabled = is_enabled(self._calls, self.handle)
        if enabled is None or not (enabled or self._mig):
            return
        # Without what the first calls have cached: an index without an instance may have one now.
        calls = Calls(self._calls.library, self._calls.clock)
        instances = instances_of(calls, self.handle, self.device)
        if instances is None or layout_of(instances) != self._layout:
            raise Outdated("the MIG instances of the GPU have changed")

    def _read_slow_values(self) -> GpuReading:
        reading = GpuReading()
        if self._mig:
            self._exclude_instance_values(reading)
        else:
            self._codecs(reading)
        self._fields.read_slow(reading)
        self._temperature_limits(reading)
        for name, clock in OTHER_CLOCKS.items():
            self._clock(reading, name, clock)
        self._fans(reading)
        return reading

    def read_energy(self) -> float | None:
        """Read the energy counter in joules; `None` if unavailable. Raises `DeviceLost`."""
        answer = self._counter_j()
        if isinstance(answer, Support):
            answer = self._fields.energy_j()
        return None if isinstance(answer, Support) else answer

    def close(self) -> None:
        """Free the sample buffers."""
        with suppress(DeviceLost):
            self._gpm.close()

    def _exclude_instance_values(self, reading: GpuReading) -> None:
        for name in (*BUSY, *MEMORY):
            set_value(reading, name, Support.NOT_SUPPORTED)
        for name, key in METRICS.values():
            set_value(reading, name, Support.NOT_SUPPORTED, key)

    def _utilization(self, reading: GpuReading) -> None:
        rates = self._calls.ask("nvmlDeviceGetUtilizationRates", self.handle)
        set_value(reading, "utilization", scaled(rates, lambda both: percent(both.gpu)))
        set_value(reading, "memory_controller_utilization", scaled(rates, lambda both: percent(both.memory)))

    def _codecs(self, reading: GpuReading) -> None:
        for name, call in CODECS.items():
            share_and_period = self._calls.ask(call, self.handle)
            set_value(reading, name, scaled(share_and_period, lambda both: percent(both[0])))

    def _energy_and_power(self, reading: GpuReading) -> None:
        """Fall back to the dedicated calls if the fields have no value."""
        if reading.energy_j is None:
            energy = self._counter_j()
            if not isinstance(energy, Support):
                set_value(reading, "energy_j", energy)
        if reading.power_w is None:
            power = scaled(self._calls.ask("nvmlDeviceGetPowerUsage", self.handle), watts)
            if not isinstance(power, Support):
                set_value(reading, "power_w", power)
                set_value(reading, "power_window", self._power_window())

    def _counter_j(self) -> float | Support:
        millijoules = self._calls.ask("nvmlDeviceGetTotalEnergyConsumption", self.handle)
        answer: float | Support = scaled(scaled(millijoules, valid_count), joules)
        return answer

    def _power_window(self) -> str | Support:
        """Return what `PowerUsage` is: a 1 s average since Ampere except GA100, instantaneous before."""
        architecture = self._calls.ask("nvmlDeviceGetArchitecture", self.handle)
        capability = self._calls.ask("nvmlDeviceGetCudaComputeCapability", self.handle)
        if isinstance(architecture, Support) or isinstance(capability, Support):
            return Support.NOT_FOUND
        return "average" if architecture >= AMPERE and tuple(capability) != GA100 else "instant"

    def _temperature_limits(self, reading: GpuReading) -> None:
        for threshold, ends in THRESHOLDS.items():
            if not isinstance(self._limits.get(threshold), float):
                limit = self._calls.ask("nvmlDeviceGetTemperatureThreshold", self.handle, threshold, about=threshold)
                self._limits[threshold] = scaled(limit, celsius)
            set_value(reading, "temperature_limit_c", self._limits[threshold], ends)

    def _clock(self, reading: GpuReading, name: str, clock: int) -> None:
        mhz = self._calls.ask("nvmlDeviceGetClockInfo", self.handle, clock, about=clock)
        set_value(reading, "frequency_hz", scaled(mhz, hertz), name)

    def _fans(self, reading: GpuReading) -> None:
        fans = self._calls.ask("nvmlDeviceGetNumFans", self.handle)
        if isinstance(fans, Support) or not fans:
            set_value(reading, "fan_speed_ratio", fans or Support.NOT_SUPPORTED)
            return
        for fan in range(fans):
            speed = self._calls.ask("nvmlDeviceGetFanSpeed_v2", self.handle, fan, about=fan)
            set_value(reading, "fan_speed_ratio", scaled(speed, percent), str(fan))

    def _slot_bytes_per_s(self) -> float | None:
        """Return the capacity of the host link in one direction in bytes per second."""
        generation = self._calls.ask("nvmlDeviceGetMaxPcieLinkGeneration", self.handle)
        width = self._calls.ask("nvmlDeviceGetMaxPcieLinkWidth", self.handle)
        lane = None if isinstance(generation, Support) else LANE_BYTES_PER_S.get(generation)
        return None if lane is None or isinstance(width, Support) else lane * width


def identify(calls: Calls, handle: Any, driver: str | None, index: int) -> Device:
    """Return the GPU's constants. Without a UUID, its `id` is that of its place in the host. Raises `DeviceLost`."""
    uuid = next((uuid for _ in range(TRIES) if (uuid := text(calls.ask("nvmlDeviceGetUUID", handle)))), None)
    minor = text(calls.ask("nvmlDeviceGetMinorNumber", handle))
    pci_bus_id = text(scaled(calls.ask("nvmlDeviceGetPciInfo_v3", handle), lambda pci: pci.busId))
    return Device(
        id=uuid or place("nvidia", index, pci_bus_id),
        vendor="nvidia",
        model=text(calls.ask("nvmlDeviceGetName", handle)),
        name=None if minor is None else f"nvidia{minor}",
        driver_version=driver,
        firmware_version=text(calls.ask("nvmlDeviceGetVbiosVersion", handle)),
        serial_number=text(calls.ask("nvmlDeviceGetSerial", handle)),
        pci_bus_id=pci_bus_id,
        index=index,
    )


def text(answer: Any) -> str | None:
    """Return a result as text; `None` if it is unavailable."""
    return None if isinstance(answer, Support) else str(answer)
