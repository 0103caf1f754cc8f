"""The Neuron source against a program that writes reports in the format that AWS documents for `neuron-monitor`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ai_otel.gpu.neuron.source import STALE_AFTER_S, NeuronSource
from ai_otel.gpu.source import DeviceLost, GpuReading, Options, Support, Unavailable
from harness.gpu.neuron import GIB, memory, program, report, running, runtime
from harness.polling import eventually
from isolated import python

ROOT = Path(__file__).parents[2]


def read_first(directory: Path, *reports: object, processes: bool = False) -> GpuReading:
    with running(directory, reports, options=Options(processes=processes)) as source:
        return source.read(source.open()[0])


# ---------------------------------------------------------------- values


def test_utilization_is_the_mean_over_a_devices_cores(tmp_path: Path) -> None:
    assert read_first(tmp_path, report(neuron_runtime_data=[runtime(1, {"1": 50.0}, {})])).utilization == 0.25


def test_without_a_process_a_device_is_idle_and_empty(tmp_path: Path) -> None:
    """An empty list is written as null."""
    reading = read_first(tmp_path, report(neuron_runtime_data=None))
    assert (reading.utilization, reading.memory_used_bytes) == (0.0, 0)


def test_memory_of_a_process_on_two_devices_is_split_by_core(tmp_path: Path) -> None:
    with running(tmp_path) as source:
        held = [source.read(device).memory_used_bytes for device in source.open()]
    assert held == [6 * GIB, 2 * GIB]


def test_memory_without_a_breakdown_is_absent(tmp_path: Path) -> None:
    process: Any = runtime(1, {}, {"0": memory(GIB)})
    process["report"]["memory_used"]["neuron_runtime_used_bytes"]["usage_breakdown"] = None
    reading = read_first(tmp_path, report(neuron_runtime_data=[process]))
    assert reading.absent["memory_used_bytes"] is Support.NOT_SUPPORTED


@pytest.mark.parametrize("place", ["runtime", "group"])
def test_groups_that_failed_are_absent(tmp_path: Path, place: str) -> None:
    process: Any = runtime(1, {"0": 10.0}, {})
    (process if place == "runtime" else process["report"]["neuroncore_counters"])["error"] = "simulated"
    reading = read_first(tmp_path, report(neuron_runtime_data=[process, runtime(2, {"1": 10.0}, {})]))
    assert reading.absent["utilization"] is Support.ERROR
    assert reading.memory_total_bytes == 32 * GIB


@pytest.mark.parametrize("counters", [None, {}, {"neuron_hw_counters": None}])
def test_missing_error_counters_are_absent(tmp_path: Path, counters: object) -> None:
    reading = read_first(tmp_path, report(system_data=counters))
    assert reading.errors == {}
    assert reading.absent["errors.corrected"] is Support.NOT_SUPPORTED


def test_a_neuron_device_has_no_energy(tmp_path: Path) -> None:
    with running(tmp_path) as source:
        (device, _) = source.open()
        assert source.read_energy(device) is None
        assert source.read(device).absent["energy_j"] is Support.NOT_SUPPORTED


def test_processes_are_read_on_request(tmp_path: Path) -> None:
    assert read_first(tmp_path / "without", report()).process_memory_bytes == {}
    assert read_first(tmp_path / "with", report(), processes=True).process_memory_bytes == {4711: 6 * GIB}


def test_lines_that_are_not_reports_are_ignored(tmp_path: Path) -> None:
    lines = ("", "{", "[]", "null", '{"neuron_hardware_info": null}', '{"neuron_hardware_info": 7}', report())
    assert read_first(tmp_path, *lines).utilization == 0.7


def test_the_last_report_is_used(tmp_path: Path) -> None:
    later = report(neuron_runtime_data=[runtime(4711, {"0": 10.0}, {})])
    with running(tmp_path, (report(), later)) as source:
        (device, _) = source.open()
        eventually(lambda: source.read(device).utilization == 0.05)


# ---------------------------------------------------------------- the program


def alive(directory: Path) -> bool:
    pid = (directory / "neuron" / "pid").read_text()
    return Path(f"/proc/{pid}").exists()


def test_the_program_ends_with_the_source(tmp_path: Path) -> None:
    with running(tmp_path) as source:
        source.open()
        assert alive(tmp_path)
        source.close()
        assert not alive(tmp_path)
    assert [thread.name for thread in threading.enumerate() if "neuron" in thread.name] == []


def test_a_forked_child_does_not_stop_the_parents_program(tmp_path: Path) -> None:
    printed = python(
        """
import os, pathlib, sys
from harness.gpu.neuron import running
directory = pathlib.Path(sys.argv[1])
with running(directory) as source:
    device = source.open()[0]
    if (pid := os.fork()) == 0:
        source._stream.close()
        os._exit(0)
    os.waitpid(pid, 0)
    print(pathlib.Path("/proc", (directory / "neuron/pid").read_text()).exists(), source.read(device).utilization)
""",
        str(tmp_path),
        path=(str(ROOT / "tools"),),
    )
    assert printed == "True 0.7\n"


def test_when_the_program_ends_its_devices_are_lost_until_reopened(tmp_path: Path) -> None:
    with running(tmp_path) as source:
        devices = source.open()
        program(tmp_path / "neuron", report(), goes_on=False)
        source.close()
        source.open()
        eventually(lambda: lost(source, devices[0]))
        assert lost(source, devices[1])
        program(tmp_path / "neuron", report())
        source.close()
        assert source.read(source.open()[0]).utilization == 0.7


def lost(source: NeuronSource, device: Any) -> bool:
    try:
        source.read(device)
    except DeviceLost:
        return True
    return False


def test_a_stale_report_means_lost_devices(tmp_path: Path) -> None:
    now = [0.0]
    source = NeuronSource(Options(neuron_monitor=str(program(tmp_path, report()))), clock=lambda: now[0])
    with closing(source):
        (device, _) = source.open()
        now[0] = STALE_AFTER_S
        assert source.read(device).utilization == 0.7
        now[0] += 0.1
        with pytest.raises(DeviceLost):
            source.read(device)


@contextmanager
def closing(source: NeuronSource) -> Iterator[None]:
    try:
        yield
    finally:
        source.close()


def test_a_program_that_exits_is_unavailable_with_its_status(tmp_path: Path) -> None:
    path = program(tmp_path, goes_on=False, status=3)
    with pytest.raises(Unavailable, match="ended with status 3: run it by hand") as why:
        NeuronSource(Options(neuron_monitor=str(path))).open()
    assert why.value.installed


def test_an_instance_without_devices_is_unavailable_with_the_reason(tmp_path: Path) -> None:
    path = program(tmp_path, report(neuron_hardware_info={"neuron_device_count": 0, "error": "no driver"}))
    source = NeuronSource(Options(neuron_monitor=str(path)))
    with pytest.raises(Unavailable, match=r"finds no Neuron device \(no driver\): load the Neuron driver"):
        source.open()
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


def test_a_file_that_is_not_executable_is_unavailable(tmp_path: Path) -> None:
    path = program(tmp_path)
    path.write_text("no program")
    with pytest.raises(Unavailable, match="does not start"):
        NeuronSource(Options(neuron_monitor=str(path))).open()
