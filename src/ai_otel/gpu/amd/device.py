"""What AMD SMI tells of one GPU, and of one partition of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ai_otel.gpu.amd.calls import Calls, narrow, number, numbers
from ai_otel.gpu.source import Device, DeviceLost, GpuReading, Support
from ai_otel.gpu.values import OneLook, counted, ratio, settled, tell, within

MHZ = 1_000_000
MIB = 2**20
KIB = 1024
"""AMD writes KB of what its links carry; where its KB and MB can be checked, as for memory, they are of 1024."""
MOST_WATTS = 10_000.0
STALE_AFTER_S = 10.0
LIMITS = {"enforced": "power_cap", "default": "default_power_cap", "min": "min_power_cap", "max": "max_power_cap"}
CLOCKS = {"sm": "GFX", "memory": "MEM", "video": "VCLK0"}
SENSORS = {"gpu": "HOTSPOT", "memory": "VRAM"}
# The driver slows down at what it calls critical, and the hardware stops at what it calls an emergency.
ENDS = {"high.degraded": "CRITICAL", "high.critical": "EMERGENCY"}
RESIDENCIES = {
    "power_cap": "ppt_residency_acc",
    "thermal": "socket_thm_residency_acc",
    "hw_thermal": "prochot_residency_acc",
}


class WholeGpu:
    """One GPU: a board, or one die of an MI250, whose second die has neither power nor energy of its own."""

    def __init__(self, calls: Calls, device: Device, clock: Callable[[], float], *, processes: bool) -> None:
        self.device = device
        self.metrics = OneLook[Any](lambda: calls.ask("amdsmi_get_gpu_metrics_info"))
        self._calls = calls
        self._processes = processes
        self._energy = EnergyCounter(clock)
        self._throttle = Throttle(clock)
        self._limits: Mapping[tuple[str, str], float | Support] | None = None

    def read(self) -> GpuReading:
        """Everything. Raises `DeviceLost`."""
        reading = GpuReading()
        self._activity(reading)
        self._memory(reading)
        tell(reading, "energy_j", self._joules())
        self._power(reading)
        self._temperatures(reading)
        self._clocks(reading)
        self._from_metrics(reading)
        errors = self._calls.ask("amdsmi_get_gpu_total_ecc_count")
        for kind, key in (("corrected", "correctable_count"), ("uncorrected", "uncorrectable_count")):
            tell(reading, "errors", whole(counted(number(errors, key))), kind)
        if self._processes:
            self._holders(reading)
        if Support.ERROR in reading.absent.values() and self._is_silent(reading):
            raise DeviceLost("AMD SMI tells nothing of it any more")
        return settled(reading)

    def read_energy(self) -> float | None:
        """Joules since the driver was loaded."""
        joules = self._joules()
        return None if isinstance(joules, Support) else joules

    @staticmethod
    def _is_silent(reading: GpuReading) -> bool:
        told = (reading.utilization, reading.memory_used_bytes, reading.energy_j, reading.power_w)
        return all(value is None for value in told) and not reading.temperature_c

    def _joules(self) -> float | Support:
        told = self._calls.ask("amdsmi_get_energy_count")
        count, resolution_uj = number(told, "energy_accumulator", "power"), number(told, "counter_resolution")
        if isinstance(count, Support) or isinstance(resolution_uj, Support):
            return count if isinstance(count, Support) else Support.INVALID
        return self._energy.joules(count * resolution_uj / 1e6)

    def _activity(self, reading: GpuReading) -> None:
        told = self._calls.ask("amdsmi_get_gpu_activity")
        tell(reading, "utilization", percent(narrow(told, "gfx_activity")))
        # Memory controller: busy with anything, however little. Not the share of the peak rate.
        tell(reading, "memory_controller_utilization", percent(narrow(told, "umc_activity")))

    def _memory(self, reading: GpuReading) -> None:
        """In bytes where the driver tells them; else in what AMD calls MB, which are of 2^20 bytes."""
        kind = self._constant("AmdSmiMemoryType", "VRAM")
        total = number(self._calls.ask("amdsmi_get_gpu_memory_total", kind))
        used = number(self._calls.ask("amdsmi_get_gpu_memory_usage", kind))
        if isinstance(total, Support) or isinstance(used, Support):
            told = self._calls.ask("amdsmi_get_gpu_vram_usage")
            total, used = number(told, "vram_total"), number(told, "vram_used")
            total = total if isinstance(total, Support) else total * MIB
            used = used if isinstance(used, Support) else used * MIB
        tell(reading, "memory_total_bytes", whole(counted(total)) if total != 0 else Support.INVALID)
        tell(reading, "memory_used_bytes", whole(counted(used)) if total != 0 else Support.INVALID)

    def _power(self, reading: GpuReading) -> None:
        """Socket power in watts: the present one (MI300 and later), else the mean (MI200)."""
        told = self._calls.ask("amdsmi_get_power_info")
        for window, key in (("instant", "current_socket_power"), ("average", "average_socket_power")):
            watts = narrow(told, key)
            if not isinstance(watts, Support):
                # A socket that runs draws something: 0 is what the second die of an MI250 and partitions say.
                watts = Support.INVALID if watts == 0 else within(0.0, float(watts), MOST_WATTS)
            tell(reading, "power_w", watts)
            if not isinstance(watts, Support):
                reading.power_window = window
                break
        caps = self._calls.ask("amdsmi_get_power_cap_info")
        for limit, key in LIMITS.items():
            microwatts = number(caps, key)
            if not isinstance(microwatts, Support):
                # The lowest limit may be 0, no other.
                microwatts = Support.INVALID if microwatts == 0 and limit != "min" else microwatts / 1e6
            tell(reading, "power_limit_w", within(0.0, microwatts, MOST_WATTS), limit)

    def _temperatures(self, reading: GpuReading) -> None:
        now = self._constant("AmdSmiTemperatureMetric", "CURRENT")
        for location, name in SENSORS.items():
            tell(reading, "temperature_c", self._celsius(name, now), location)
        if self._limits is None:
            self._limits = {
                (location, end): self._celsius(name, self._constant("AmdSmiTemperatureMetric", metric))
                for location, name in SENSORS.items()
                for end, metric in ENDS.items()
            }
        for key, celsius in self._limits.items():
            tell(reading, "temperature_limit_c", celsius, key)

    def _celsius(self, sensor: str, metric: Any) -> float | Support:
        kind = self._constant("AmdSmiTemperatureType", sensor)
        told = narrow(self._calls.ask("amdsmi_get_temp_metric", kind, metric))
        return within(1.0, told if isinstance(told, Support) else float(told), 150.0)

    def _clocks(self, reading: GpuReading) -> None:
        for clock, name in CLOCKS.items():
            told = self._calls.ask("amdsmi_get_clock_info", self._constant("AmdSmiClkType", name))
            megahertz = within(0.0, narrow(told, "clk", "cur_clk"), 20_000.0)
            tell(reading, "frequency_hz", megahertz if isinstance(megahertz, Support) else int(megahertz * MHZ), clock)

    def _from_metrics(self, reading: GpuReading) -> None:
        told = self.metrics.answer(self.device.key)
        for direction, key in (("receive", "xgmi_read_data_acc"), ("transmit", "xgmi_write_data_acc")):
            links = numbers(told, key)
            unknown = told if isinstance(told, Support) else Support.NOT_SUPPORTED
            tell(reading, "io_bytes", int(sum(links)) * KIB if links else unknown, ("xgmi", direction))
        for reason, seconds in self._throttle.seconds(told).items():
            tell(reading, "throttle_s", seconds, reason)

    def _holders(self, reading: GpuReading) -> None:
        told = self._calls.ask("amdsmi_get_gpu_process_list")
        if isinstance(told, Support):
            tell(reading, "process_memory_bytes", told)
            return
        for holder in told:
            pid, held = number(holder, "pid"), whole(counted(number(holder.get("memory_usage"), "vram_mem")))
            if not isinstance(pid, Support) and not isinstance(held, Support):
                tell(reading, "process_memory_bytes", held, int(pid))

    def _constant(self, kind: str, name: str) -> Any:
        return getattr(getattr(self._calls.library, kind, None), name, None)


class Partition:
    """One partition of a GPU: its utilization, from the board's own table. The rest is the board's."""

    def __init__(self, board: WholeGpu, number_of: int, profile: str | None) -> None:
        self._board = board
        self._number = number_of
        self.device = replace(board.device, instance_id=str(number_of), instance_profile=profile)

    def read(self) -> GpuReading:
        """The utilization, a mean over the partition's compute dies. Raises `DeviceLost`."""
        reading = GpuReading()
        told = self._board.metrics.answer(self.device.key)
        if isinstance(told, Support):
            tell(reading, "utilization", told)
            return settled(reading)
        rows = told.get("xcp_stats.gfx_busy_inst")
        row = rows[self._number] if isinstance(rows, list) and self._number < len(rows) else None
        busy = numbers({"row": row}, "row")
        tell(reading, "utilization", percent(sum(busy) / len(busy)) if busy else Support.NOT_SUPPORTED)
        return settled(reading)

    def read_energy(self) -> float | None:
        """A partition has no counter of its own."""
        return None


class EnergyCounter:
    """AMD's energy counter, in whose answers we believe only while it moves on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last_j = -1.0
        self._moved_at = 0.0
        self._ahead_j = 0.0

    def joules(self, told_j: float) -> float | Support:
        """
        What the counter stands at, or why that is not to be believed.

        It stands still in some processes and after some resets (ROCm/amdsmi #22), and 0 is what a die without one says.
        It has been seen to fall by a little (ROCm/amdsmi #115): no reset does that, so we go on from where it was.
        """
        if told_j == 0:
            return Support.INVALID
        now, last_j = self._clock(), self._last_j
        if told_j == last_j:
            return told_j + self._ahead_j if now - self._moved_at < STALE_AFTER_S else Support.INVALID
        if told_j < last_j:
            self._ahead_j = self._ahead_j + last_j - told_j if told_j > last_j / 2 else 0.0
        self._last_j, self._moved_at = told_j, now
        return told_j + self._ahead_j


class Throttle:
    """
    Seconds in which something held the clocks down, counted by us from the first look on.

    The firmware counts the steps in which it was so, and all its steps: their quotient, as AMD defines it, is a share
    of the time between two looks.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._looked_at: float | None = None
        self._counts: dict[str, float] = {}
        self._seconds: dict[str, float] = {}

    def seconds(self, metrics: Any) -> Mapping[str, float | Support]:
        """By `ai_otel.gpu.throttle.reason`, or why there is none."""
        now, steps = self._clock(), number(metrics, "accumulation_counter")
        if isinstance(steps, Support):
            return dict.fromkeys(RESIDENCIES, steps)
        elapsed_s = 0.0 if self._looked_at is None else now - self._looked_at
        all_steps = steps - self._counts.get("steps", steps)
        self._looked_at, self._counts["steps"] = now, steps
        return {
            reason: self._one(reason, number(metrics, key), all_steps, elapsed_s) for reason, key in RESIDENCIES.items()
        }

    def _one(self, reason: str, count: float | Support, all_steps: float, elapsed_s: float) -> float | Support:
        if isinstance(count, Support):
            return count
        held, self._counts[reason] = count - self._counts.get(reason, count), count
        share = ratio(held / all_steps) if all_steps > 0 else 0.0
        if not isinstance(share, Support):
            self._seconds[reason] = self._seconds.get(reason, 0.0) + share * elapsed_s
        return self._seconds.get(reason, 0.0)


def percent(value: float | Support) -> float | Support:
    """From percent, 0 to 1."""
    return value if isinstance(value, Support) else ratio(value / 100)


def whole(value: float | Support) -> int | Support:
    """A whole number."""
    return value if isinstance(value, Support) else int(value)
