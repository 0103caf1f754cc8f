"""
A simulated NVML: a shared library with a scenario, which unpatched nvidia-ml-py loads.

    with running(tmp_path) as source:                        an unopened production source in this process
    with library(tmp_path, Scenario(gpus=[Gpu()])) as fake:  the library, with its clock and call counts
    subprocess.run(…, env=os.environ | environment(Scenario(), tmp_path))   for a whole server

A value is a number, or `(seconds, value)` points that are interpolated linearly; a step is two points at one time. The
clock is manual, or the machine's. A device supports the values of its `Gpu` that are not `None`.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import environments
from ai_otel.gpu.nvidia import events as nvml_events
from ai_otel.gpu.nvidia.source import NvmlSource
from ai_otel.gpu.source import Device, GpuReading, Options
from isolated import python

SOURCE = Path(__file__).parents[2] / "gpu/fake_nvml/fake_nvml.c"
SONAME = "libnvidia-ml.so.1"
REQUIRES: Mapping[str, str] = {"command": "cc", "why": "the simulated NVML is built from C"}
"""Arguments of `@pytest.mark.requires` for every test that uses this module."""

Value = float | Sequence[tuple[float, float]]

TYPES = {"double": 0, "uint": 1, "ulong": 2, "ullong": 3, "sllong": 4, "sint": 5, "ushort": 6}
ALL_LINKS = 0xFFFFFFFF
GIB = 1 << 30
PCIE_RATES: Mapping[int, float] = {20: 500e6 / 2**20, 21: 200e6 / 2**20}
"""GPM metrics in MiB/s, equal to the rates of the byte counters 197 and 198 below."""


# ---------------------------------------------------------------- scenario


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


# ---------------------------------------------------------------- the library


def build(missing: Iterable[str] = ()) -> Path:
    """Return the directory that holds `libnvidia-ml.so.1`, without the symbols of `missing`. Built once; 0.5 s."""
    hidden = sorted(missing)
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join(hidden).encode()).hexdigest()[:16]
    directory = environments.cache_dir() / f"fake-nvml-{key}"
    if not (directory / SONAME).exists():
        if shutil.which("cc") is None:
            raise RuntimeError("the simulated NVML is built from C, and cc is not on PATH; next: install a C compiler")
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            compile_into(Path(scratch), hidden)
            (Path(scratch) / SONAME).replace(directory / SONAME)
    return directory


def compile_into(directory: Path, hidden: Sequence[str]) -> None:
    """Run the compiler. The version script hides the missing symbols from dlsym."""
    script = directory / "symbols.map"
    local = "".join(f" {name};" for name in hidden)
    script.write_text("{ global: *;" + (f" local:{local}" if hidden else "") + " };\n")
    linker = f"-Wl,-soname,{SONAME},--version-script={script}"
    command = ["cc", "-shared", "-fPIC", "-O1", linker, "-o", str(directory / SONAME), str(SOURCE), "-lm", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the simulated NVML does not build: {done.stderr}")


class Clock:
    """The simulated time in seconds, in a file that the library maps."""

    def __init__(self, path: Path, now_s: float = 0.0) -> None:
        path.write_bytes(struct.pack("d", now_s))
        self.path = path
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 8)

    def __call__(self) -> float:
        """Return the time, so that it can be a source's clock."""
        return float(struct.unpack_from("d", self._page)[0])

    def set(self, now_s: float) -> None:
        struct.pack_into("d", self._page, 0, now_s)

    def advance(self, seconds: float) -> None:
        self.set(self() + seconds)


class FakeNvml:
    """The library in this process, with its call counts."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / SONAME
        # Loaded before pynvml requests the same name, for which the loader then returns this library.
        self._library = ctypes.CDLL(str(self.path), mode=ctypes.RTLD_GLOBAL)
        self.clock: Clock

    def use(self, scenario: Path) -> None:
        """Set the scenario of the next nvmlInit."""
        self._library.ai_otel_fake_nvml_use(str(scenario).encode())
        self._library.ai_otel_fake_nvml_forget_calls()

    def calls(self, name: str) -> int:
        """Return the number of calls of a function since the scenario was set."""
        return int(self._library.ai_otel_fake_nvml_calls(name.encode()))

    def live(self, what: str) -> int:
        """Return the number of `samples`, `event sets` or `inits` that are not freed."""
        return int(self._library.ai_otel_fake_nvml_live(what.encode()))

    def size_of(self, structure: str) -> int:
        """Return the library's size of a structure."""
        return int(self._library.ai_otel_fake_nvml_sizeof(structure.encode()))


@contextmanager
def library(directory: Path, scenario: Scenario, now_s: float = 10.0) -> Iterator[FakeNvml]:
    """Use a scenario as the NVML of this process. Time is constant until `clock` is advanced."""
    assert not scenario.missing, "a library without symbols needs a process of its own: environment()"
    fake = FakeNvml(build())
    assert fake.live("inits") == 0, "the simulated NVML is still initialized: a source was not closed"
    fake.clock = Clock(directory / "clock", now_s)
    fake.use(scenario.write(directory / "scenario.txt", fake.clock.path))
    # Closing a source waits for one wait of its event thread.
    usual, nvml_events.WAIT_MS = nvml_events.WAIT_MS, 20
    try:
        yield fake
    finally:
        nvml_events.WAIT_MS = usual


def environment(scenario: Scenario, directory: Path, origin_s: float | None = None) -> dict[str, str]:
    """
    Return variables with which a process loads the simulated NVML instead of a driver's.

    Time is real: 0 is at `origin_s` of `time.monotonic`, by default now, and is the same in every process.
    """
    path = scenario.write(directory / "scenario.txt", origin_s=origin_s)
    search = os.pathsep.join(filter(None, [str(build(scenario.missing)), os.environ.get("LD_LIBRARY_PATH", "")]))
    return {"LD_LIBRARY_PATH": search, "FAKE_NVML_SCENARIO": str(path)}


# ---------------------------------------------------------------- for the contract tests

TWO = Scenario(
    gpus=[
        Gpu(),
        Gpu(
            uuid="GPU-51a0fa4e-0000-4000-8000-000000000002",
            serial="1650000000002",
            bus_id="00000000:2A:00.0",
            minor=1,
            instances=[Instance(1, profile="1g.18gb"), Instance(2, profile="2g.35gb", slices=2, memory_total=32 * GIB)],
        ),
    ]
)

TRUTH: Mapping[tuple[str, str | None], Mapping[str, Any]] = {
    ("GPU-51a0fa4e-0000-4000-8000-000000000001", None): {
        "utilization": 0.87,
        "encoder_utilization": 0.0,
        "decoder_utilization": 0.12,
        "memory_controller_utilization": 0.41,
        "memory_total_bytes": 141 * GIB,
        "memory_used_bytes": 40 * GIB,
        "memory_reserved_bytes": GIB // 2,
        "memory_bandwidth_utilization": 0.62,
        "sm_activity": 0.80,
        "sm_occupancy": 0.40,
        "pipe_activity": {"tensor": 0.35, "fp64": 0.0, "fp32": 0.03, "fp16": 0.005, "int": 0.07},
        "energy_j": 1000.0 + 300.0 * 10,
        "power_w": 300.0,
        "power_window": "average",
        "power_limit_w": {"enforced": 650.0, "requested": 690.0, "default": 700.0, "min": 200.0, "max": 700.0},
        "temperature_c": {"gpu": 61.0, "memory": 52.0},
        "frequency_hz": {"sm": 1_755_000_000, "memory": 3_201_000_000, "video": 1_425_000_000},
        "throttle_s": {
            "power_cap": 0.5,
            "sync_boost": 0.0,
            "sw_thermal": 1.1,
            "hw_thermal": 3.0,
            "hw_power_brake": 0.0,
        },
        "io_bytes": {
            ("pcie", "transmit"): 5_000_000_000,
            ("pcie", "receive"): 2_000_000_000,
            ("nvlink", "transmit"): 4096 * 18 * 1024,
            ("nvlink", "receive"): 2048 * 18 * 1024,
        },
        "errors": {"corrected": 2, "uncorrected": 0},
        "status": "ok",
        "own_share": 1.0,
    },
    ("GPU-51a0fa4e-0000-4000-8000-000000000002", None): {
        "energy_j": 4000.0,
        "power_w": 300.0,
        "temperature_c": {"gpu": 61.0, "memory": 52.0},
    },
    ("GPU-51a0fa4e-0000-4000-8000-000000000002", "1"): {
        "memory_total_bytes": 16 * GIB,
        "memory_used_bytes": 4 * GIB,
        "sm_activity": 0.30,
        "memory_bandwidth_utilization": 0.25,
    },
    ("GPU-51a0fa4e-0000-4000-8000-000000000002", "2"): {"memory_total_bytes": 32 * GIB, "sm_activity": 0.30},
}
"""Expected readings of `running()` by `Device.key`. Values that take two samples are available after 0.1 s."""


@contextmanager
def running(
    directory: Path,
    scenario: Scenario = TWO,
    options: Options = Options(),  # noqa: B008  frozen
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[NvmlSource]:
    """Yield an unopened production source on the simulated library, whose time is constantly 10 s."""
    with library(directory, scenario):
        source = NvmlSource(options, clock=clock)
        try:
            yield source
        finally:
            source.close()


@dataclass
class Opened:
    """An open source with its simulated library."""

    fake: FakeNvml
    source: NvmlSource
    devices: Sequence[Device]

    def read(self, index: int = 0, after_s: float = 0.0) -> GpuReading:
        """Advance the clock and read one device."""
        self.fake.clock.advance(after_s)
        return self.source.read(self.devices[index])


@contextmanager
def opened(
    directory: Path,
    *gpus: Gpu,
    options: Options = Options(),  # noqa: B008  frozen
    now_s: float = 10.0,
    **scenario: Any,
) -> Iterator[Opened]:
    """Yield an open source on GPUs, with the simulated clock."""
    with library(directory, Scenario(gpus=gpus or [Gpu()], **scenario), now_s) as fake:
        source = NvmlSource(options, clock=fake.clock)
        try:
            yield Opened(fake, source, source.open())
        finally:
            source.close()


def in_its_own_process(directory: Path, scenario: Scenario, code: str, **variables: str) -> str:
    """Run `code` in an interpreter that loads the simulated library by name; returns its output."""
    return python(code, **environment(scenario, directory), **variables)
