"""
What NVML tells of one physical GPU.

In MIG mode it has no activity, memory or processes of its own: those belong to its instances, and whoever adds both up
would count twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ai_otel.gpu.nvidia.calls import Calls, percent, scaled
from ai_otel.gpu.nvidia.fields import LANE_BYTES_PER_S, Fields, celsius, joules, watts
from ai_otel.gpu.nvidia.gpm import METRICS, Gpm
from ai_otel.gpu.nvidia.memory import MEMORY, read_memory
from ai_otel.gpu.nvidia.processes import Tenants
from ai_otel.gpu.source import Device, DeviceLost, GpuReading, Support
from ai_otel.gpu.values import counted, tell

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
Shutdown, slowdown of the GPU, and of its memory → sensor and `hw.limit_type`. In degrees of the sensor: the numbered
T.Limit values of newer GPUs are distances to a limit, and are not read.
"""
GPU_SENSOR = 0
AMPERE = 7
GA100 = (8, 0)
"""The compute capability of the one Ampere whose `PowerUsage` is an instant."""

MOST_MHZ = 100_000
SELDOM_S = 10.0
"""After which limits, errors, state, fans, codecs, and the clocks that follow others are read again: they would cost as
much as all else, and change by a person's hand, with a fault, or are none of a language model's business."""


def hertz(megahertz: int) -> int | Support:
    """From megahertz."""
    return int(megahertz) * 1_000_000 if 0 <= megahertz <= MOST_MHZ else Support.INVALID


class WholeGpu:
    """One GPU that NVML enumerates."""

    def __init__(self, calls: Calls, handle: Any, device: Device, *, mig: bool, processes: bool) -> None:
        self.device = device
        self.handle = handle
        self._calls = calls
        self._mig = mig
        self._fields = Fields(calls, handle, device.driver_version)
        self._gpm = Gpm(calls, handle)
        self._tenants = Tenants(calls, handle, device.driver_version, memory=processes and not mig, share=not mig)
        self._limits: dict[int, Any] = {}
        self._kept = GpuReading()
        self._kept_until_s = float("-inf")
        self._slot = self._slot_bytes_per_s()
        self.sleeps = calls.ask("nvmlDeviceGetPersistenceMode", handle) == 0
        """Whether the driver lets go of it when nobody uses it."""
        self.smoothed = self._fields.power_smoothing()
        """Whether it draws more than it needs between two bursts, on purpose."""

    def start(self) -> None:
        """Take the first sample. Raises `DeviceLost`."""
        if not self._mig:
            self._gpm.start()

    def read(self) -> GpuReading:
        """One look. Raises `DeviceLost`."""
        reading = self._begun()
        rates: Mapping[str, float] = {}
        if not self._mig:
            self._busy(reading)
            read_memory(self._calls, self.handle, reading)
            rates = self._gpm.read(reading)
        self._fields.read(reading, rates, self._slot)
        self._energy_and_power(reading)
        versions = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
        celsius_told = self._calls.first(*((name, self.handle, GPU_SENSOR) for name in versions))
        tell(reading, "temperature_c", scaled(celsius_told, celsius), "gpu")
        self._clock(reading, "sm", SM_CLOCK)
        self._tenants.read(reading)
        reading.absent |= self._kept.absent
        return reading

    def _begun(self) -> GpuReading:
        """A reading with what is read seldom already in it."""
        now_s = self._calls.clock()
        if now_s >= self._kept_until_s:
            self._kept_until_s = now_s + SELDOM_S
            self._kept = self._look_seldom()
        kept = self._kept
        return GpuReading(
            encoder_utilization=kept.encoder_utilization,
            decoder_utilization=kept.decoder_utilization,
            power_limit_w=kept.power_limit_w,
            temperature_limit_c=kept.temperature_limit_c,
            fan_speed_ratio=kept.fan_speed_ratio,
            frequency_hz={**kept.frequency_hz},
            errors=kept.errors,
            status=kept.status,
        )

    def _look_seldom(self) -> GpuReading:
        reading = GpuReading()
        if self._mig:
            self._nothing_of_the_parts(reading)
        else:
            self._codecs(reading)
        self._fields.read_seldom(reading)
        self._temperature_limits(reading)
        for name, clock in OTHER_CLOCKS.items():
            self._clock(reading, name, clock)
        self._fans(reading)
        return reading

    def read_energy(self) -> float | None:
        """The energy counter in joules. Raises `DeviceLost`."""
        answer = self._counter_j()
        if isinstance(answer, Support):
            answer = self._fields.energy_j()
        return None if isinstance(answer, Support) else answer

    def close(self) -> None:
        """Free what the driver keeps for us."""
        with suppress(DeviceLost):
            self._gpm.close()

    def _nothing_of_the_parts(self, reading: GpuReading) -> None:
        for name in (*BUSY, *MEMORY):
            tell(reading, name, Support.NOT_SUPPORTED)
        for name, key in METRICS.values():
            tell(reading, name, Support.NOT_SUPPORTED, key)

    def _busy(self, reading: GpuReading) -> None:
        rates = self._calls.ask("nvmlDeviceGetUtilizationRates", self.handle)
        tell(reading, "utilization", scaled(rates, lambda both: percent(both.gpu)))
        tell(reading, "memory_controller_utilization", scaled(rates, lambda both: percent(both.memory)))

    def _codecs(self, reading: GpuReading) -> None:
        for name, call in CODECS.items():
            share_and_period = self._calls.ask(call, self.handle)
            tell(reading, name, scaled(share_and_period, lambda both: percent(both[0])))

    def _energy_and_power(self, reading: GpuReading) -> None:
        """Where the numbered values have none, by the older calls."""
        if reading.energy_j is None:
            energy = self._counter_j()
            if not isinstance(energy, Support):
                tell(reading, "energy_j", energy)
        if reading.power_w is None:
            power = scaled(self._calls.ask("nvmlDeviceGetPowerUsage", self.handle), watts)
            if not isinstance(power, Support):
                tell(reading, "power_w", power)
                tell(reading, "power_window", self._power_window())

    def _counter_j(self) -> float | Support:
        millijoules = self._calls.ask("nvmlDeviceGetTotalEnergyConsumption", self.handle)
        answer: float | Support = scaled(scaled(millijoules, counted), joules)
        return answer

    def _power_window(self) -> str | Support:
        """What `PowerUsage` means: a mean over a second since Ampere, but for GA100; before that an instant."""
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
            tell(reading, "temperature_limit_c", self._limits[threshold], ends)

    def _clock(self, reading: GpuReading, name: str, clock: int) -> None:
        mhz = self._calls.ask("nvmlDeviceGetClockInfo", self.handle, clock, about=clock)
        tell(reading, "frequency_hz", scaled(mhz, hertz), name)

    def _fans(self, reading: GpuReading) -> None:
        fans = self._calls.ask("nvmlDeviceGetNumFans", self.handle)
        if isinstance(fans, Support) or not fans:
            tell(reading, "fan_speed_ratio", fans or Support.NOT_SUPPORTED)
            return
        for fan in range(fans):
            speed = self._calls.ask("nvmlDeviceGetFanSpeed_v2", self.handle, fan, about=fan)
            tell(reading, "fan_speed_ratio", scaled(speed, percent), str(fan))

    def _slot_bytes_per_s(self) -> float | None:
        """The most that its host link carries in one direction."""
        generation = self._calls.ask("nvmlDeviceGetMaxPcieLinkGeneration", self.handle)
        width = self._calls.ask("nvmlDeviceGetMaxPcieLinkWidth", self.handle)
        lane = None if isinstance(generation, Support) else LANE_BYTES_PER_S.get(generation)
        return None if lane is None or isinstance(width, Support) else lane * width


def identify(calls: Calls, handle: Any, driver: str | None) -> Device | None:
    """What a GPU is; `None` where it does not tell its UUID."""
    uuid = told(calls.ask("nvmlDeviceGetUUID", handle))
    if uuid is None:
        return None
    minor = told(calls.ask("nvmlDeviceGetMinorNumber", handle))
    return Device(
        id=uuid,
        vendor="nvidia",
        model=told(calls.ask("nvmlDeviceGetName", handle)),
        name=None if minor is None else f"nvidia{minor}",
        driver_version=driver,
        firmware_version=told(calls.ask("nvmlDeviceGetVbiosVersion", handle)),
        serial_number=told(calls.ask("nvmlDeviceGetSerial", handle)),
        pci_bus_id=told(scaled(calls.ask("nvmlDeviceGetPciInfo_v3", handle), lambda pci: pci.busId)),
    )


def told(answer: Any) -> str | None:
    """An answer in words."""
    return None if isinstance(answer, Support) else str(answer)
