"""Reads one GPU, or one partition of it, by AMD SMI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ai_otel.gpu.amd.calls import Calls, narrow, number, numbers
from ai_otel.gpu.source import Device, DeviceLost, GpuReading, Support
from ai_otel.gpu.values import SharedQuery, fill_reasons, percent, ratio, set_value, valid_count, within

MHZ = 1_000_000
MIB = 2**20
KIB = 1024
"""AMD documents link counters in KB, where KB and MB are powers of 1024 as for memory."""
MOST_WATTS = 10_000.0
STALE_AFTER_S = 10.0
LIMITS = {"enforced": "power_cap", "default": "default_power_cap", "min": "min_power_cap", "max": "max_power_cap"}
CLOCKS = {"sm": "GFX", "memory": "MEM", "video": "VCLK0"}
SENSORS = {"gpu": "HOTSPOT", "memory": "VRAM"}
# The driver throttles at CRITICAL; the hardware shuts down at EMERGENCY.
ENDS = {"high.degraded": "CRITICAL", "high.critical": "EMERGENCY"}
RESIDENCIES = {
    "power_cap": "ppt_residency_acc",
    "thermal": "socket_thm_residency_acc",
    "hw_thermal": "prochot_residency_acc",
}


class Gpu:
    """One GPU: a board, or one die of an MI250, whose second die has no power and energy values."""

    def __init__(self, calls: Calls, device: Device, clock: Callable[[], float], *, processes: bool) -> None:
        self.device = device
        self.metrics = SharedQuery[Any](lambda: calls.ask("amdsmi_get_gpu_metrics_info"))
        self._calls = calls
        self._processes = processes
        self._energy = EnergyCounter(clock)
        self._throttle = Throttle(clock)
        self._limits: Mapping[tuple[str, str], float | Support] | None = None

    def read(self) -> GpuReading:
        """Read all values. Raises `DeviceLost`."""
        reading = GpuReading()
        self._activity(reading)
        self._memory(reading)
        set_value(reading, "energy_j", self._joules())
        self._power(reading)
        self._temperatures(reading)
        self._clocks(reading)
        self._from_metrics(reading)
        errors = self._calls.ask("amdsmi_get_gpu_total_ecc_count")
        for kind, key in (("corrected", "correctable_count"), ("uncorrected", "uncorrectable_count")):
            set_value(reading, "errors", whole(valid_count(number(errors, key))), kind)
        if self._processes:
            self._holders(reading)
        if Support.ERROR in reading.absent.values() and self._is_unresponsive(reading):
            raise DeviceLost("AMD SMI reports no value any more")
        return fill_reasons(reading)

    def read_energy(self) -> float | None:
        """Return joules since the driver was loaded; `None` if unavailable."""
        joules = self._joules()
        return None if isinstance(joules, Support) else joules

    @staticmethod
    def _is_unresponsive(reading: GpuReading) -> bool:
        result = (reading.utilization, reading.memory_used_bytes, reading.energy_j, reading.power_w)
        return all(value is None for value in result) and not reading.temperature_c

    def _joules(self) -> float | Support:
        result = self._calls.ask("amdsmi_get_energy_count")
        count, resolution_uj = number(result, "energy_accumulator", "power"), number(result, "counter_resolution")
        if isinstance(count, Support) or isinstance(resolution_uj, Support):
            return count if isinstance(count, Support) else Support.INVALID
        return self._energy.joules(count * resolution_uj / 1e6)

    def _activity(self, reading: GpuReading) -> None:
        result = self._calls.ask("amdsmi_get_gpu_activity")
        set_value(reading, "utilization", percent(narrow(result, "gfx_activity")))
        # Share of the time in which the memory controller was busy, not of its peak rate.
        set_value(reading, "memory_controller_utilization", percent(narrow(result, "umc_activity")))

    def _memory(self, reading: GpuReading) -> None:
        """Set memory in bytes, falling back to AMD's MB of 2^20 bytes."""
        kind = self._constant("AmdSmiMemoryType", "VRAM")
        total = number(self._calls.ask("amdsmi_get_gpu_memory_total", kind))
        used = number(self._calls.ask("amdsmi_get_gpu_memory_usage", kind))
        if isinstance(total, Support) or isinstance(used, Support):
            result = self._calls.ask("amdsmi_get_gpu_vram_usage")
            total, used = number(result, "vram_total"), number(result, "vram_used")
            total = total if isinstance(total, Support) else total * MIB
            used = used if isinstance(used, Support) else used * MIB
        set_value(reading, "memory_total_bytes", whole(valid_count(total)) if total != 0 else Support.INVALID)
        set_value(reading, "memory_used_bytes", whole(valid_count(used)) if total != 0 else Support.INVALID)

    def _power(self, reading: GpuReading) -> None:
        """Set socket power in watts: instantaneous (MI300 and later), else the average (MI200)."""
        result = self._calls.ask("amdsmi_get_power_info")
        for window, key in (("instant", "current_socket_power"), ("average", "average_socket_power")):
            watts = narrow(result, key)
            if not isinstance(watts, Support):
                # 0 is a sentinel: the second die of an MI250 and partitions report it.
                watts = Support.INVALID if watts == 0 else within(0.0, float(watts), MOST_WATTS)
            set_value(reading, "power_w", watts)
            if not isinstance(watts, Support):
                reading.power_window = window
                break
        caps = self._calls.ask("amdsmi_get_power_cap_info")
        for limit, key in LIMITS.items():
            microwatts = number(caps, key)
            if not isinstance(microwatts, Support):
                # Only the minimum limit may be 0.
                microwatts = Support.INVALID if microwatts == 0 and limit != "min" else microwatts / 1e6
            set_value(reading, "power_limit_w", within(0.0, microwatts, MOST_WATTS), limit)

    def _temperatures(self, reading: GpuReading) -> None:
        now = self._constant("AmdSmiTemperatureMetric", "CURRENT")
        for location, name in SENSORS.items():
            set_value(reading, "temperature_c", self._celsius(name, now), location)
        if self._limits is None:
            self._limits = {
                (location, end): self._celsius(name, self._constant("AmdSmiTemperatureMetric", metric))
                for location, name in SENSORS.items()
                for end, metric in ENDS.items()
            }
        for key, celsius in self._limits.items():
            set_value(reading, "temperature_limit_c", celsius, key)

    def _celsius(self, sensor: str, metric: Any) -> float | Support:
        kind = self._constant("AmdSmiTemperatureType", sensor)
        result = narrow(self._calls.ask("amdsmi_get_temp_metric", kind, metric))
        return within(1.0, result if isinstance(result, Support) else float(result), 150.0)

    def _clocks(self, reading: GpuReading) -> None:
        for clock, name in CLOCKS.items():
            result = self._calls.ask("amdsmi_get_clock_info", self._constant("AmdSmiClkType", name))
            megahertz = within(0.0, narrow(result, "clk", "cur_clk"), 20_000.0)
            set_value(
                reading, "frequency_hz", megahertz if isinstance(megahertz, Support) else int(megahertz * MHZ), clock
            )

    def _from_metrics(self, reading: GpuReading) -> None:
        result = self.metrics.answer(self.device.key)
        for direction, key in (("receive", "xgmi_read_data_acc"), ("transmit", "xgmi_write_data_acc")):
            links = numbers(result, key)
            unknown = result if isinstance(result, Support) else Support.NOT_SUPPORTED
            set_value(reading, "io_bytes", int(sum(links)) * KIB if links else unknown, ("xgmi", direction))
        for reason, seconds in self._throttle.seconds(result).items():
            set_value(reading, "throttle_s", seconds, reason)

    def _holders(self, reading: GpuReading) -> None:
        result = self._calls.ask("amdsmi_get_gpu_process_list")
        if isinstance(result, Support):
            set_value(reading, "process_memory_bytes", result)
            return
        for holder in result:
            pid, held = number(holder, "pid"), whole(valid_count(number(holder.get("memory_usage"), "vram_mem")))
            if not isinstance(pid, Support) and not isinstance(held, Support):
                set_value(reading, "process_memory_bytes", held, int(pid))

    def _constant(self, kind: str, name: str) -> Any:
        return getattr(getattr(self._calls.library, kind, None), name, None)


class Partition:
    """One partition of a GPU: its utilization. All other values belong to the board."""

    def __init__(self, board: Gpu, index: int, profile: str | None) -> None:
        self._board = board
        self._index = index
        self.device = replace(board.device, instance_id=str(index), instance_profile=profile)

    def read(self) -> GpuReading:
        """Read the utilization, a mean over the partition's compute dies. Raises `DeviceLost`."""
        reading = GpuReading()
        result = self._board.metrics.answer(self.device.key)
        if isinstance(result, Support):
            set_value(reading, "utilization", result)
            return fill_reasons(reading)
        rows = result.get("xcp_stats.gfx_busy_inst")
        row = rows[self._index] if isinstance(rows, list) and self._index < len(rows) else None
        busy = numbers({"row": row}, "row")
        set_value(reading, "utilization", percent(sum(busy) / len(busy)) if busy else Support.NOT_SUPPORTED)
        return fill_reasons(reading)

    def read_energy(self) -> float | None:
        """Return `None`: AMD SMI has no energy counter for a partition."""
        return None


class EnergyCounter:
    """Validates AMD's energy counter, which must advance."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last_j = -1.0
        self._moved_at = 0.0

    def joules(self, raw_j: float) -> float | Support:
        """
        Return the counter in joules, or why it is invalid.

        It stops in some processes and after some resets (ROCm/amdsmi #22). A die without a counter reports 0. It may
        decrease slightly without a reset (ROCm/amdsmi #115), which `Counters` distinguishes from one.
        """
        if raw_j == 0:
            return Support.INVALID
        now, last_j = self._clock(), self._last_j
        if raw_j == last_j:
            return raw_j if now - self._moved_at < STALE_AFTER_S else Support.INVALID
        self._last_j, self._moved_at = raw_j, now
        return raw_j


class Throttle:
    """
    Throttled time in seconds since the first sample, by reason.

    The firmware counts throttled steps and all steps. By AMD's definition their quotient is the throttled share of the
    time between two samples.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sampled_at: float | None = None
        self._counts: dict[str, float] = {}
        self._seconds: dict[str, float] = {}

    def seconds(self, metrics: Any) -> Mapping[str, float | Support]:
        """Return seconds by `ai_otel.gpu.throttle.reason`, or why they are unavailable."""
        now, steps = self._clock(), number(metrics, "accumulation_counter")
        if isinstance(steps, Support):
            return dict.fromkeys(RESIDENCIES, steps)
        elapsed_s = 0.0 if self._sampled_at is None else now - self._sampled_at
        all_steps = steps - self._counts.get("steps", steps)
        self._sampled_at, self._counts["steps"] = now, steps
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


def whole(value: float | Support) -> int | Support:
    """Return an integer."""
    return value if isinstance(value, Support) else int(value)
