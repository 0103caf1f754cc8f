"""What `doctor` says of GPUs, by the real command on a simulated NVML."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType
from typing import Any

import pytest

from ai_otel.doctor.finding import Level
from ai_otel.doctor.gpus import _sentence, check_gpus
from ai_otel.gpu import registry
from ai_otel.gpu.nvidia.library import binding
from ai_otel.gpu.source import Device, GpuReading, Options, Unavailable
from ai_otel.settings import Settings
from ai_otel.testing import FakeGpu
from harness.gpu import nvml
from harness.gpu.nvml import Field, Gpu, Holder, Instance, Scenario, fields_of_an_h200

pytestmark = pytest.mark.requires(**nvml.REQUIRES)

FOREIGN = 2**22 + 1
"""The number of a process that cannot be: Linux counts to 2**22."""

Command = Callable[..., CompletedProcess[str]]
Diagnose = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def diagnose(ai_otel: Command, tmp_path: Path) -> Diagnose:
    """Subject → finding of the group `gpu`; of several about one subject, the sentences in a row."""

    def run(scenario: Scenario | None, **environment: str) -> dict[str, dict[str, Any]]:
        fake = nvml.environment(scenario, tmp_path, origin_s=0.0) if scenario is not None else {}
        done = ai_otel(
            "doctor", "--json", OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none", **fake, **environment
        )
        found: dict[str, dict[str, Any]] = {}
        for finding in json.loads(done.stdout)["findings"]:
            if finding["group"] == "gpu":
                each = found.setdefault(finding["subject"], {**finding, "all": []})
                each["all"].append(f"{finding['level']}: {finding['says']}. {finding['next_step']}".strip())
        return found

    return run


def test_a_gpu_is_named_with_the_number_of_its_values(diagnose: Diagnose) -> None:
    (gpu,) = [finding for name, finding in diagnose(Scenario([Gpu()])).items() if name.startswith("GPU-")]
    assert gpu["level"] == "ok"
    assert gpu["says"].startswith("NVIDIA H200 (simulated), driver 580.159.03: ")
    assert {"energy_j", "power_w", "sm_activity"} <= set(gpu["details"]["values"])


def test_gpus_that_were_switched_off_are_not_read(diagnose: Diagnose) -> None:
    assert diagnose(Scenario([Gpu()]), AI_OTEL_GPU="none")["AI_OTEL_GPU"]["says"] == "off: no device is read"


def test_where_there_is_no_driver_nothing_is_wrong_unless_it_was_asked_for(diagnose: Diagnose) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("there is an NVIDIA driver here")
    assert diagnose(None)["nvidia"]["level"] == "ok"
    asked = diagnose(None, AI_OTEL_GPU="nvidia")["nvidia"]
    assert asked["level"] == "wrong"
    assert "nvidia runtime class" in asked["next_step"]


@pytest.mark.parametrize(
    ("here", "says", "next_step"),
    [
        (True, "NVIDIA GPUs are present, but not NVML's binding", "pip install"),
        (False, "There is no NVIDIA driver here, nor NVML's binding", "on a GPU node, pip install"),
    ],
)
def test_the_binding_is_advised_for_nodes_with_a_gpu(
    monkeypatch: pytest.MonkeyPatch, here: bool, says: str, next_step: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr("ai_otel.gpu.nvidia.library.driver_is_here", lambda: here)
    with pytest.raises(Unavailable) as raised:
        binding()
    assert str(raised.value) == f"{says}: {next_step} 'ai-otel[nvidia]'."


@pytest.mark.parametrize(
    ("call", "code", "said"),
    [
        ("nvmlInitWithFlags", 4, "give this user access to /dev/nvidiactl"),
        ("nvmlInitWithFlags", 9, "driver"),
        ("nvmlInitWithFlags", 18, "version"),
    ],
    ids=["permission denied", "no driver", "driver and library of different versions"],
)
def test_a_library_that_does_not_start_says_why_and_what_to_do(
    diagnose: Diagnose, call: str, code: int, said: str
) -> None:
    finding = diagnose(Scenario([Gpu()], returns={call: code}))["nvidia"]
    assert said in f"{finding['says']} {finding['next_step']}".lower()
    assert finding["next_step"]


def test_a_value_without_permission_says_how_to_permit_it(diagnose: Diagnose) -> None:
    gpu = Gpu(returns={"nvmlDeviceGetUtilizationRates": 4})
    found = diagnose(Scenario([gpu]))[str(gpu.uuid)]["all"]
    (finding,) = [sentence for sentence in found if "this user may not read it" in sentence]
    assert "utilization" in finding
    assert "PERFMON" in finding


def test_a_lost_gpu_is_wrong(diagnose: Diagnose) -> None:
    gpus = [
        Gpu(),
        Gpu(uuid="GPU-51a0fa4e-0000-4000-8000-000000000002", minor=1, returns={"nvmlDeviceGetFieldValues": 15}),
    ]
    found = diagnose(Scenario(gpus))
    assert found[str(gpus[0].uuid)]["level"] == "ok"
    lost = found.get(str(gpus[1].uuid))
    assert lost is None or lost["level"] == "wrong"


def test_energy_says_whether_requests_would_have_it(diagnose: Diagnose) -> None:
    assert diagnose(Scenario([Gpu()]))["AI_OTEL_ENERGY"]["next_step"].startswith("Set AI_OTEL_ENERGY=true")
    assert diagnose(Scenario([Gpu()]), AI_OTEL_ENERGY="true")["AI_OTEL_ENERGY"]["says"] == "on, over 1 devices"


def test_why_requests_on_an_instance_of_a_gpu_have_no_energy(diagnose: Diagnose) -> None:
    found = diagnose(Scenario([Gpu(instances=[Instance(1)])]), AI_OTEL_ENERGY="true")
    assert "a GPU instance has no energy counter of its own" in found["AI_OTEL_ENERGY"]["says"]


def test_why_requests_on_a_gpu_without_a_counter_have_no_energy(diagnose: Diagnose) -> None:
    fields = {key: field for key, field in fields_of_an_h200().items() if key[0] != 83}
    found = diagnose(Scenario([Gpu(energy=False, fields=fields)]), AI_OTEL_ENERGY="true")
    assert "no energy counter" in found["AI_OTEL_ENERGY"]["says"]


def test_a_gpu_that_others_compute_on_needs_a_setting(diagnose: Diagnose) -> None:
    own, foreign = Holder(os.getpid(), sm_percent=40), Holder(FOREIGN, sm_percent=60)
    shared = Gpu(holders=[own, foreign])
    found = diagnose(Scenario([shared]), AI_OTEL_ENERGY="true")["AI_OTEL_ENERGY"]
    assert "other processes compute on" in found["says"]
    assert "AI_OTEL_ENERGY_SHARED=true" in found["next_step"]


def test_an_unknown_vendor_is_wrong(diagnose: Diagnose) -> None:
    found = diagnose(None, AI_OTEL_GPU="nvidai")["AI_OTEL_GPU"]
    assert found["level"] == "wrong"
    assert "known are auto, none, amd" in found["says"]


def test_what_a_source_says_in_the_log_is_a_finding(diagnose: Diagnose) -> None:
    finding = diagnose(Scenario([Gpu(persistence=False)]))["nvidia"]
    assert (finding["level"], finding["next_step"]) == ("note", "Run nvidia-persistenced on the node.")
    assert finding["says"].startswith("persistence mode is off on GPU-")


class Broken:
    """A source of a third party with a bug."""

    def __init__(self, options: Options) -> None:
        pass

    def open(self) -> list[Device]:
        raise OSError("no memory")


class Shared(FakeGpu):
    """One GPU, on which only others compute."""

    def __init__(self, options: Options) -> None:
        super().__init__({Device("GPU-1", "fake"): GpuReading(energy_j=1.0, own_share=0.0)})


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("a_vendors_source")
    module.Broken, module.Shared = Broken, Shared
    monkeypatch.setitem(sys.modules, "a_vendors_source", module)
    sources = {name: f"a_vendors_source:{name}" for name in ("Broken", "Shared")}
    monkeypatch.setattr(registry, "SOURCES", sources)


@pytest.mark.usefixtures("third_party")
def test_a_bug_of_a_source_is_a_finding_and_not_the_end_of_doctor() -> None:
    broken, *rest = check_gpus(Settings(gpu=("Broken", "Shared")))
    assert (broken.subject, broken.level) == ("Broken", Level.WRONG)
    assert broken.says == "its source failed: OSError: no memory"
    assert rest[0].subject == "GPU-1"


@pytest.mark.usefixtures("third_party")
def test_a_share_of_0_is_a_measurement() -> None:
    *_, energy = check_gpus(Settings(gpu=("Shared",), energy=True))
    assert energy.says == "absent on every request: other processes compute on GPU-1"


def test_a_field_that_the_driver_refuses_is_named(diagnose: Diagnose) -> None:
    gpu = Gpu(fields={**fields_of_an_h200(), (82, -1): Field(code=3)})
    found = diagnose(Scenario([gpu]))[str(gpu.uuid)]["all"]
    assert any("temperature_c.memory" in sentence and "no such value" in sentence for sentence in found)


def test_a_command_as_next_step_can_be_copied() -> None:
    """It begins as it is typed; a sentence begins with a capital."""
    assert _sentence("pip install 'ai-otel[nvidia]'.") == "pip install 'ai-otel[nvidia]'."
    assert _sentence("update it to 535 or newer") == "Update it to 535 or newer"
