"""Traps 8 to 11 of NVML (see test_nvml_traps.py): fields, versions, memory errors and XID events."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pynvml
import pytest

from ai_otel.gpu.source import Options, Support
from harness.gpu import nvml
from harness.gpu.nvml import ALL_LINKS, Field, Gpu, Instance, Scenario, with_fields

pytestmark = pytest.mark.requires(**nvml.REQUIRES)

PROCESSES = Options(processes=True)


# ---------------------------------------------------------------- 8: fields


def test_trap_08_nvlink_traffic_is_the_sum_of_all_links(tmp_path: Path) -> None:
    fields = with_fields({138: None, 139: None})
    fields |= {(138, 0): Field(1000, "ullong"), (138, ALL_LINKS): Field(18_000, "ullong")}
    with nvml.opened(tmp_path, Gpu(fields=fields)) as gpu:
        reading = gpu.read()
    assert reading.io_bytes["nvlink", "transmit"] == 18_000 * 1024
    assert reading.absent["io_bytes.nvlink.receive"] is Support.NOT_SUPPORTED


def test_trap_08_single_fields_of_a_batch_may_fail(tmp_path: Path) -> None:
    """The value of a failed field is undefined."""
    failing = {82: Field(52, code=3), 190: Field(650_000, code=4), 4: Field(7, "ullong", code=999)}
    with nvml.opened(tmp_path, Gpu(fields=with_fields(failing))) as gpu:
        reading = gpu.read()
    assert "memory" not in reading.temperature_c
    assert "enforced" not in reading.power_limit_w
    assert "uncorrected" not in reading.errors
    assert reading.absent["temperature_c.memory"] is Support.NOT_SUPPORTED
    assert reading.absent["power_limit_w.enforced"] is Support.NO_PERMISSION
    assert reading.absent["errors.uncorrected"] is Support.ERROR
    assert reading.power_limit_w["max"] == 700


KNOWN_TYPES = set(nvml.TYPES) - {"double"} - (set() if hasattr(pynvml.c_nvmlValue_t, "usVal") else {"ushort"})


@pytest.mark.parametrize("type_name", sorted(KNOWN_TYPES))
def test_trap_08_a_value_is_decoded_by_its_type(tmp_path: Path, type_name: str) -> None:
    """The other bytes of the union are undefined."""
    with nvml.opened(tmp_path, Gpu(fields=with_fields({3: Field(1234, type_name), 82: Field(52.0, "double")}))) as gpu:
        reading = gpu.read()
    assert reading.errors["corrected"] == 1234
    assert reading.temperature_c["memory"] == 52.0


def test_trap_08_a_value_of_unknown_type_is_invalid(tmp_path: Path) -> None:
    path = tmp_path / "scenario.txt"
    with nvml.library(tmp_path, Scenario()) as fake:
        path.write_text(path.read_text().replace("field 3 -1 3 0", "field 3 -1 9 0"))
        source = nvml.NvmlSource(Options(), clock=fake.clock)
        try:
            reading = source.read(source.open()[0])
        finally:
            source.close()
    assert reading.absent["errors.corrected"] is Support.INVALID


# ---------------------------------------------------------------- 9: versions


READS = """
import json
from ai_otel.gpu.nvidia.source import NvmlSource
from ai_otel.gpu.source import Options
source = NvmlSource(Options())
(device,) = source.open()
reading = source.read(device)
source.close()
print(json.dumps([reading.temperature_c.get("gpu"), reading.memory_reserved_bytes, reading.power_w, reading.absent]))
"""
NAMES_OF_TEMPERATURE = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")


@pytest.mark.parametrize("missing", NAMES_OF_TEMPERATURE)
def test_trap_09_older_and_newer_function_names_are_supported(tmp_path: Path, missing: str) -> None:
    if missing == NAMES_OF_TEMPERATURE[1] and not hasattr(pynvml, NAMES_OF_TEMPERATURE[0]):
        pytest.skip("this binding knows the older name only; the newest one is tested too")
    scenario = Scenario(missing=frozenset({missing}))
    temperature, *_rest = json.loads(nvml.in_its_own_process(tmp_path, scenario, READS))
    assert temperature == 61.0


def test_trap_09_a_value_of_a_missing_function_is_not_found(tmp_path: Path) -> None:
    gone = {
        *NAMES_OF_TEMPERATURE,
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetFieldValues",
        "nvmlGpmQueryDeviceSupport",
    }
    gone |= {"nvmlEventSetCreate", "nvmlDeviceGetNumFans", "nvmlDeviceGetProcessUtilization"}
    printed = nvml.in_its_own_process(tmp_path, Scenario(missing=frozenset(gone)), READS)
    temperature, reserved, power_w, absent = json.loads(printed)
    assert (temperature, reserved, power_w) == (None, None, 300.0)
    for name in ("temperature_c.gpu", "memory_reserved_bytes", "status", "sm_activity", "fan_speed_ratio", "own_share"):
        assert absent[name] == "not_found", name
    assert "power_w" not in absent, "the older call has it"


def test_trap_09_a_missing_function_is_looked_up_once(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(returns={"nvmlDeviceGetTemperatureV": 13})) as gpu:
        for _ in range(3):
            assert gpu.read(after_s=1).temperature_c["gpu"] == 61.0
        assert gpu.fake.calls("nvmlDeviceGetTemperatureV") <= 1, "an older binding has no such function at all"


@pytest.mark.parametrize(
    ("driver", "throttled"),
    [
        ("610.57.04", {"sw_thermal": 1.0, "hw_thermal": 2.0, "hw_power_brake": 3.0}),
        ("580.159.03", {"sw_thermal": 1.0, "hw_thermal": 2.0, "hw_power_brake": 3.0}),
        ("575.51.03", {"sw_thermal": 4.0, "hw_thermal": 5.0, "hw_power_brake": 6.0}),
        ("570.172.08", {"thermal": 7.0}),
        ("535.261.03", {"thermal": 7.0}),
    ],
)
def test_trap_09_field_ids_depend_on_the_driver_version(
    tmp_path: Path, driver: str, throttled: dict[str, float]
) -> None:
    """575 has throttling at 251 to 253, and its neighbours power smoothing, which 575 has at 269 to 271."""
    numbers = {269: 1, 270: 2, 271: 3, 251: 4, 252: 5, 253: 6, 75: 7}
    fields = with_fields({number: Field(seconds * 1e9, "ullong") for number, seconds in numbers.items()})
    with nvml.opened(tmp_path, Gpu(fields=fields), driver=driver) as gpu:
        assert gpu.read().throttle_s == {"power_cap": 0.5, "sync_boost": 0.0} | throttled


# ---------------------------------------------------------------- 10: errors of memory


def test_trap_10_errors_are_counted_since_the_driver_was_loaded(tmp_path: Path) -> None:
    """The lifetime counters, 5 and 6, are not reset: each start would export them again in full."""
    ecc = {3: Field(2), 4: Field(1), 5: Field(9_000), 6: Field(800)}
    with nvml.opened(tmp_path, Gpu(fields=with_fields(ecc))) as gpu:
        assert gpu.read().errors == {"corrected": 2, "uncorrected": 1}


def test_trap_10_with_ecc_off_errors_are_absent_and_not_zero(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(fields=with_fields({3: None, 4: None}))) as gpu:
        reading = gpu.read()
    assert reading.errors == {}
    assert reading.absent["errors.corrected"] is reading.absent["errors.uncorrected"] is Support.NOT_SUPPORTED


# ---------------------------------------------------------------- 11: XID


def events_of(gpu: nvml.Opened, count: int = 1, timeout_s: float = 30.0) -> list[tuple[int, str | None]]:
    """Wait for at least `count` events; returns those received until the timeout, as code and instance."""
    received: list[tuple[int, str | None]] = []
    deadline_s = time.monotonic() + timeout_s
    while len(received) < count and time.monotonic() < deadline_s:
        received += [(event.code, event.device.instance_id) for event in gpu.source.events()]
        time.sleep(0.005)
    return received


def test_trap_11_xids_since_the_start_are_received_with_their_code(tmp_path: Path) -> None:
    """Earlier events are unknown. Codes are exported without a severity: 31, for example, is an application error."""
    with nvml.opened(tmp_path, Gpu(xids=[(5.0, 79), (20.0, 31), (20.0, 109)])) as gpu:
        gpu.fake.clock.set(21.0)
        assert events_of(gpu, 2) == [(31, None), (109, None)]
        assert gpu.source.events() == []


def test_trap_11_an_xid_of_a_mig_instance_is_assigned_to_it(tmp_path: Path) -> None:
    instances = [Instance(1), Instance(4)]
    with nvml.opened(tmp_path, Gpu(instances=instances, xids=[(20.0, 13, 4), (21.0, 13, 9)])) as gpu:
        gpu.fake.clock.set(20.5)
        assert events_of(gpu) == [(13, "4")]
        gpu.fake.clock.set(21.5)
        assert events_of(gpu) == [(13, None)], "an instance of another container"


def test_trap_11_the_waiting_thread_is_a_daemon_and_stops_before_nvml(tmp_path: Path) -> None:
    with nvml.opened(tmp_path) as gpu:
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "ai-otel-xid"]
        assert thread.daemon
        gpu.source.close()
        assert not thread.is_alive()
        assert gpu.fake.live("event sets") == 0


def test_trap_11_without_events_there_is_no_thread(tmp_path: Path) -> None:
    with nvml.opened(tmp_path, Gpu(events=False)) as gpu:
        assert gpu.source.events() == []
        assert not [thread for thread in threading.enumerate() if thread.name == "ai-otel-xid"]
