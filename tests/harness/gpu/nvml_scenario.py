"""Scenarios of the simulated NVML: its GPUs, MIG devices, fields and processes, and the file that the library reads."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Value = float | Sequence[tuple[float, float]]

TYPES = {"double": 0, "uint": 1, "ulong": 2, "ullong": 3, "sllong": 4, "sint": 5, "ushort": 6}
ALL_LINKS = 0xFFFFFFFF
GIB = 1 << 30
PCIE_RATES: Mapping[int, float] = {20: 500e6 / 2**20, 21: 200e6 / 2**20}
"""GPM metrics in MiB/s, equal to the rates of the byte counters 197 and 198 below."""


@dataclass
class Field:
    """Result of `nvmlDeviceGetFieldValues` for one field id, in the driver's unit."""

    value: Value = 0
    type: str = "uint"
    code: int = 0
    source: str = "points"
    """A value, or `energy`, `average`, `instant`: derived from the device's power."""


@dataclass
class Holder:
    """A process on the GPU."""

    pid: int
    memory_bytes: int | None = 0
    sm_percent: Value = 0
    instance: int = -1
    host_pid: int = 0
    """PID on the host, reported if the scenario's `pids` is `host`."""


@dataclass
class Instance:
    """A MIG device."""

    gi: int
    ci: int = 0
    uuid: str = ""
    profile: str = "1g.18gb"
    slices: int = 1
    memory_total: float | None = 16 * GIB
    memory_used: Value = 4 * GIB
    memory_reserved: float = 0.25 * GIB
    gpm: dict[int, Value] = field(
        default_factory=lambda: {2: 30.0, 3: 20.0, 5: 10.0, 10: 25.0, 11: 0, 12: 5, 13: 0, 4: 1}
    )
    gpm_codes: dict[int, int] = field(default_factory=dict)


def fields_of_an_h200() -> dict[tuple[int, int], Field]:
    """Return invented fields by id and scope (-1: every scope), in the types and units of NVIDIA's header."""
    rows = {
        3: Field(2, "ullong"),
        4: Field(0, "ullong"),
        74: Field([(0, 0), (100, 5e9)], "ullong"),
        76: Field(0, "ullong"),
        82: Field(52),
        83: Field(type="ullong", source="energy"),
        144: Field(0),
        145: Field(0),
        185: Field(source="average"),
        186: Field(source="instant"),
        187: Field(200_000),
        188: Field(700_000),
        189: Field(700_000),
        190: Field(650_000),
        192: Field(690_000),
        197: Field([(0, 0), (100, 50e9)], "ullong"),
        198: Field([(0, 0), (100, 20e9)], "ullong"),
        230: Field(0),
        269: Field([(0, 1e9), (100, 2e9)], "ullong"),
        270: Field(3e9, "ullong"),
        271: Field(0, "ullong"),
    }
    known = {(number, -1): row for number, row in rows.items()}
    for number, kib in ((138, 4096.0), (139, 2048.0)):
        known[number, 0] = Field(kib, "ullong")
        known[number, ALL_LINKS] = Field(kib * 18, "ullong")
    return known


@dataclass
class Gpu:
    """One simulated GPU. The defaults resemble an H200."""

    uuid: str | None = "GPU-51a0fa4e-0000-4000-8000-000000000001"
    name: str | None = "NVIDIA H200 (simulated)"
    serial: str | None = "1650000000001"
    vbios: str | None = "96.00.C9.00.01"
    bus_id: str | None = "00000000:18:00.0"
    minor: int = 0
    architecture: int = 9
    compute_capability: int = 90
    persistence: int | None = 1
    power_w: Value | None = 300.0
    energy_quantum_s: float = 0.1
    energy_base_j: float = 1000.0
    energy: bool = True
    resets: Sequence[float] = ()
    memory_total: float | None = 141 * GIB
    memory_used: Value = 40 * GIB
    memory_reserved: float = 0.5 * GIB
    memory_v2_used_has_reserved: bool = False
    utilization: Value | None = 87
    memory_busy: Value | None = 41
    encoder: Value | None = 0
    decoder: Value | None = 12
    temperature: Value | None = 61
    thresholds: Mapping[int, float] = field(default_factory=lambda: {0: 95, 1: 90, 2: 100})
    clocks: Mapping[str, Value] = field(
        default_factory=lambda: {"graphics": 1755, "sm": 1755, "memory": 3201, "video": 1425}
    )
    fan_speeds: Sequence[float] = ()
    pcie: tuple[int, int] | None = (5, 16)
    fields: dict[tuple[int, int], Field] = field(default_factory=fields_of_an_h200)
    gpm: dict[int, Value] | None = field(
        default_factory=lambda: {2: 80.0, 3: 40.0, 4: 7.0, 5: 35.0, 10: 62.0, 11: 0.0, 12: 3.0, 13: 0.5} | PCIE_RATES
    )
    gpm_codes: dict[int, int] = field(default_factory=dict)
    instances: Sequence[Instance] = ()
    """If not empty, the GPU is in MIG mode, without the values that MIG mode lacks."""
    holders: Sequence[Holder] = ()
    process_utilization: bool = True
    idle_is_success: bool = False
    """Whether an idle GPU's process list is success without rows."""
    events: bool = True
    xids: Sequence[tuple[float, int] | tuple[float, int, int]] = ()
    """Time in seconds, code, and optionally the MIG instance."""
    lost_at: float | None = None
    returns: Mapping[str, int | Sequence[tuple[int, float]]] = field(default_factory=dict)
    """Call → return code, or `(code, since seconds)` pairs."""
    latency_us: Mapping[str, int] = field(default_factory=dict)

    def series(self) -> dict[str, Value | None]:
        """Return the values by their name in the library."""
        mig = bool(self.instances)
        named: dict[str, Value | None] = {
            "minor": self.minor,
            "architecture": self.architecture,
            "compute_capability": self.compute_capability,
            "persistence": self.persistence,
            "power_w": self.power_w,
            "energy_quantum_s": self.energy_quantum_s,
            "energy_base_j": self.energy_base_j,
            "no_energy": None if self.energy else 1,
            "memory_total": self.memory_total,
            "memory_used": self.memory_used,
            "memory_reserved": self.memory_reserved,
            "memory_v2_used_has_reserved": 1 if self.memory_v2_used_has_reserved else None,
            "utilization": None if mig else self.utilization,
            "memory_busy": None if mig else self.memory_busy,
            "encoder": None if mig else self.encoder,
            "decoder": None if mig else self.decoder,
            "temperature": self.temperature,
            "fans": len(self.fan_speeds) or None,
            "fan_speed": self.fan_speeds[0] if self.fan_speeds else None,
            "pcie_generation": self.pcie and self.pcie[0],
            "pcie_width": self.pcie and self.pcie[1],
            "mig_mode": int(mig) if self.architecture >= 7 else None,
            "gpm": int(self.gpm is not None),
            "no_process_utilization": None if self.process_utilization else 1,
            "no_events": None if self.events else 1,
        }
        named |= {f"threshold.{number}": value for number, value in self.thresholds.items()}
        named |= {f"clock_{name}": value for name, value in self.clocks.items()}
        return named | gpm_series(self.gpm or {}, self.gpm_codes)


def gpm_series(values: Mapping[int, Value], codes: Mapping[int, int]) -> dict[str, Value | None]:
    """Return the GPM values by their name in the library."""
    return {f"gpm.{n}": value for n, value in values.items()} | {f"gpm_code.{n}": float(c) for n, c in codes.items()}


@dataclass
class Scenario:
    """All values of the library."""

    gpus: Sequence[Gpu] = field(default_factory=lambda: [Gpu()])
    driver: str = "580.159.03"
    nvml: str = "13.580.159.03"
    returns: Mapping[str, int | Sequence[tuple[int, float]]] = field(default_factory=dict)
    latency_us: Mapping[str, int] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    """Symbols that the library lacks. Requires a separate process: a process loads one library."""
    pids: str = "container"
    """`container` or `host`: the namespace of the reported PIDs."""

    def write(self, path: Path, clock: Path | None = None, origin_s: float | None = None) -> Path:
        """Write the library's file. Time is that of `clock`, or elapsed since `origin_s` (by default, now)."""
        lines = [f"driver {self.driver}", f"nvml {self.nvml}", *rules(self.returns, self.latency_us)]
        lines += [f"clock {clock}"] if clock else [f"origin {time.monotonic() if origin_s is None else origin_s:.9f}"]
        for gpu in self.gpus:
            lines += gpu_lines(gpu, self.pids)
        for index, gpu in enumerate(self.gpus):
            for instance in gpu.instances:
                lines += instance_lines(index, instance, gpu)
        path.write_text("\n".join(lines) + "\n")
        return path


def gpu_lines(gpu: Gpu, pids: str) -> Iterator[str]:
    """Yield the lines of one GPU."""
    yield "device gpu"
    texts = {"uuid": gpu.uuid, "name": gpu.name, "serial": gpu.serial, "vbios": gpu.vbios, "bus_id": gpu.bus_id}
    yield from (f"text {name} {text}" for name, text in texts.items() if text is not None)
    yield from (f"series {name} {points(value)}" for name, value in gpu.series().items() if value is not None)
    for (number, scope), row in gpu.fields.items():
        yield f"field {number} {scope} {TYPES[row.type]} {row.code} {row.source} {points(row.value)}"
    yield from rules(gpu.returns, gpu.latency_us)
    for holder in gpu.holders:
        pid = holder.host_pid if pids == "host" else holder.pid
        memory = -1 if holder.memory_bytes is None else holder.memory_bytes
        yield f"holder {pid} {memory} {holder.instance} {points(holder.sm_percent)}"
    yield from (f"xid {xid[0]} {xid[1]} {xid[2] if len(xid) > 2 else 0xFFFFFFFF}" for xid in gpu.xids)
    yield from (f"reset {at}" for at in gpu.resets)
    yield from ([f"lost {gpu.lost_at}"] if gpu.lost_at is not None else [])
    yield from (["empty_success"] if gpu.idle_is_success else [])


def instance_lines(parent: int, instance: Instance, gpu: Gpu) -> Iterator[str]:
    """Yield the lines of one MIG device."""
    yield f"device mig {parent} {instance.gi} {instance.ci}"
    uuid = instance.uuid or f"MIG-51a0fa4e-0000-4000-8000-{parent:04d}{instance.gi:04d}{instance.ci:04d}"
    yield f"text uuid {uuid}"
    yield f"text name {gpu.name} MIG {instance.profile}"
    named: dict[str, Value | None] = {
        "memory_total": instance.memory_total,
        "memory_used": instance.memory_used,
        "memory_reserved": instance.memory_reserved,
        "slices": instance.slices,
    }
    named |= gpm_series(instance.gpm, instance.gpm_codes)
    yield from (f"series {name} {points(value)}" for name, value in named.items() if value is not None)


def rules(returns: Mapping[str, int | Sequence[tuple[int, float]]], latency_us: Mapping[str, int]) -> Iterator[str]:
    """Yield the return codes and latencies of calls."""
    for call in {**returns, **latency_us}:
        codes = returns.get(call, 0)
        for code, since in [(codes, float("-inf"))] if isinstance(codes, int) else codes:
            yield f"rule {call} {code} {since} {latency_us.get(call, 0)}"


def points(value: Value) -> str:
    """Return a value in the library's format."""
    return " ".join(f"{t!r} {v!r}" for t, v in (value if isinstance(value, Sequence) else [(0.0, value)]))


def with_fields(changed: Mapping[int, Field | None]) -> dict[tuple[int, int], Field]:
    """Return the default fields with some changed or removed."""
    usual = {key: row for key, row in fields_of_an_h200().items() if key[0] not in changed}
    return usual | {(number, -1): row for number, row in changed.items() if row is not None}
