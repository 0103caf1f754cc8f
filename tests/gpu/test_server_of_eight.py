"""A simulated server of eight GPUs, from the driver's library to the exported points."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oracle
import pytest

from ai_otel.gpu.nvidia.source import NvmlSource
from ai_otel.gpu.sampler import Sampler
from ai_otel.gpu.source import Options
from ai_otel.hooks import guard
from harness.gpu import nvml
from harness.gpu.nvml import GIB, FakeNvml, Field, Gpu, Instance, Scenario, fields_of_an_h200
from harness.gpu.points import Exported

pytestmark = pytest.mark.requires(**nvml.REQUIRES)

START_S = 10.0


def uuid(number: int) -> str:
    return f"GPU-51a0fa4e-0000-4000-8000-00000000000{number}"


def gpu(number: int, **changes: Any) -> Gpu:
    """Return one of the eight GPUs. Its values depend on its number; memory, power and temperature on the time."""
    values: dict[str, Any] = {
        "uuid": uuid(number),
        "serial": f"16500000000{number}",
        "bus_id": f"00000000:{16 + number:02X}:00.0",
        "minor": number,
        "power_w": [(0.0, 100.0 + 10 * number), (100.0, 600.0 + 10 * number)],
        "memory_used": [(0.0, number * GIB), (100.0, (number + 100) * GIB)],
        "temperature": 40 + number,
        "utilization": 10 * number,
    }
    return Gpu(**{**values, **changes})


def eight() -> Scenario:
    no_link = {key: field for key, field in fields_of_an_h200().items() if key[0] not in (138, 139)}
    no_energy = {key: field for key, field in fields_of_an_h200().items() if key[0] != 83}
    refused = {**fields_of_an_h200(), (82, -1): Field(code=4)}
    return Scenario(
        gpus=[
            gpu(0),
            gpu(1, resets=[25.0]),
            gpu(2, fields=no_link),
            gpu(3, gpm=None),
            gpu(4, instances=[Instance(1, memory_used=3 * GIB), Instance(2, memory_used=5 * GIB)]),
            gpu(5, fields=refused, returns={"nvmlDeviceGetUtilizationRates": 4}),
            gpu(6, lost_at=35.0),
            gpu(7, xids=[(15.0, 31)], energy=False, fields=no_energy),
        ]
    )


def power_w(number: int, at_s: float) -> float:
    return 100.0 + 10 * number + 5.0 * at_s


def energy_j(number: int, at_s: float) -> float:
    """The integral of the power, in quanta of 0.1 s."""
    at_s = int(at_s * 10 + 1e-6) / 10
    return 1000.0 + (100.0 + 10 * number) * at_s + 2.5 * at_s**2


class Server:
    def __init__(self, fake: FakeNvml) -> None:
        self.fake = fake
        self.source = NvmlSource(Options(), clock=fake.clock)
        self.sampler = Sampler(lambda: {"nvidia": self.source}, clock=fake.clock)
        self.exported = Exported(lambda: self.sampler.snapshot, clock=fake.clock)

    def at(self, now_s: float) -> dict[str, dict[tuple[str, str | None], dict[tuple[str, ...], float]]]:
        """Return metric → device → the other attributes' values → value, at a time."""
        while self.fake.clock() < now_s:
            self.fake.clock.set(min(now_s, self.fake.clock() + 1.0))
            self.sampler.collect()
        found: dict[str, Any] = {}
        for name, points in self.exported.points().items():
            for labels, value in points:
                device = labels.pop("hw.id", ""), labels.pop("ai_otel.gpu.instance.id", None)
                for constant in ("hw.type", "ai_otel.gpu.instance.profile"):
                    labels.pop(constant, None)
                found.setdefault(name, {}).setdefault(device, {})[tuple(map(str, labels.values()))] = value
        return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with nvml.library(tmp_path, eight(), now_s=START_S) as fake, guard.strict() as failures:
        server = Server(fake)
        server.sampler.collect()
        yield server
        server.source.close()
    assert failures == []


@pytest.mark.parametrize("now_s", [12.0, 21.0, 31.0, 44.0])
def test_every_exported_value_equals_the_scenarios(server: Server, now_s: float) -> None:
    found = server.at(now_s)
    whole = [(uuid(number), None) for number in range(8) if number != 6 or now_s < 35]
    for device in whole:
        number = int(device[0][-1])
        assert found["hw.power"][device] == {("average",): pytest.approx(power_w(number, now_s), abs=5.0)}
        assert found["hw.temperature"][device]["gpu",] == 40 + number
        if number != 4:
            assert found["hw.gpu.memory.usage"][device] == {(): pytest.approx((number + now_s) * GIB, abs=1.0)}
            assert found["hw.gpu.memory.limit"][device] == {(): 141 * GIB}
            assert found["hw.gpu.memory.utilization"][device] == {(): pytest.approx((number + now_s) / 141)}
        if number not in (4, 5):
            assert found["hw.gpu.utilization"][device]["general",] == pytest.approx(number / 10)
        if number != 7 and (number != 1 or now_s < 25):
            assert found["hw.energy"][device] == {(): pytest.approx(energy_j(number, now_s), rel=1e-6)}
        assert found["ai_otel.gpu.power.limit"][device]["enforced",] == 650.0
        assert found["ai_otel.gpu.throttle.time"][device]["power_cap",] == pytest.approx(now_s * 5e9 / 100 / 1e9)
        assert found["ai_otel.gpu.frequency"][device]["sm",] == 1_755_000_000
        assert found["hw.status"][device]["ok",] == 1
    assert oracle.check_metrics(server.exported.collect()) == []


def test_a_counter_continues_after_a_reset(server: Server) -> None:
    """The second GPU's driver is reloaded at 25 s. Energy between the last sample and the reload is unknown."""
    before = server.at(24.0)["hw.energy"][uuid(1), None][()]
    after = server.at(30.0)["hw.energy"][uuid(1), None][()]
    assert before == pytest.approx(energy_j(1, 24.0), rel=1e-6)
    since_reset = energy_j(1, 30.0) - energy_j(1, 25.0)
    assert after == pytest.approx(before + since_reset, rel=0.1)
    assert after > before


def test_an_absent_value_of_one_gpu_does_not_affect_the_others(server: Server) -> None:
    found = server.at(20.0)
    links = found["hw.gpu.io"]
    assert ("nvlink", "transmit") in {key[:2] for key in links[uuid(0), None]}
    assert ("nvlink", "transmit") not in {key[:2] for key in links[uuid(2), None]}
    assert (uuid(3), None) not in found["ai_otel.gpu.sm.activity"]
    assert found["ai_otel.gpu.sm.activity"][uuid(0), None] == {(): pytest.approx(0.8)}
    assert ("general",) not in found["hw.gpu.utilization"].get((uuid(5), None), {})
    assert ("memory",) not in found["hw.temperature"][uuid(5), None]
    support = found["ai_otel.gpu.support"]
    assert support[uuid(5), None]["utilization", "no_permission"] == 1
    assert (uuid(7), None) not in found["hw.energy"]


def test_a_mig_gpu_has_power_by_device_and_memory_by_instance(server: Server) -> None:
    found = server.at(20.0)
    whole, first, second = [(uuid(4), None), (uuid(4), "1"), (uuid(4), "2")]
    assert found["hw.gpu.memory.usage"][first] == {(): 3 * GIB}
    assert found["hw.gpu.memory.usage"][second] == {(): 5 * GIB}
    assert found["ai_otel.gpu.sm.activity"][first] == {(): pytest.approx(0.3)}
    assert whole in found["hw.power"]
    for instance in (first, second):
        assert instance not in found["hw.power"]
        assert instance not in found["hw.energy"]
    assert whole not in found["hw.gpu.utilization"]


def test_a_lost_gpu_exports_its_failed_status_only(server: Server) -> None:
    found = server.at(40.0)
    lost = (uuid(6), None)
    assert found["hw.status"][lost]["failed",] == 1
    assert [name for name, devices in found.items() if lost in devices and name.startswith("hw.")] == [
        "hw.status",
        "hw.gpu.info",
    ]


def test_an_xid_is_counted(server: Server) -> None:
    deadline = time.monotonic() + 30
    now_s = 16.0
    while "ai_otel.gpu.xid.events" not in (found := server.at(now_s)):
        assert time.monotonic() < deadline
        now_s += 1.0
        time.sleep(0.02)
    assert found["ai_otel.gpu.xid.events"] == {(uuid(7), None): {("31",): 1}}


class Tick:
    """A manual clock with negligible cost."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


CLAIM_S = 1e-3
"""CPU seconds of one sample of eight GPUs: 0.1 % of a core at the default interval of 1 s."""
REFERENCE_S = 0.25e-3
"""CPU seconds of `reference_work` on the core of the claim. Slower cores get proportionally more time."""


def reference_work() -> float:
    """Run a fixed amount of Python; returns its CPU seconds."""
    before_s, counts = time.thread_time(), dict.fromkeys(range(64), 0)
    for number in range(5000):
        counts[number % 64] += number
    return time.thread_time() - before_s


def test_a_sample_of_eight_gpus_costs_a_thousandth_of_a_core(tmp_path: Path) -> None:
    """Includes the simulated driver's time. The least of several rounds is compared, which other load cannot lower."""
    rounds, references = [], []
    with nvml.library(tmp_path, eight(), now_s=START_S):
        tick = Tick()
        source = NvmlSource(Options(), clock=tick)
        sampler = Sampler(lambda: {"nvidia": source}, clock=tick)
        for _ in range(20):
            references.append(reference_work())
            used_s = time.thread_time()
            for _ in range(25):
                tick.now_s += 1.0
                sampler.collect()
            rounds.append((time.thread_time() - used_s) / 25)
        assert len(sampler.snapshot.samples) == 10
        source.close()
    sample_s, slowdown = min(rounds[1:]), max(1.0, min(references) / REFERENCE_S)
    print(
        f"one sample of eight simulated GPUs: {sample_s * 1e3:.2f} ms of CPU; this core is {slowdown:.2f} times slower"
    )
    assert sample_s <= CLAIM_S * slowdown
