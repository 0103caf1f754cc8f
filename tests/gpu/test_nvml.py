"""The NVIDIA source, on unpatched `nvidia-ml-py` and a simulated driver library."""

from __future__ import annotations

import logging
import math
import threading
import time
from pathlib import Path

import pynvml
import pytest

from ai_otel.gpu.nvidia.source import NvmlSource
from ai_otel.gpu.source import DeviceLost, GpuEvent, GpuReading, Options, Support
from harness.gpu import nvml
from harness.gpu.nvml import Field, Gpu, Instance, Scenario
from harness.polling import eventually

pytestmark = pytest.mark.requires(**nvml.REQUIRES)


# ---------------------------------------------------------------- values


def test_every_value_is_read_in_the_contracts_units(tmp_path: Path) -> None:
    with nvml.running(tmp_path) as source:
        devices = source.open()
        time.sleep(0.11)
        readings = {device.key: source.read(device) for device in devices}
    assert readings.keys() == nvml.TRUTH.keys()
    for key, truth in nvml.TRUTH.items():
        assert {name: getattr(readings[key], name) for name in truth} == {
            name: pytest.approx(value) if isinstance(value, float) else value for name, value in truth.items()
        }


def test_unavailable_values_are_absent_with_a_reason(tmp_path: Path) -> None:
    """A device that reports its UUID only: every field has a reason of absence."""
    bare = Gpu(
        power_w=None, memory_total=None, utilization=None, memory_busy=None, encoder=None, decoder=None,
        temperature=None, thresholds={}, clocks={}, pcie=None, fields={}, gpm=None, process_utilization=False,
        name=None, serial=None, vbios=None, bus_id=None, persistence=None, architecture=5,
    )  # fmt: skip
    with nvml.opened(tmp_path, bare) as gpu:
        (device,) = gpu.devices
        assert (device.model, device.serial_number, device.pci_bus_id, device.firmware_version) == (None,) * 4
        reading = gpu.read(after_s=1)
    available = {name: value for name in GpuReading.__slots__ if (value := getattr(reading, name)) and name != "absent"}
    assert available == {}
    explained = {name.partition(".")[0] for name in reading.absent}
    assert explained == set(GpuReading.__slots__) - {"absent", "process_memory_bytes", "held"}
    assert set(reading.absent.values()) == {Support.NOT_SUPPORTED}


def test_a_device_has_its_constants(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(instances=[Instance(3, profile="3g.71gb", uuid="MIG-a")])) as gpu:
        whole, instance = gpu.devices
    assert (whole.id, whole.vendor, whole.name) == (Gpu().uuid, "nvidia", "nvidia0")
    assert (whole.model, whole.driver_version) == ("NVIDIA H200 (simulated)", "580.159.03")
    assert (whole.serial_number, whole.pci_bus_id) == (Gpu().serial, "00000000:18:00.0")
    assert whole.instance_id is None
    assert instance.id == whole.id
    assert (instance.instance_id, instance.instance_profile, instance.instance_uuid) == ("3", "3g.71gb", "MIG-a")


def test_compute_instances_of_one_gpu_instance_are_one_device(tmp_path: Path) -> None:
    """Memory and activity belong to the GPU instance: two devices would count them twice."""
    shared = [Instance(3, ci=0, uuid="MIG-a"), Instance(3, ci=1, uuid="MIG-b"), Instance(5, uuid="MIG-c")]
    with nvml.opened(tmp_path, Gpu(instances=shared)) as gpu:
        assert [device.instance_uuid for device in gpu.devices[1:]] == ["MIG-a", "MIG-c"]


def test_fan_speeds_are_read_by_fan(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(fan_speeds=[45, 45])) as gpu:
        assert gpu.read().fan_speed_ratio == {"0": 0.45, "1": 0.45}


# ---------------------------------------------------------------- sentinels


@pytest.mark.parametrize(
    ("gpu", "field"),
    [
        (Gpu(utilization=400), "utilization"),
        (Gpu(temperature=0), "temperature_c.gpu"),
        (Gpu(power_w=0), "power_w"),
        (Gpu(memory_total=0), "memory_total_bytes"),
        (Gpu(clocks={"sm": 2**32 - 1}), "frequency_hz.sm"),
        (Gpu(gpm={2: math.nan}), "sm_activity"),
        (Gpu(gpm={2: 131.0}), "sm_activity"),
        (Gpu(gpm={5: -1.0}), "pipe_activity.tensor"),
        (Gpu(fields=nvml.fields_of_an_h200() | {(83, -1): Field(2.0**64, "ullong")}, energy=False), "energy_j"),
        (Gpu(fields=nvml.fields_of_an_h200() | {(4, -1): Field(2**32 - 1)}), "errors.uncorrected"),
        (Gpu(fields=nvml.fields_of_an_h200() | {(4, -1): Field(-1, "sint")}), "errors.uncorrected"),
        (Gpu(fields=nvml.fields_of_an_h200() | {(74, -1): Field(math.nan, "double")}), "throttle_s.power_cap"),
    ],
)
def test_impossible_values_are_absent(tmp_path: Path, gpu: Gpu, field: str) -> None:
    with nvml.opened(tmp_path, gpu) as opened:
        reading = opened.read(after_s=1)
    name, _, key = field.partition(".")
    value = getattr(reading, name)
    assert (key not in value) if key else (value is None)
    assert reading.absent[field] is Support.INVALID


def test_a_ratio_slightly_above_one_is_one(tmp_path: Path) -> None:
    """GPM normalizes its percentages by a varying clock."""
    with nvml.opened(tmp_path, Gpu(gpm={2: 100.4})) as gpu:
        assert gpu.read(after_s=1).sm_activity == 1.0


# ---------------------------------------------------------------- caching


def test_unsupported_calls_are_made_once(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(encoder=None, gpm=None)) as gpu:
        for _ in range(5):
            reading = gpu.read(after_s=10)
        assert gpu.fake.calls("nvmlDeviceGetEncoderUtilization") == 1
        assert gpu.fake.calls("nvmlGpmQueryDeviceSupport") == 1
        assert gpu.fake.calls("nvmlDeviceGetDecoderUtilization") == 5
    assert reading.absent["encoder_utilization"] is Support.NOT_SUPPORTED


def test_slow_values_are_read_every_ten_seconds(tmp_path: Path) -> None:
    ramp = [(0.0, 0.0), (100.0, 100.0)]
    with nvml.opened(tmp_path, Gpu(decoder=ramp, utilization=ramp, clocks={"sm": ramp, "video": ramp})) as gpu:
        samples = [gpu.read(after_s=1) for _ in range(12)]
        assert gpu.fake.calls("nvmlDeviceGetDecoderUtilization") == 2
        # Twelve fast batches, two slow ones, and power smoothing once at open.
        assert gpu.fake.calls("nvmlDeviceGetFieldValues") == 15
    assert (
        len({sample.utilization for sample in samples}) == len({sample.frequency_hz["sm"] for sample in samples}) == 12
    )
    for slow in (
        [sample.decoder_utilization for sample in samples],
        [sample.frequency_hz["video"] for sample in samples],
    ):
        assert len(set(slow[:10])) == len(set(slow[10:])) == 1
        assert slow[9] < slow[10]


def test_an_unsupported_field_is_removed_from_the_batch(tmp_path: Path) -> None:
    """The field has its own return code; the batch succeeds."""
    with nvml.opened(tmp_path, Gpu(fields={(185, -1): Field(source="average")}, energy=False)) as gpu:
        first, second = gpu.read(after_s=1), gpu.read(after_s=1)
        # One at open (power smoothing), two at the first sample (slow and fast batch), one at the second.
        assert gpu.fake.calls("nvmlDeviceGetFieldValues") == 4
    assert first.power_w == second.power_w == pytest.approx(300)
    assert second.absent["energy_j"] is Support.NOT_SUPPORTED


def test_calls_without_permission_are_retried_after_five_minutes(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(returns={"nvmlGpmSampleGet": 4})) as gpu:
        assert gpu.read(after_s=1).absent["sm_activity"] is Support.NO_PERMISSION
        assert gpu.read(after_s=1).absent["pipe_activity.tensor"] is Support.NO_PERMISSION
        assert gpu.fake.calls("nvmlGpmSampleGet") == 1
        gpu.read(after_s=200)
        assert gpu.fake.calls("nvmlGpmSampleGet") == 1
        gpu.read(after_s=100)
        assert gpu.fake.calls("nvmlGpmSampleGet") == 2


def test_a_permission_granted_later_makes_the_value_available(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(returns={"nvmlGpmSampleGet": [(4, 0.0), (0, 100.0)]})) as gpu:
        assert gpu.read(after_s=1).absent["sm_activity"] is Support.NO_PERMISSION
        gpu.read(after_s=310)
        reading = gpu.read(after_s=1)
    assert reading.sm_activity == pytest.approx(0.8)
    assert "sm_activity" not in reading.absent


def test_a_transient_error_is_retried_at_the_next_sample(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(returns={"nvmlDeviceGetUtilizationRates": 999})) as gpu:
        assert gpu.read().absent["utilization"] is Support.ERROR
        gpu.read()
        assert gpu.fake.calls("nvmlDeviceGetUtilizationRates") == 2


# ---------------------------------------------------------------- lost devices


def test_a_lost_gpu_raises_and_the_others_are_read(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(lost_at=20.0), Gpu(**nvml.SECOND_GPU)) as gpu:
        assert gpu.read(0).power_w == pytest.approx(300)
        gpu.fake.clock.set(21.0)
        for read in (gpu.source.read, gpu.source.read_energy):
            with pytest.raises(DeviceLost):
                read(gpu.devices[0])
        assert gpu.read(1).power_w == pytest.approx(300)
        assert gpu.source.read_energy(gpu.devices[1]) is not None
    assert gpu.fake.live("inits") == gpu.fake.live("samples") == gpu.fake.live("event sets") == 0


def test_xids_of_the_others_are_received_after_one_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a lost GPU in the event set, every wait fails."""
    monkeypatch.setattr("ai_otel.gpu.nvidia.events.PAUSE_S", 0.01)
    with nvml.opened(tmp_path, Gpu(lost_at=20.0), Gpu(**nvml.SECOND_GPU, xids=[(30.0, 31)])) as gpu:
        gpu.fake.clock.set(21.0)
        eventually(lambda: gpu.fake.calls("nvmlEventSetCreate") == 2)
        eventually(lambda: gpu.fake.calls("nvmlDeviceRegisterEvents") == 4)
        gpu.fake.clock.set(31.0)
        (event,) = eventually(gpu.source.events)
        assert (event.device, event.code) == (gpu.devices[1], 31)


# ---------------------------------------------------------------- close


def test_close_frees_everything_and_may_be_called_twice(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(instances=[Instance(1)])) as gpu:
        gpu.read(1, after_s=1)
        # Of the instance only: in MIG mode, the GPU has no activity.
        assert gpu.fake.live("samples") == 2
        assert gpu.fake.live("event sets") == 1
        gpu.source.close()
        gpu.source.close()
        assert [gpu.fake.live(what) for what in ("samples", "event sets", "inits")] == [0, 0, 0]
    assert not [thread for thread in threading.enumerate() if thread.name == "ai-otel-xid"]


def test_a_source_that_was_not_opened_can_be_closed() -> None:
    source = NvmlSource(Options())
    source.close()
    assert list(source.events()) == []


def test_events_do_not_wait(tmp_path: Path) -> None:
    """A waiting call takes 250 ms, so 100 of them would take 25 s."""
    with nvml.opened(tmp_path) as gpu:
        began = time.perf_counter()
        events: list[GpuEvent] = [event for _ in range(100) for event in gpu.source.events()]
        assert time.perf_counter() - began < 10
    assert events == []


FORKS = """
import ctypes, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from ai_otel.gpu.nvidia.source import NvmlSource
from ai_otel.gpu.source import Options

source = NvmlSource(Options())
(device,) = source.open()
fake = ctypes.CDLL("libnvidia-ml.so.1")
child = os.fork()
if not child:
    source.close()
    os._exit(fake.ai_otel_fake_nvml_calls(b"nvmlShutdown") + fake.ai_otel_fake_nvml_calls(b"nvmlEventSetFree"))
print(os.waitpid(child, 0)[1], source.read(device).power_w)
source.close()
print(fake.ai_otel_fake_nvml_calls(b"nvmlShutdown"))
print("torch" in sys.modules, [name for name in open("/proc/self/maps") if "libcuda" in name])
"""


def test_a_forked_child_makes_no_nvml_calls(tmp_path: Path) -> None:
    printed = nvml.in_its_own_process(tmp_path, Scenario(), FORKS).splitlines()
    assert printed == ["0 300.0", "1", "False []"]


def test_importing_the_source_does_not_import_the_binding(tmp_path: Path) -> None:
    code = "import ai_otel.gpu.nvidia.source, sys; print('pynvml' in sys.modules)"
    assert nvml.python(code).strip() == "False"


# ---------------------------------------------------------------- status


@pytest.mark.parametrize(
    ("pending", "failure", "action", "status"),
    [
        (0, 0, 0, "ok"),
        (1, 0, 0, "degraded"),
        (0, 1, 0, "failed"),
        (0, 0, 1, "failed"),
        (0, 0, 3, "degraded"),
        (0, 0, 4, "failed"),
        (1, 1, 1, "failed"),
    ],
)
def test_the_status_follows_the_drivers_recovery_action(
    tmp_path: Path, pending: int, failure: int, action: int, status: str
) -> None:
    fields = {(144, -1): Field(pending), (145, -1): Field(failure), (230, -1): Field(action)}
    with nvml.opened(tmp_path, Gpu(fields=nvml.fields_of_an_h200() | fields)) as gpu:
        assert gpu.read().status == status


def test_without_recovery_fields_the_status_is_absent(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(fields={})) as gpu:
        reading = gpu.read()
    assert reading.status is None
    assert reading.absent["status"] is Support.NOT_SUPPORTED


# ---------------------------------------------------------------- log lines


def test_a_healthy_start_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ai_otel"), nvml.opened(tmp_path) as gpu:
        gpu.read(after_s=1)
    assert caplog.records == []


def test_the_binding_is_the_official_one() -> None:
    assert "NVIDIA" in str(Path(pynvml.__file__).read_text()[:200])
