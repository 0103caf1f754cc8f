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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environments
from ai_otel.gpu.nvidia import events as nvml_events
from ai_otel.gpu.nvidia.source import NvmlSource
from ai_otel.gpu.source import Device, GpuReading, Options
from harness.gpu.nvml_scenario import (
    ALL_LINKS,
    GIB,
    PCIE_RATES,
    TYPES,
    Field,
    Gpu,
    Holder,
    Instance,
    Scenario,
    Value,
    fields_of_an_h200,
    with_fields,
)
from isolated import python

__all__ = [
    "ALL_LINKS",
    "GIB",
    "PCIE_RATES",
    "REQUIRES",
    "SECOND_GPU",
    "SONAME",
    "SOURCE",
    "TRUTH",
    "TWO",
    "TYPES",
    "Clock",
    "FakeNvml",
    "Field",
    "Gpu",
    "Holder",
    "Instance",
    "Opened",
    "Scenario",
    "Value",
    "build",
    "environment",
    "fields_of_an_h200",
    "in_its_own_process",
    "library",
    "opened",
    "running",
    "with_fields",
]

SOURCE = Path(__file__).parents[2] / "gpu/fake_nvml/fake_nvml.c"
SONAME = "libnvidia-ml.so.1"
REQUIRES: Mapping[str, str] = {"command": "cc", "why": "the simulated NVML is built from C"}
"""Arguments of `@pytest.mark.requires` for every test that uses this module."""

SECOND_GPU: Mapping[str, Any] = {"uuid": "GPU-51a0fa4e-0000-4000-8000-000000000002", "minor": 1}


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
