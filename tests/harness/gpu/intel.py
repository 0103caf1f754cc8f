"""
A simulated Level Zero loader: a shared library with Sysman's names, which the unpatched `pyzes` binding loads.

    with running(tmp_path) as source:             an unopened production source on the two GPUs of TRUTH
    with opened({"sensor0.celsius": 0.0}) as it:  an open source on one GPU with changed values, with its clock

The numbers are invented; their names, types and units are Intel's. `pyzes` loads its library by an absolute path, which
is the simulated library's soname: the loader returns the library that is already loaded under that name.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_otel.gpu.intel.source import LevelZeroSource
from ai_otel.gpu.source import Device, GpuReading, Options
from harness.gpu.simulated import REQUIRED_COMMAND, Library, loaded

REQUIRES: Sequence[Mapping[str, str]] = (
    REQUIRED_COMMAND,
    {"module": "pyzes", "why": "the simulated Level Zero is loaded by its real binding"},
)
DEVICE_LOST = 0x70000001
LOADER = "/usr/lib/x86_64-linux-gnu/libze_loader.so.1"
GIB = 2**30

Values = Mapping[str, object]


def library() -> Library:
    """Return the simulated library, loaded under the path that the binding requests."""
    assert not Path(LOADER).exists(), "a real Level Zero loader is here, and would be loaded instead"
    return loaded("level_zero.c", LOADER)


def named(identity: str) -> Values:
    """Return the values of a UUID's bytes."""
    return {f"uuid.{place}": byte for place, byte in enumerate(uuid.UUID(identity).bytes)}


ONE_TILE: Values = {
    **named("51a08086-0000-4000-8000-000000000001"),
    "name": "Intel(R) Arc(TM) Pro B60 (simulated)",
    "modelName": "Intel(R) Arc(TM) Pro B60 (simulated)",
    "serialNumber": "unknown",
    "driverVersion": "1.6.35096",
    "bus": 0x1B,
    "memory": 1,
    "memory0.size": 24 * GIB,
    "memory0.free": 18 * GIB,
    "memory0.health": 1,
    "memory0.readCounter": (10**12, 90e9),
    "memory0.writeCounter": (10**11, 24e9),
    "memory0.maxBandwidth": 456_000_000_000,
    "power": 3,  # the card's domain is not listed first, and contains the others
    "power0.domain": 2,
    "power0.energy": (900_000_000, 90e6),
    "power1.domain": 1,
    "power1.energy": (1_500_000_000, 150e6),
    "power1.limit": 200_000,
    "power1.defaultLimit": 200_000,
    "power1.maxLimit": 250_000,
    "power2.domain": 4,
    "power2.energy": (100_000_000, 10e6),
    "engine": 4,
    "engine0.type": 0,
    "engine0.activeTime": (5_000_000, 640_000.0),
    "engine1.type": 1,
    "engine1.activeTime": (5_000_000, 990_000.0),
    "engine2.type": 6,
    "engine2.activeTime": (0, 100_000.0),
    "engine3.type": 6,
    "engine3.activeTime": (0, 300_000.0),
    "clock": 2,
    "clock0.type": 0,
    "clock0.actual": 2400.0,
    "clock0.throttleTime": (2_500_000, 0.0),
    "clock1.type": 1,
    "clock1.actual": 2375.0,
    "sensor": 3,
    "sensor0.type": 0,
    "sensor0.celsius": 66.0,
    "sensor1.type": 1,
    "sensor1.celsius": 63.0,
    "sensor2.type": 2,
    "sensor2.celsius": 58.0,
    "errors": 2,
    "errors0.type": 0,
    "errors0.category.0": 9,
    "errors0.category.5": 3,
    "errors1.type": 1,
    "errors1.category.1": 40,
    "errors1.category.3": 1,
    "rxCounter": (7_000_000, 0.0),
    "txCounter": (3_000_000, 0.0),
}
TWO_TILES: Values = {
    **named("51a08086-0000-4000-8000-000000000002"),
    "name": "Intel(R) Data Center GPU Max 1550 (simulated)",
    "serialNumber": "SIM00000002",
    "bus": 0x2A,
    "numSubdevices": 2,
    "memory": 2,
    "memory0.onSubdevice": 1,
    "memory0.subdeviceId": 0,
    "memory0.size": 64 * GIB,
    "memory0.free": 60 * GIB,
    "memory1.onSubdevice": 1,
    "memory1.subdeviceId": 1,
    "memory1.size": 64 * GIB,
    "memory1.free": 50 * GIB,
    "engine": 2,
    "engine0.onSubdevice": 1,
    "engine0.activeTime": (0, 200_000.0),
    "engine1.onSubdevice": 1,
    "engine1.subdeviceId": 1,
    "engine1.activeTime": (0, 600_000.0),
    "power": 2,  # a tile's domain is part of the package's
    "power0.onSubdevice": 1,
    "power0.domain": 2,
    "power0.energy": (400_000_000, 200e6),
    "power1.domain": 2,
    "power1.energy": (1_000_000_000, 450e6),
}

TRUTH: Mapping[tuple[str, str | None], Mapping[str, Any]] = {
    ("51a08086-0000-4000-8000-000000000001", None): {
        "utilization": 0.64,
        "decoder_utilization": 0.2,
        "memory_total_bytes": 24 * GIB,
        "memory_used_bytes": 6 * GIB,
        "memory_bandwidth_utilization": 0.25,
        "energy_j": 1500.0,
        "power_w": 150.0,
        "power_window": "average",
        "power_limit_w": {"enforced": 200.0, "default": 200.0, "max": 250.0},
        "temperature_c": {"gpu": 63.0, "memory": 58.0},
        "frequency_hz": {"sm": 2_400_000_000, "memory": 2_375_000_000},
        "throttle_s": {"any": 2.5},
        "io_bytes": {("pcie", "receive"): 7_000_000, ("pcie", "transmit"): 3_000_000},
        "errors": {"corrected": 3, "uncorrected": 1},
        "status": "ok",
    },
    ("51a08086-0000-4000-8000-000000000002", None): {
        "utilization": 0.4,
        "memory_total_bytes": 128 * GIB,
        "memory_used_bytes": 18 * GIB,
        "energy_j": 1000.0,
        "power_w": 450.0,
    },
    ("51a08086-0000-4000-8000-000000000002", "0"): {
        "utilization": 0.2,
        "memory_used_bytes": 4 * GIB,
    },
    ("51a08086-0000-4000-8000-000000000002", "1"): {"utilization": 0.6, "memory_used_bytes": 14 * GIB},
}
"""Expected readings of `running()` by `Device.key`, after a call of `advance`."""


@contextmanager
def simulated(*gpus: Values) -> Iterator[Library]:
    """Return the library with exactly these GPUs, at time 0."""
    fake = library()
    fake.clear()
    fake.put("library", {"devices": len(gpus)})
    for place, values in enumerate(gpus):
        fake.put(f"d{place}", values)
    try:
        yield fake
    finally:
        fake.clear()


@contextmanager
def running(directory: Path, scenario: Sequence[Values] = (ONE_TILE, TWO_TILES)) -> Iterator[LevelZeroSource]:
    """Yield an unopened production source on an Arc Pro and a Max with two tiles."""
    del directory
    with simulated(*scenario):
        source = LevelZeroSource(Options())
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
    source: LevelZeroSource
    devices: Sequence[Device]

    def read(self, index: int = 0, after_s: float = 1.0) -> GpuReading:
        """Advance the clock and read one device."""
        self.fake.advance(after_s)
        return self.source.read(self.devices[index])


@contextmanager
def opened(
    *differing: Values,
    options: Options = Options(),  # noqa: B008  frozen
) -> Iterator[Opened]:
    """Yield an open source on GPUs of one tile with changed values."""
    with simulated(*({**ONE_TILE, **values} for values in differing or ({},))) as fake:
        source = LevelZeroSource(options)
        try:
            yield Opened(fake, source, source.open())
        finally:
            source.close()


def lose_first() -> None:
    """Make the first GPU lost: all calls on its engines return that."""
    engines = range(4)
    for number in engines:
        library().fail(f"d0.engine{number}", "zesEngineGetActivity", code=DEVICE_LOST)
