"""The simulated NVML: NVIDIA's structures, the loaded library, and consistent power and energy."""

from __future__ import annotations

import ctypes
import json
import time
from pathlib import Path

import pynvml
import pytest

from harness.gpu import nvml
from harness.gpu.nvml import Gpu, Scenario

pytestmark = pytest.mark.requires(**nvml.REQUIRES)

NAMES = {
    "FieldValue": "c_nvmlFieldValue_t",
    "Value": "c_nvmlValue_t",
    "Memory": "c_nvmlMemory_t",
    "Memory2": "c_nvmlMemory_v2_t",
    "Utilization": "c_nvmlUtilization_t",
    "Temperature": "c_nvmlTemperature_v1_t",
    "GpmMetric": "c_nvmlGpmMetric_t",
    "GpmSupport": "c_nvmlGpmSupport_t",
    "EventData": "c_nvmlEventData_t",
    "Process": "c_nvmlProcessInfo_v2_t",
    "ProcessSample": "c_nvmlProcessUtilizationSample_t",
    "Pci": "nvmlPciInfo_t",
    "Attributes": "c_nvmlDeviceAttributes",
}
"""Simulated structure → the binding's."""
# Older bindings lack some of them.
STRUCTURES = {name: getattr(pynvml, binding) for name, binding in NAMES.items() if hasattr(pynvml, binding)}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_structures_have_the_sizes_of_nvidias_binding(tmp_path: Path, structure: str) -> None:
    with nvml.library(tmp_path, Scenario()) as fake:
        assert fake.size_of(structure) == ctypes.sizeof(STRUCTURES[structure])


def test_the_metrics_array_has_the_offset_of_nvidias_binding(tmp_path: Path) -> None:
    """The array's length differs by binding; the driver fills as many rows as requested."""
    with nvml.library(tmp_path, Scenario()) as fake:
        assert fake.size_of("GpmMetrics") == pynvml.c_nvmlGpmMetricsGet_t.metrics.offset


def test_the_newest_binding_has_every_structure() -> None:
    newest = hasattr(pynvml, "NVML_GPM_METRIC_SM_CYCLES_ELAPSED")
    assert not newest or STRUCTURES.keys() == NAMES.keys()


def test_nvidias_binding_loads_the_simulated_library(tmp_path: Path) -> None:
    with nvml.opened(tmp_path) as gpu:
        loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if nvml.SONAME in line}
        assert {Path(path) for path in loaded} == {gpu.fake.path}
        assert "(simulated)" in str(gpu.devices[0].model)


WHAT_LOADS = """
import json, pynvml
pynvml.nvmlInit()
gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
try:
    temperature = pynvml.nvmlDeviceGetTemperature(gpu, 0)
except pynvml.NVMLError_FunctionNotFound:
    temperature = "not found"
libraries = [line.split()[-1] for line in open("/proc/self/maps") if "libnvidia-ml" in line]
print(json.dumps([pynvml.nvmlDeviceGetUUID(gpu), temperature, sorted(set(libraries))]))
"""


@pytest.mark.parametrize(("missing", "temperature"), [((), 61), (("nvmlDeviceGetTemperature",), "not found")])
def test_a_process_loads_the_library_by_name_without_missing_symbols(
    tmp_path: Path, missing: tuple[str, ...], temperature: object
) -> None:
    scenario = Scenario(missing=frozenset(missing))
    printed = json.loads(nvml.in_its_own_process(tmp_path, scenario, WHAT_LOADS))
    assert printed == [Gpu().uuid, temperature, [str(nvml.build(missing) / nvml.SONAME)]]


def test_energy_is_the_integral_of_power_in_steps_of_100_ms(tmp_path: Path) -> None:
    """100 W for 10 s, a ramp to 300 W for 10 s, then a step to 500 W."""
    power = [(0, 100), (10, 100), (20, 300), (20, 500), (30, 500)]
    expected = {0: 0, 10: 1000, 20: 3000, 24: 5000, 24.09: 5000, 24.11: 5050}
    with nvml.opened(tmp_path, Gpu(power_w=power, energy_base_j=0), now_s=0) as gpu:
        for now_s, joules in expected.items():
            gpu.fake.clock.set(now_s)
            assert gpu.source.read_energy(gpu.devices[0]) == pytest.approx(joules, abs=0.002), now_s
        assert gpu.read().power_w == pytest.approx(500)
        gpu.fake.clock.set(20.5)
        assert gpu.read().power_w == pytest.approx((0.5 * 295 + 0.5 * 500), abs=0.01), "the mean over the last second"


ENERGY_NOW = """
import pynvml, time
pynvml.nvmlInit()
print(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(0)) / 1000, time.monotonic())
"""


def test_the_simulated_time_of_a_process_starts_at_the_origin(tmp_path: Path) -> None:
    """Tests derive from it what a started server must have read."""
    origin_s = time.monotonic() - 100
    variables = nvml.environment(Scenario(gpus=[Gpu(power_w=250, energy_base_j=0)]), tmp_path, origin_s)
    joules, read_at = map(float, nvml.python(ENERGY_NOW, **variables).split())
    # One step of the counter, plus the time between the two calls on a busy machine.
    assert 0 <= 250 * (read_at - origin_s) - joules <= 250 * 2
