"""The NVIDIA source without driver, binding, permission or GPU: the reason and the next step of each message."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from ai_otel.gpu.nvidia import library as nvml_library
from ai_otel.gpu.nvidia.source import NvmlSource
from ai_otel.gpu.source import Options, Unavailable
from harness.gpu import nvml
from harness.gpu.nvml import Gpu, Scenario

pytestmark = pytest.mark.requires(**nvml.REQUIRES)


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nvml_library, "TRACES", (tmp_path / "nvidiactl",))


@pytest.fixture
def a_driver(no_driver: None, tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch()


def refused(source: NvmlSource | None = None) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        (source or NvmlSource(Options())).open()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return caught.value


def test_without_binding_and_driver_nothing_is_installed(no_driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert not refused().installed


def test_a_driver_without_binding_names_the_package_to_install(a_driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    error = refused()
    assert error.installed
    assert "pip install 'ai-otel[nvidia]'" in str(error)


def test_an_outdated_binding_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many images contain copies of `pynvml` without version 2 of the memory call."""
    old = types.ModuleType("pynvml")
    old.__dict__.update(__file__="/app/pynvml.py", nvmlInit=None, NVMLError=Exception, nvmlDeviceGetFieldValues=None)
    monkeypatch.setitem(sys.modules, "pynvml", old)
    assert "/app/pynvml.py is too old (it has no nvmlMemory_v2)" in str(refused())


@pytest.mark.parametrize(
    ("code", "installed", "step"),
    [
        (4, True, "give this user access to /dev/nvidiactl"),
        (9, True, "run the pod with the nvidia runtime class"),
        (12, False, "run the pod with the nvidia runtime class"),
        (13, True, "update it to 535 or newer"),
        (18, True, "reboot the node"),
        (999, True, "see what nvidia-smi reports"),
    ],
)
def test_a_failed_start_of_nvml_states_reason_and_next_step(
    tmp_path: Path, no_driver: None, code: int, installed: bool, step: str
) -> None:
    with nvml.library(tmp_path, Scenario(returns={"nvmlInitWithFlags": code})) as fake:
        error = refused()
        assert fake.live("inits") == 0
    assert error.installed == installed
    assert step in str(error)


def test_devices_without_the_library_name_the_runtime_class(a_driver: None, tmp_path: Path) -> None:
    with nvml.library(tmp_path, Scenario(returns={"nvmlInitWithFlags": 12})):
        error = refused()
    assert error.installed
    assert "devices are present, but libnvidia-ml.so.1 is missing" in str(error)


def test_without_a_gpu_nvml_is_shut_down_with_a_message(tmp_path: Path) -> None:
    with nvml.library(tmp_path, Scenario(gpus=[])) as fake:
        assert "sees no GPU in this container" in str(refused())
        assert fake.live("inits") == 0


REALLY_WITHOUT = """
import json, sys
from ai_otel.gpu.nvidia.source import NvmlSource
from ai_otel.gpu.source import Options, Unavailable
try:
    print(json.dumps([device.id for device in NvmlSource(Options()).open()]))
except Unavailable as error:
    print(json.dumps([str(error), error.installed]))
"""


def test_a_library_from_before_nvmlinitwithflags_is_too_old(tmp_path: Path) -> None:
    scenario = Scenario(missing=frozenset({"nvmlInitWithFlags"}))
    sentence, installed = json.loads(nvml.in_its_own_process(tmp_path, scenario, REALLY_WITHOUT))
    assert sentence == "NVIDIA's driver is too old: update it to 535 or newer."
    assert installed


def test_a_gpu_that_cannot_be_opened_is_left_out_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    closed = Gpu(returns={"nvmlDeviceGetHandleByIndex_v2": 4})
    with nvml.opened(tmp_path, closed, Gpu(**nvml.SECOND_GPU)) as gpu:
        assert [device.id for device in gpu.devices] == [nvml.SECOND_GPU["uuid"]]
    (record,) = caplog.records
    assert "give this user access to /dev/nvidia0" in record.getMessage()


def test_a_gpu_lost_at_the_start_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with nvml.opened(tmp_path, Gpu(lost_at=0.0), Gpu(**nvml.SECOND_GPU)) as gpu:
        assert [device.id for device in gpu.devices] == [nvml.SECOND_GPU["uuid"]]
        assert gpu.fake.live("samples") == 2
    assert len(caplog.records) == 1
