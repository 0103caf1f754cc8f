"""
One suite for all GPU sources, each against the simulated library, server or program of its vendor.

The source of a new vendor is tested by having a row in `SOURCES` and a file `tests/harness/gpu/<vendor>.py` with
`running` (an unopened source), `TRUTH` (what it reads, by `Device.key`) and `REQUIRES` (what of it may not be there).
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ai_otel import semconv
from ai_otel.gpu import SOURCES, TRACES, registry
from ai_otel.gpu.nvidia import library as nvml_library
from ai_otel.gpu.source import Device, DeviceLost, GpuReading, GpuSource, Options, Support
from isolated import python

ROOT = Path(__file__).parents[2]
HARNESSES = {
    vendor: importlib.import_module(f"harness.gpu.{ {'nvidia': 'nvml'}.get(vendor, vendor) }") for vendor in SOURCES
}

# Files that show that a vendor's hardware is present, so that `Unavailable.installed` is set. Intel's path exists for
# graphics of any vendor and is left out.
SPEAKING = {**TRACES, "nvidia": tuple(map(str, nvml_library.TRACES)), "intel": ()}
OF_VENDORS = ("pynvml", "amdsmi", "pyzes", "grpc", "google.protobuf", "libtpu", "tpu_info")
NEVER = ("torch", "cuda", "cupy", "jax", "numba", "tensorflow")
"""Modules that initialize a device, or change how the server does."""

RATIOS = (
    "utilization",
    "encoder_utilization",
    "decoder_utilization",
    "memory_bandwidth_utilization",
    "memory_controller_utilization",
    "sm_activity",
    "sm_occupancy",
    "own_share",
)
MEASURED = (*RATIOS, "memory_used_bytes", "power_w", "temperature_c")
COUNTERS = ("energy_j", "throttle_s", "io_bytes", "errors")
WITHOUT_REASON = {"power_window", "process_memory_bytes", "held", "absent"}
"""Fields that qualify another value or are read on request."""

KEYS: Mapping[str, Sequence[Any]] = {
    "pipe_activity": semconv.GPU_PIPES,
    "power_limit_w": semconv.GPU_LIMIT_TYPES,
    "temperature_c": ("gpu", "memory"),
    "temperature_limit_c": [
        (place, end) for place in ("gpu", "memory") for end in ("high.critical", "high.degraded", "low.critical")
    ],
    "frequency_hz": semconv.GPU_CLOCKS,
    "throttle_s": semconv.GPU_THROTTLE_REASONS,
    "io_bytes": [(link, way) for link in semconv.GPU_LINKS for way in ("receive", "transmit")],
    "errors": ("corrected", "uncorrected"),
}


def source_class(vendor: str) -> type[GpuSource]:
    module, _, name = SOURCES[vendor].partition(":")
    found: type[GpuSource] = getattr(importlib.import_module(module), name)
    return found


def each_vendor() -> Iterator[Any]:
    """Yield every vendor of `SOURCES`, marked with the requirements of its simulation."""
    for vendor, harness in HARNESSES.items():
        required = [harness.REQUIRES] if isinstance(harness.REQUIRES, Mapping) else list(harness.REQUIRES)
        if vendor == "nvidia":
            required.append({"module": "pynvml", "why": "the simulated NVML is loaded by its real binding"})
        yield pytest.param(vendor, marks=[pytest.mark.requires(**each) for each in required])


on_each_vendor = pytest.mark.parametrize("vendor", list(each_vendor()))


@pytest.fixture
def source(vendor: str, tmp_path: Path) -> Iterator[GpuSource]:
    """An unopened source on its simulation."""
    with HARNESSES[vendor].running(tmp_path) as made:
        yield made


def open_and_read(vendor: str, source: GpuSource) -> Mapping[Device, GpuReading]:
    """Open a source and read every device, after the time that two samples take."""
    devices = source.open()
    pass_time(vendor)
    return {device: source.read(device) for device in devices}


def pass_time(vendor: str) -> None:
    """Advance the simulation's clock, or wait if it has none."""
    advance = getattr(HARNESSES[vendor], "advance", None)
    if advance is None:
        time.sleep(0.15)
    else:
        advance(1.0)


def entries(reading: GpuReading, name: str) -> Mapping[Any, Any]:
    """Return a field's values by key; a scalar's key is `None`."""
    value = getattr(reading, name)
    return value if isinstance(value, Mapping) else {} if value is None else {None: value}


# ---------------------------------------------------------------- the interface


@pytest.mark.parametrize("vendor", SOURCES)
def test_a_source_implements_the_interface_under_its_vendors_key(vendor: str) -> None:
    made = source_class(vendor)(Options())  # type: ignore[call-arg]
    assert made.vendor == vendor
    for name, declared in inspect.getmembers(GpuSource, inspect.isfunction):
        if not name.startswith("_"):
            own = inspect.signature(getattr(type(made), name))
            assert list(own.parameters) == list(inspect.signature(declared).parameters), name


@pytest.mark.parametrize("vendor", SOURCES)
def test_importing_a_source_imports_nothing_of_a_vendor(vendor: str) -> None:
    module = SOURCES[vendor].partition(":")[0]
    assert loaded_after(f"import {module}") & {*OF_VENDORS, *NEVER} == set()


@on_each_vendor
def test_opening_and_reading_starts_no_device_and_prints_nothing(vendor: str, tmp_path: Path) -> None:
    """`python` fails on output to standard error; standard output has the list of modules only."""
    harness = HARNESSES[vendor].__name__
    code = f"""
import pathlib
from {harness} import running
with running(pathlib.Path({str(tmp_path)!r})) as source:
    for device in source.open():
        source.read(device)
"""
    assert loaded_after(code) & set(NEVER) == set()


def loaded_after(code: str) -> set[str]:
    printed = python(f"{code}\nimport sys; print(*sys.modules)", path=(str(ROOT / "tools"),))
    assert len(printed.splitlines()) == 1
    return {
        name
        for name in printed.split()
        if name.partition(".")[0] in {each.partition(".")[0] for each in (*OF_VENDORS, *NEVER)}
    }


@pytest.mark.parametrize("vendor", SOURCES)
def test_without_the_vendors_software_a_source_is_quietly_unavailable(vendor: str) -> None:
    """Runs in an interpreter without packages. With `installed` false the message is not logged."""
    module, _, name = SOURCES[vendor].partition(":")
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "src")!r})
from {module} import {name}
from ai_otel.gpu.source import Options, Unavailable
try:
    {name}(Options(neuron_monitor="no-such-monitor")).open()
except Unavailable as why:
    print(why.installed, why)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    installed, _, sentence = done.stdout.strip().partition(" ")
    assert done.stderr == ""
    assert installed == str(any(Path(trace).exists() for trace in SPEAKING[vendor]))
    assert sentence.endswith(".")
    assert ": " in sentence, "the next step follows a colon"


# ---------------------------------------------------------------- the devices


@on_each_vendor
def test_device_ids_are_unique_and_stable_across_reopening(vendor: str, source: GpuSource) -> None:
    first = [device.key for device in source.open()]
    source.close()
    assert first == [device.key for device in source.open()]
    assert len(set(first)) == len(first)
    assert set(first) == set(HARNESSES[vendor].TRUTH)


@on_each_vendor
def test_constants_of_a_device_are_texts_or_none(vendor: str, source: GpuSource) -> None:
    for device in source.open():
        values = dataclasses.asdict(device)
        index = values.pop("index")
        assert index is None or isinstance(index, int)
        assert device.vendor == vendor
        assert all(value is None or (isinstance(value, str) and value.strip()) for value in values.values()), values
        assert {"N/A", "unknown", "n/a"} & set(values.values()) == set()


@on_each_vendor
def test_a_closed_source_can_be_reopened(vendor: str, source: GpuSource) -> None:
    before = {device.key for device in open_and_read(vendor, source)}
    source.close()
    source.close()
    again = open_and_read(vendor, source)
    assert {device.key for device in again} == before
    assert all(any(entries(reading, name) for name in MEASURED) for reading in again.values())


# ---------------------------------------------------------------- the values


@on_each_vendor
def test_every_value_has_the_contracts_unit(vendor: str, source: GpuSource) -> None:
    """Counters grow during the test: at most by a factor of two, while a wrong unit is a factor of a thousand."""
    readings = {device.key: reading for device, reading in open_and_read(vendor, source).items()}
    for key, fields in HARNESSES[vendor].TRUTH.items():
        for name, truth in fields.items():
            actual = entries(readings[key], name)
            for entry, value in (truth if isinstance(truth, Mapping) else {None: truth}).items():
                where = f"{key} {name} {entry}"
                if isinstance(value, str):
                    assert actual[entry] == value, where
                elif name in COUNTERS:
                    assert value <= actual[entry] <= 2 * value, where
                else:
                    assert actual[entry] == pytest.approx(value, rel=1e-6), where


@on_each_vendor
def test_every_value_is_possible_and_has_keys_of_the_contract(vendor: str, source: GpuSource) -> None:
    for reading in open_and_read(vendor, source).values():
        for name in RATIOS:
            assert all(isinstance(share, float) and 0 <= share <= 1 for share in entries(reading, name).values()), name
        for field in dataclasses.fields(reading):
            for key, value in entries(reading, field.name).items() if field.name != "absent" else ():
                assert field.name not in KEYS or key in KEYS[field.name], f"{field.name} {key}"
                assert isinstance(value, str) or (math.isfinite(value) and value >= 0), f"{field.name} {key}"
        assert reading.power_window in {None, *semconv.GPU_POWER_WINDOWS}
        assert (reading.power_w is None) == (reading.power_window is None)
        assert reading.status in {None, "ok", "degraded", "failed", "predicted_failure", "needs_cleaning"}
        if reading.memory_used_bytes is not None and reading.memory_total_bytes is not None:
            assert reading.memory_used_bytes <= reading.memory_total_bytes
        whole = (
            "memory_total_bytes",
            "memory_used_bytes",
            "memory_reserved_bytes",
            "io_bytes",
            "errors",
            "frequency_hz",
        )
        assert all(isinstance(value, int) for name in whole for value in entries(reading, name).values())


@on_each_vendor
def test_exactly_the_absent_values_have_a_reason(vendor: str, source: GpuSource) -> None:
    for device, reading in open_and_read(vendor, source).items():
        explained = {entry.partition(".")[0] for entry in reading.absent}
        for field in dataclasses.fields(reading):
            if field.name not in WITHOUT_REASON and getattr(reading, field.name) is None:
                assert field.name in explained, f"{device.key} {field.name}"
        for entry, support in reading.absent.items():
            name, _, key = entry.partition(".")
            assert isinstance(support, Support)
            assert support not in {Support.OK, Support.LOST}
            actual = entries(reading, name)
            assert (key or None) not in {".".join(each) if isinstance(each, tuple) else each for each in actual}, entry


@on_each_vendor
def test_counters_do_not_decrease(vendor: str, source: GpuSource) -> None:
    first = open_and_read(vendor, source)
    for _ in range(2):
        pass_time(vendor)
        then = {device: source.read(device) for device in first}
        for device, reading in then.items():
            for name in COUNTERS:
                before, now = entries(first[device], name), entries(reading, name)
                assert all(now[key] >= before[key] for key in before), f"{device.key} {name}"
        first = then


@on_each_vendor
def test_read_energy_equals_the_energy_of_a_reading(vendor: str, source: GpuSource) -> None:
    for device in open_and_read(vendor, source):
        before, reading, after = source.read_energy(device), source.read(device), source.read_energy(device)
        if reading.energy_j is None:
            assert before is None
            assert after is None
        else:
            assert before is not None
            assert after is not None
            assert before <= reading.energy_j <= after


@on_each_vendor
def test_an_instance_has_no_values_of_its_device(vendor: str, source: GpuSource) -> None:
    """Energy, power, errors and links belong to the device: instances would count them twice."""
    for device, reading in open_and_read(vendor, source).items():
        if device.instance_id is not None:
            assert source.read_energy(device) is None
            of_devices = ("energy_j", "power_w", "temperature_c", "errors", "io_bytes", "throttle_s", "status")
            assert [name for name in of_devices if entries(reading, name)] == []


# ---------------------------------------------------------------- events and lost devices


@on_each_vendor
def test_reading_events_does_not_wait(vendor: str, source: GpuSource) -> None:
    source.open()
    began_s = time.perf_counter()
    assert [event for _ in range(100) for event in source.events()] == []
    assert time.perf_counter() - began_s < 10, "a waiting call of NVML takes 250 ms"


@contextmanager
def with_one_lost(vendor: str, directory: Path) -> Iterator[tuple[GpuSource, Sequence[Device]]]:
    """Yield an open source whose first device has been lost since."""
    harness = HARNESSES[vendor]
    with ExitStack() as stack:
        if vendor == "nvidia":
            first, *others = harness.TWO.gpus
            gpus = [dataclasses.replace(first, lost_at=20.0), *others]
            fake = stack.enter_context(harness.library(directory, harness.Scenario(gpus=gpus)))
            lost = stack.enter_context(closing(source_class(vendor)(Options())))  # type: ignore[call-arg]
            devices = lost.open()
            fake.clock.set(30.0)
        elif vendor == "tpu":
            chips = harness.Chips()
            lost = stack.enter_context(harness.running(directory, chips))
            devices = lost.open()
            for values in chips.values.values():
                del values[0]
        else:
            lost = stack.enter_context(harness.running(directory))
            devices = lost.open()
            harness.lose_first()
        yield lost, devices


@contextmanager
def closing(source: GpuSource) -> Iterator[GpuSource]:
    try:
        yield source
    finally:
        source.close()


@pytest.mark.parametrize("vendor", [each for each in each_vendor() if each.values[0] != "neuron"])
def test_a_lost_device_does_not_affect_the_others(vendor: str, tmp_path: Path) -> None:
    """Neuron devices share one program and are lost together (tests/gpu/test_neuron.py)."""
    with with_one_lost(vendor, tmp_path) as (source, devices):
        lost, *others = devices
        if vendor == "tpu":  # the first query served all devices
            source.read(lost)
        with pytest.raises(DeviceLost):
            source.read(lost)
        for device in others:
            if device.id != lost.id:
                assert any(entries(source.read(device), name) for name in MEASURED), device.key


# ---------------------------------------------------------------- third parties


MINE = """
from ai_otel.gpu.source import Device, GpuReading


class MySource:
    vendor = "mine"

    def __init__(self, options):
        self.options = options

    def open(self):
        return [Device(id="mine-0", vendor="mine")]

    def read(self, device):
        return GpuReading(power_w=42.0)

    def read_energy(self, device):
        return None

    def events(self):
        return ()

    def close(self):
        pass
"""


@pytest.fixture
def of_a_third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a distribution with two sources: one that works, and one whose module is missing."""
    (tmp_path / "my_source.py").write_text(MINE)
    (metadata := tmp_path / "my_source-1.0.dist-info").mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-source\nVersion: 1.0\n")
    rows = "mine = my_source:MySource\nbroken = no_such_module:Source\n"
    (metadata / "entry_points.txt").write_text(f"[ai_otel.gpu_sources]\n{rows}")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("names", [("auto",), ("mine", "broken")])
def test_a_third_partys_source_works_like_a_built_in_one(
    of_a_third_party: None, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    made = registry.make_sources(registry.wanted_sources(names), Options(processes=True))
    source: Any = made["mine"]
    (device,) = source.open()
    assert (device.id, source.read(device).power_w, source.options.processes) == ("mine-0", 42.0, True)
    assert "broken" not in made
    assert "GPU source broken (no_such_module:Source) cannot be used" in caplog.text


def test_built_in_sources_are_created_the_same_way() -> None:
    made = registry.make_sources(SOURCES, Options())
    assert {vendor: type(source) for vendor, source in made.items()} == {each: source_class(each) for each in SOURCES}
