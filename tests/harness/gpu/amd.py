"""
A simulated AMD SMI: a shared library of AMD's names, which the unpatched `amdsmi` binding loads.

    with running(tmp_path) as source:                  an unopened production source on the two GPUs of TRUTH
    with opened(Gpu(average_socket_power=250)) as it:  an open source on given GPUs, with its values and its clock

The numbers are invented; their names, types, units and sentinels are AMD's.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_otel.gpu.amd.source import AmdSmiSource
from ai_otel.gpu.source import Device, GpuReading, Options
from harness.gpu.simulated import REQUIRED_COMMAND, Library, loaded

REQUIRES: Sequence[Mapping[str, str]] = (
    REQUIRED_COMMAND,
    {"module": "amdsmi", "why": "the simulated AMD SMI is loaded by its real binding"},
)
GIB = 2**30
HOTSPOT, VRAM = 1, 2
NOW, CRITICAL, EMERGENCY = 0, 5, 7
GFX_CLOCK, MEMORY_CLOCK, VIDEO_CLOCK = 0, 4, 6
INPUT_OUTPUT_ERROR = 12
RESOLUTION_UJ = 15.25
"""Resolution of the energy counter in microjoules; exact in 32 bits."""


def library() -> Library:
    """Return the simulated library, loaded under the name that the binding requests."""
    return loaded("amd_smi.c", "libamd_smi.so", _unsupported)


def _unsupported(source: str) -> str:
    """Return stubs of the names that the binding requires and the simulation lacks."""
    spec = importlib.util.find_spec("amdsmi")
    assert spec is not None, "mark the test with requires"
    assert spec.origin is not None
    binding = (Path(spec.origin).parent / "amdsmi_wrapper.py").read_text()
    asked = set(re.findall(r"_libraries\['libamd_smi\.so'\]\.(\w+)", binding))
    written = set(re.findall(r"^(?:EXPORTED int |FUNCTION\()(amdsmi_\w+)", source, re.MULTILINE))
    return "\n".join(f"int {name}(void) {{ return 2; }}" for name in sorted(asked - written))


class Gpu:
    """Values of one socket, in AMD's names and units. `None` removes a value."""

    def __init__(self, *, partitions: int = 1, **values: object) -> None:
        self.partitions = partitions
        self.values = {name: value for name, value in {**MI300X, **values}.items() if value is not None}


MI300X: Mapping[str, object] = {
    "uuid": "51ff74a1-0000-1000-80a0-000000000001",
    "bdf": 0x1B << 8,
    "market_name": "AMD Instinct MI300X (simulated)",
    "product_name": "AMD Instinct MI300X OAM (simulated)",
    "asic_serial": "0x51A0FA4E00000001",
    "driver_version": "6.12.12",
    "version": "022.040.003.043.000001",
    "compute_partition": "SPX",
    "current_partition_id": 0,
    "gfx_activity": 87,
    "umc_activity": 41,
    "memory_total": 192 * GIB,
    "memory_usage": 40 * GIB,
    "vram_total": 192 * 1024,
    "vram_used": 40 * 1024,
    "energy_accumulator": (1_000_000_000, 600e6 / RESOLUTION_UJ),
    "counter_resolution": RESOLUTION_UJ,
    "current_socket_power": 600,
    "power_cap": 750_000_000,
    "default_power_cap": 750_000_000,
    "min_power_cap": 0,
    "max_power_cap": 750_000_000,
    f"temperature.{HOTSPOT}.{NOW}": 71,
    f"temperature.{VRAM}.{NOW}": 52,
    f"temperature.{HOTSPOT}.{CRITICAL}": 100,
    f"temperature.{HOTSPOT}.{EMERGENCY}": 105,
    f"clock.{GFX_CLOCK}": 2100,
    f"clock.{MEMORY_CLOCK}": 1300,
    f"clock.{VIDEO_CLOCK}": 29,
    "correctable_count": 3,
    "uncorrectable_count": 0,
    "deferred_count": 1,
    "accumulation_counter": (500_000, 1000.0),
    "ppt_residency_acc": (100_000, 250.0),
    "socket_thm_residency_acc": (7, 0.0),
    "prochot_residency_acc": (0, 0.0),
    "xgmi_read_data_acc.0": (4096, 0.0),
    "xgmi_read_data_acc.1": (1024, 0.0),
    "xgmi_write_data_acc.0": (2048, 0.0),
    "gfx_busy_inst.0.0": 87,
}
MI250_SECOND_DIE: Mapping[str, object] = {
    "uuid": "51ff740c-0000-1000-80a0-000000000002",
    "bdf": 0x2A << 8,
    "market_name": "AMD Instinct MI250X (simulated)",
    "product_name": "",
    "asic_serial": "0x51A0FA4E00000002",
    "memory_total": 64 * GIB,
    "energy_accumulator": 0,
    "current_socket_power": None,
    "average_socket_power": 0,
}

TRUTH: Mapping[tuple[str, str | None], Mapping[str, Any]] = {
    ("51ff74a1-0000-1000-80a0-000000000001", None): {
        "utilization": 0.87,
        "memory_total_bytes": 192 * GIB,
        "memory_used_bytes": 40 * GIB,
        "memory_controller_utilization": 0.41,
        "energy_j": 15_250.0,
        "power_w": 600.0,
        "power_window": "instant",
        "power_limit_w": {"enforced": 750.0, "default": 750.0, "min": 0.0, "max": 750.0},
        "temperature_c": {"gpu": 71.0, "memory": 52.0},
        "temperature_limit_c": {("gpu", "high.degraded"): 100.0, ("gpu", "high.critical"): 105.0},
        "frequency_hz": {"sm": 2_100_000_000, "memory": 1_300_000_000, "video": 29_000_000},
        "throttle_s": {"thermal": 0.0, "hw_thermal": 0.0},
        "io_bytes": {("xgmi", "receive"): 5120 * 1024, ("xgmi", "transmit"): 2048 * 1024},
        "errors": {"corrected": 3, "uncorrected": 0},
    },
    ("51ff740c-0000-1000-80a0-000000000002", None): {"utilization": 0.87, "memory_total_bytes": 64 * GIB},
}
"""Expected readings of `running()` by `Device.key`."""


@contextmanager
def simulated(*gpus: Gpu) -> Iterator[Library]:
    """Return the library with exactly these GPUs, at time 0."""
    fake = library()
    fake.clear()
    fake.put("library", {"sockets": len(gpus)})
    for socket, gpu in enumerate(gpus):
        fake.put(f"h{socket}.0", {"processors": gpu.partitions, **gpu.values})
        for partition in range(1, gpu.partitions):
            # Further partitions of a board have few values.
            known = {name: gpu.values[name] for name in ("uuid", "market_name", "asic_serial", "compute_partition")}
            fake.put(f"h{socket}.{partition}", {**known, "current_partition_id": partition, "gfx_activity": 0})
    try:
        yield fake
    finally:
        fake.clear()


@contextmanager
def running(directory: Path, scenario: Sequence[Gpu] | None = None) -> Iterator[AmdSmiSource]:
    """Yield an unopened production source on an MI300X and the second die of an MI250X."""
    del directory
    with simulated(*(scenario or (Gpu(), Gpu(**MI250_SECOND_DIE)))) as fake:
        source = AmdSmiSource(Options(), clock=fake.clock)
        try:
            yield source
        finally:
            source.close()


def advance(seconds: float) -> None:
    """Advance the simulated time."""
    library().advance(seconds)


@dataclass
class Opened:
    """An open source with its simulated library."""

    fake: Library
    source: AmdSmiSource
    devices: Sequence[Device]

    def read(self, index: int = 0, after_s: float = 0.0) -> GpuReading:
        """Advance the clock and read one device."""
        self.fake.advance(after_s)
        return self.source.read(self.devices[index])


@contextmanager
def opened(*gpus: Gpu, options: Options = Options()) -> Iterator[Opened]:  # noqa: B008  frozen
    """Yield an open source on GPUs, with the simulated clock."""
    with simulated(*(gpus or (Gpu(),))) as fake:
        source = AmdSmiSource(options, clock=fake.clock)
        try:
            yield Opened(fake, source, source.open())
        finally:
            source.close()


def lose_first() -> None:
    """Make the first GPU stop answering."""
    functions = ("activity", "memory_total", "memory_usage", "vram_usage", "total_ecc_count", "metrics_info")
    others = ("energy_count", "power_info", "power_cap_info", "temp_metric", "clock_info")
    names = [f"amdsmi_get_gpu_{name}" for name in functions] + [f"amdsmi_get_{name}" for name in others]
    library().fail("h0.0", *names, code=INPUT_OUTPUT_ERROR)
