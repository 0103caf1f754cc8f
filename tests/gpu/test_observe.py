"""From readings to exported points."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import oracle
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider

from ai_otel.energy.accounts import Account
from ai_otel.gpu.snapshot import DeviceSample, Snapshot, lost_reading
from ai_otel.gpu.source import Device, GpuReading, Support
from harness.gpu.points import Exported

GPU = Device(
    "GPU-1", "nvidia", model="H200", name="gpu0", driver_version="580.1", firmware_version="96.0", serial_number="165"
)
PART = Device("GPU-2", "nvidia", instance_id="1", instance_profile="1g.18gb", instance_uuid="MIG-1")

FULL = GpuReading(
    utilization=0.87,
    encoder_utilization=0.0,
    decoder_utilization=0.12,
    memory_total_bytes=1000,
    memory_used_bytes=250,
    memory_reserved_bytes=10,
    memory_bandwidth_utilization=0.62,
    memory_controller_utilization=0.41,
    sm_activity=0.8,
    sm_occupancy=0.4,
    pipe_activity={"tensor": 0.35},
    energy_j=1234.5,
    power_w=300.25,
    power_window="average",
    power_limit_w={"enforced": 650.0},
    temperature_c={"gpu": 61.0, "memory": 52.0},
    temperature_limit_c={("gpu", "high.critical"): 90.0},
    fan_speed_ratio={"fan0": 0.5},
    frequency_hz={"sm": 1_755_000_000},
    throttle_s={"power_cap": 0.5},
    io_bytes={("pcie", "transmit"): 5, ("nvlink", "receive"): 7},
    errors={"corrected": 2, "uncorrected": 0},
    status="ok",
    process_memory_bytes={4711: 100},
)

ID = {"hw.id": "GPU-1"}
TYPED = {**ID, "hw.type": "gpu"}

# Metric → attributes besides the device's own, and value, of each point of FULL.
EXPECTED: dict[str, list[tuple[dict[str, Any], float]]] = {
    "hw.gpu.utilization": [
        ({"hw.gpu.task": "general"}, 0.87),
        ({"hw.gpu.task": "encoder"}, 0.0),
        ({"hw.gpu.task": "decoder"}, 0.12),
    ],
    "hw.gpu.memory.limit": [({}, 1000)],
    "hw.gpu.memory.usage": [({}, 250)],
    "hw.gpu.memory.utilization": [({}, 0.25)],
    "hw.gpu.io": [
        ({"ai_otel.gpu.link": "pcie", "network.io.direction": "transmit"}, 5),
        ({"ai_otel.gpu.link": "nvlink", "network.io.direction": "receive"}, 7),
    ],
    "hw.energy": [({"hw.type": "gpu"}, 1234.5)],
    "hw.power": [({"hw.type": "gpu", "ai_otel.gpu.power.window": "average"}, 300.25)],
    "hw.temperature": [({"hw.sensor_location": "gpu"}, 61.0), ({"hw.sensor_location": "memory"}, 52.0)],
    "hw.temperature.limit": [({"hw.sensor_location": "gpu", "hw.limit_type": "high.critical"}, 90.0)],
    "hw.fan.speed_ratio": [({"hw.sensor_location": "fan0"}, 0.5)],
    "hw.errors": [
        ({"hw.type": "gpu", "error.type": "corrected"}, 2),
        ({"hw.type": "gpu", "error.type": "uncorrected"}, 0),
    ],
    "hw.status": [
        ({"hw.type": "gpu", "hw.state": state}, int(state == "ok"))
        for state in ("ok", "degraded", "failed", "predicted_failure")
    ],
    "ai_otel.gpu.memory.reserved": [({}, 10)],
    "ai_otel.gpu.memory.bandwidth.utilization": [({}, 0.62)],
    "ai_otel.gpu.memory.controller.utilization": [({}, 0.41)],
    "ai_otel.gpu.sm.activity": [({}, 0.8)],
    "ai_otel.gpu.sm.occupancy": [({}, 0.4)],
    "ai_otel.gpu.pipe.activity": [({"ai_otel.gpu.pipe": "tensor"}, 0.35)],
    "ai_otel.gpu.power.limit": [({"ai_otel.gpu.limit.type": "enforced"}, 650.0)],
    "ai_otel.gpu.frequency": [({"ai_otel.gpu.clock": "sm"}, 1_755_000_000)],
    "ai_otel.gpu.throttle.time": [({"ai_otel.gpu.throttle.reason": "power_cap"}, 0.5)],
    "ai_otel.gpu.process.memory.usage": [({"process.pid": 4711}, 100)],
    "hw.gpu.info": [
        (
            {
                "hw.name": "gpu0",
                "hw.model": "H200",
                "hw.vendor": "nvidia",
                "hw.driver_version": "580.1",
                "hw.firmware_version": "96.0",
                "hw.serial_number": "165",
            },
            1,
        )
    ],
}


def exported(*samples: tuple[Device, GpuReading], now_s: float = 0.0, **snapshot: Any) -> Exported:
    present = Snapshot(
        samples=tuple(DeviceSample(device, reading, 0.0) for device, reading in samples), taken_s=0.0, **snapshot
    )
    return Exported(lambda: present, clock=lambda: now_s)


def test_every_value_of_a_reading_is_a_point_with_its_attributes() -> None:
    found = exported((GPU, FULL)).points()
    support = found.pop("ai_otel.gpu.support")
    assert {name: sorted(map(str, points)) for name, points in found.items()} == {
        name: sorted(str(({**ID, **labels}, value)) for labels, value in points)
        for name, points in {
            name: [(dict(sorted(labels.items(), key=lambda item: item[0] != "hw.type")), value) for labels, value in ps]
            for name, ps in EXPECTED.items()
        }.items()
    }
    listed = {labels["ai_otel.gpu.reading"] for labels, _ in support}
    assert listed == {
        name for name in GpuReading.__dataclass_fields__ if name not in ("absent", "power_window", "own_share", "held")
    }


def test_the_points_conform_to_the_contract() -> None:
    points = exported((GPU, FULL), (PART, GpuReading(memory_total_bytes=5, absent={"power_w": Support.NOT_SUPPORTED})))
    assert oracle.check_metrics(points.collect()) == []


def test_absent_values_have_no_point_and_a_reason() -> None:
    reading = GpuReading(utilization=0.0, absent={"power_w": Support.NO_PERMISSION, "energy_j": Support.NOT_FOUND})
    found = exported((GPU, reading)).points()
    assert set(found) == {"hw.gpu.utilization", "hw.gpu.info", "ai_otel.gpu.support"}
    assert found["hw.gpu.utilization"] == [({**ID, "hw.gpu.task": "general"}, 0.0)]
    assert {
        labels["ai_otel.gpu.reading"]: labels["ai_otel.gpu.support.state"] for labels, _ in found["ai_otel.gpu.support"]
    } == {
        "utilization": "ok",
        "power_w": "no_permission",
        "energy_j": "not_found",
    }


def test_an_instance_has_its_instance_id() -> None:
    found = exported((PART, GpuReading(memory_used_bytes=5, sm_activity=0.5))).points()
    part = {"hw.id": "GPU-2", "ai_otel.gpu.instance.id": "1", "ai_otel.gpu.instance.profile": "1g.18gb"}
    assert found["hw.gpu.memory.usage"] == [(part, 5)]
    assert found["ai_otel.gpu.sm.activity"] == [(part, 0.5)]


def test_a_stale_snapshot_has_no_points() -> None:
    assert exported((GPU, FULL), now_s=9.0).points()
    assert exported((GPU, FULL), now_s=11.0).points() == {}


def test_an_extended_interval_keeps_the_last_sample_valid() -> None:
    slow = {"interval_s": 16.0}
    assert exported((GPU, FULL), now_s=40.0, **slow).points()
    assert exported((GPU, FULL), now_s=49.0, **slow).points() == {}


def test_device_metrics_have_no_point_for_an_instance() -> None:
    """Points with equal attributes would be summed: three instances would have a status of 3."""
    other = replace(PART, instance_id="2")
    points = exported(
        (GPU, lost_reading()), (replace(PART, id=GPU.id), lost_reading()), (replace(other, id=GPU.id), lost_reading())
    )
    states = {labels["hw.state"]: value for labels, value in points.points()["hw.status"]}
    assert (states["failed"], states["ok"]) == (1, 0)
    assert oracle.check_metrics(points.collect()) == []


def test_events_and_skipped_samples_are_counted() -> None:
    found = exported((GPU, GpuReading()), xids={(GPU, 79): 2}, skipped={"readings": 3}).points()
    assert found["ai_otel.gpu.xid.events"] == [({**ID, "ai_otel.gpu.xid.code": 79}, 2)]
    assert found["ai_otel.gpu.pass.skipped"] == [({"ai_otel.gpu.pass": "readings"}, 3)]


def test_the_energy_accounts_are_exported_by_bucket() -> None:
    account = Account(
        key=("GPU-1", None),
        energy_j={("request", "tiny"): 60.0, ("idle", None): 40.0},
        time_s={("request", "tiny"): 2.0},
        device_energy_j=100.0,
        device_time_s=2.0,
        idle_power_w=75.0,
    )
    exporter = Exported(Snapshot, accounts=lambda: [account])
    found = exporter.points()
    assert found["ai_otel.gpu.energy"] == [
        ({**ID, "ai_otel.energy.bucket": "request", "gen_ai.request.model": "tiny"}, 60.0),
        ({**ID, "ai_otel.energy.bucket": "idle"}, 40.0),
    ]
    assert found["ai_otel.gpu.time"] == [
        ({**ID, "ai_otel.energy.bucket": "request", "gen_ai.request.model": "tiny"}, 2.0)
    ]
    assert found["ai_otel.gpu.conservation.error"] == [(ID, 0.0)]
    assert found["ai_otel.gpu.idle.power"] == [(ID, 75.0)]
    assert oracle.check_metrics(exporter.collect()) == []


@pytest.mark.parametrize("name", ["hw.power", "ai_otel.gpu.throttle.time", "ai_otel.gpu.xid.events"])
def test_exemplars_lead_to_the_trace_of_a_running_request(name: str) -> None:
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("chat tiny")
    context = trace.set_span_in_context(span, Context())
    present = Snapshot(samples=(DeviceSample(GPU, replace(FULL), 5.0),), taken_s=5.0, xids={(GPU, 79): 1})
    exporter = Exported(lambda: present, clock=lambda: 5.0, running=lambda at: context if at == 5.0 else None)
    data = exporter.collect()
    metrics = [metric for scope in data.resource_metrics[0].scope_metrics for metric in scope.metrics]
    (metric,) = [metric for metric in metrics if metric.name == name]
    for point in metric.data.data_points:
        assert [exemplar.trace_id for exemplar in point.exemplars] == [span.get_span_context().trace_id]
