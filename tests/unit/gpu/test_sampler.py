"""Looks are taken by hand here, with a clock that stands still in between; the thread has tests of its own."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ai_otel.gpu import sampler as sampling
from ai_otel.gpu.sampler import ASK_AGAIN_S, Sampler
from ai_otel.gpu.source import Device, GpuEvent, GpuReading, Support, Unavailable
from ai_otel.hooks import guard
from ai_otel.testing import FakeGpu

ONE, TWO = Device("GPU-1", "fake"), Device("GPU-2", "fake")


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.devices: list[list[Device]] = []
        self.energies: list[tuple[str, float | None]] = []
        self.readings: list[Device] = []
        self.events: list[GpuEvent] = []
        self.looks = 0

    def opened(self, devices: Sequence[Device]) -> None:
        self.devices.append(list(devices))

    def saw_energy(self, device: Device, time_s: float, energy_j: float | None) -> None:
        self.energies.append((device.id, energy_j))

    def saw_reading(self, device: Device, time_s: float, reading: GpuReading) -> None:
        self.readings.append(device)

    def saw_event(self, event: GpuEvent) -> None:
        self.events.append(event)

    def looked(self, time_s: float) -> None:
        self.looks += 1


class LeavesOut(FakeGpu):
    """As NVML does: a device that does not answer when the library is opened is not among its devices."""

    def open(self) -> list[Device]:
        return [device for device in super().open() if device not in self.lost]


class Bench:
    """A sampler over one fake source, without its thread."""

    def __init__(self, gpu: FakeGpu, **options: Any) -> None:
        self.now_s = 0.0
        self.gpu = gpu
        self.sampler = Sampler(lambda: {"fake": gpu}, clock=lambda: self.now_s, **options)
        self.sampler._sources = {"fake": gpu}

    def look(self, after_s: float = 1.0) -> dict[str, GpuReading]:
        self.now_s += after_s
        self.sampler.look()
        return {look.device.id: look.reading for look in self.sampler.snapshot.looks}


def two() -> FakeGpu:
    return FakeGpu({ONE: GpuReading(power_w=100.0, energy_j=50.0), TWO: GpuReading(power_w=200.0, energy_j=70.0)})


@pytest.fixture(autouse=True)
def _no_failures() -> Any:
    with guard.strict() as failures:
        yield
    assert failures == []


def test_a_look_is_a_snapshot_of_all_devices() -> None:
    bench = Bench(two())
    assert {name: reading.power_w for name, reading in bench.look().items()} == {"GPU-1": 100.0, "GPU-2": 200.0}
    before = bench.sampler.snapshot
    bench.gpu.readings[ONE] = GpuReading(power_w=150.0)
    assert bench.look()["GPU-1"].power_w == 150.0
    assert before.looks[0].reading.power_w == 100.0
    assert bench.sampler.snapshot.ids == ("GPU-1", "GPU-2")


def test_counters_of_a_reset_gpu_go_on() -> None:
    bench = Bench(two())
    bench.look()
    bench.gpu.readings[ONE] = GpuReading(energy_j=3.0)
    assert bench.look()["GPU-1"].energy_j == 53.0


def test_nothing_is_read_between_two_looks() -> None:
    bench = Bench(two())
    first = bench.look()
    bench.gpu.readings[ONE] = GpuReading(power_w=150.0)
    assert bench.look(after_s=0.5) == first


def test_energy_is_read_ten_times_a_second_where_somebody_listens() -> None:
    heard = Heard()
    bench = Bench(two(), listener=heard)
    for _ in range(20):
        bench.look(after_s=0.1)
    assert heard.looks == 20
    assert len(heard.energies) == 40
    assert 4 <= len(heard.readings) <= 6
    assert heard.devices == [[ONE, TWO]]


def test_the_two_paces_see_one_counter() -> None:
    """A reset that the quick look has seen is not counted a second time by the slow one."""
    heard = Heard()
    bench = Bench(FakeGpu({ONE: GpuReading(energy_j=50.0)}), listener=heard)
    bench.look()
    bench.gpu.readings[ONE] = GpuReading(energy_j=2.0)
    assert bench.look()["GPU-1"].energy_j == 52.0
    assert heard.energies[-1] == ("GPU-1", 52.0)


def test_a_lost_gpu_is_told_once_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(two())
    bench.look()
    bench.gpu.lost.add(ONE)
    with caplog.at_level(logging.WARNING, "ai_otel"):
        for _ in range(3):
            looks = bench.look()
    assert looks["GPU-2"].power_w == 200.0
    assert looks["GPU-1"].status == "failed"
    assert looks["GPU-1"].power_w is None
    assert looks["GPU-1"].absent["power_w"] is Support.LOST
    assert [record.getMessage() for record in caplog.records] == [
        "ai-otel: GPU GPU-1 does not answer any more; the others go on. See what its driver says."
    ]
    assert bench.sampler.snapshot.ids == ("GPU-2",)


def test_a_lost_gpu_that_comes_back_is_found_again() -> None:
    bench = Bench(two())
    bench.look()
    bench.gpu.lost.add(ONE)
    bench.look()
    bench.gpu.lost.clear()
    assert bench.look()["GPU-1"].status == "failed"
    assert bench.look(after_s=ASK_AGAIN_S)["GPU-1"].power_w == 100.0
    assert (bench.gpu.opened, bench.gpu.closed) == (2, 1)


def test_a_lost_gpu_that_the_driver_leaves_out_is_lost_until_it_is_found_again() -> None:
    bench = Bench(LeavesOut(two().readings))
    bench.look()
    bench.gpu.lost.add(ONE)
    bench.look()
    for _ in range(3):
        assert bench.look(after_s=10 * ASK_AGAIN_S)["GPU-1"].status == "failed"
    bench.gpu.lost.clear()
    assert bench.look(after_s=100 * ASK_AGAIN_S)["GPU-1"].power_w == 100.0


@pytest.mark.parametrize("source", [FakeGpu, LeavesOut])
def test_a_gpu_that_stays_lost_is_asked_less_and_less_often(source: type[FakeGpu]) -> None:
    """To ask is to close the library and to open it again, which the others feel as well."""
    bench = Bench(source(two().readings))
    bench.look()
    bench.gpu.lost.add(ONE)
    for _ in range(3600):
        bench.look()
    assert bench.gpu.opened == 6  # at the start, then after 1, 3, 7, 15 and 31 min


def test_a_gpu_that_is_lost_twice_is_told_twice(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(two())
    bench.look()
    with caplog.at_level(logging.WARNING, "ai_otel"):
        for _ in range(2):
            bench.gpu.lost.add(ONE)
            bench.look()
            bench.gpu.lost.clear()
            bench.look(after_s=ASK_AGAIN_S)
    said = [record.getMessage().partition(";")[0] for record in caplog.records]
    assert said == ["ai-otel: GPU GPU-1 does not answer any more", "ai-otel: GPU GPU-1 answers again."] * 2


def test_where_devices_come_and_go_one_that_is_gone_is_forgotten() -> None:
    bench = Bench(LeavesOut(two().readings))
    bench.look()
    bench.gpu.lost.add(ONE)
    assert set(bench.look()) == {"GPU-1", "GPU-2"}
    bench.sampler.find_anew()
    assert set(bench.look()) == {"GPU-2"}


def test_a_gpu_that_says_itself_that_it_has_failed_still_answers() -> None:
    bench = Bench(FakeGpu({ONE: GpuReading(status="failed", power_w=70.0)}))
    bench.look()
    assert bench.sampler.snapshot.ids == ("GPU-1",)


def test_looks_at_nothing_are_not_told() -> None:
    took: list[str] = []
    bench = Bench(two(), passed=lambda kind, _: took.append(kind))
    bench.gpu.trouble = Unavailable("There is no such library.", installed=False)
    bench.look()
    assert took == []
    assert bench.sampler.snapshot.skipped == {}


def test_what_is_not_installed_is_silent_and_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(two())
    bench.gpu.trouble = Unavailable("There is no such library.", installed=False)
    with caplog.at_level(logging.DEBUG, "ai_otel"):
        bench.look()
        bench.gpu.trouble = None
        assert bench.look(after_s=10 * ASK_AGAIN_S) == {}
    assert caplog.records == []
    assert bench.sampler.snapshot.troubles == {}


def test_what_is_installed_and_does_not_work_is_told_once_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(two())
    bench.gpu.trouble = Unavailable("No permission: add the user to the group video.", installed=True)
    with caplog.at_level(logging.WARNING, "ai_otel"):
        for _ in range(5):
            bench.look(after_s=ASK_AGAIN_S)
    assert [record.getMessage() for record in caplog.records] == [
        "ai-otel: No permission: add the user to the group video."
    ]
    assert bench.sampler.snapshot.troubles == {"fake": "No permission: add the user to the group video."}
    bench.gpu.trouble = None
    assert set(bench.look(after_s=100 * ASK_AGAIN_S)) == {"GPU-1", "GPU-2"}
    assert bench.sampler.snapshot.troubles == {}


def test_events_are_counted_by_device_and_code(caplog: pytest.LogCaptureFixture) -> None:
    heard = Heard()
    bench = Bench(two(), listener=heard)
    bench.look()
    bench.gpu.reported = [GpuEvent(ONE, 79, 1.0), GpuEvent(ONE, 79, 1.1), GpuEvent(TWO, 31, 1.2)]
    with caplog.at_level(logging.WARNING, "ai_otel"):
        bench.look()
    assert bench.sampler.snapshot.xids == {(ONE, 79): 2, (TWO, 31): 1}
    assert len(heard.events) == 3
    assert "GPU GPU-1 reports XID 79" in caplog.text


def test_how_long_each_look_took_is_passed_on() -> None:
    took: list[tuple[str, float]] = []
    bench = Bench(two(), listener=Heard(), passed=lambda kind, seconds: took.append((kind, seconds)))
    bench.look()
    assert took == [("energy", 0.0), ("readings", 0.0)]


class Broken(FakeGpu):
    def read(self, device: Device) -> GpuReading:
        if device == ONE:
            raise ZeroDivisionError("a bug of a source")
        return super().read(device)


def test_a_bug_of_a_source_costs_that_device_only() -> None:
    bench = Bench(Broken({ONE: GpuReading(power_w=1.0), TWO: GpuReading(power_w=2.0)}))
    with guard.strict() as failures:
        assert set(bench.look()) == {"GPU-2"}
    assert [type(failure) for failure in failures] == [ZeroDivisionError]
    guard.errors.clear()


# ---------------------------------------------------------------- the thread


def eventually(true: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def test_the_thread_looks_and_stops_and_closes_what_it_opened() -> None:
    gpu = two()
    sampler = Sampler(lambda: {"fake": gpu}, interval_s=0.01)
    sampler.start()
    sampler.start()
    assert eventually(lambda: bool(sampler.snapshot.looks))
    assert [thread.name for thread in threading.enumerate()].count("ai-otel gpu") == 1
    assert sampler.stop()
    assert not sampler.alive
    assert (gpu.opened, gpu.closed) == (1, 1)


def test_where_there_is_nothing_to_read_the_thread_ends_unless_it_is_to_last() -> None:
    gpu = two()
    gpu.trouble = Unavailable("There is no such library.", installed=False)
    ends, lasts = (Sampler(lambda: {"fake": gpu}, interval_s=0.01, lasting=lasting) for lasting in (False, True))
    ends.start()
    lasts.start()
    assert eventually(lambda: not ends.alive)
    taken_s = lasts.snapshot.taken_s
    assert eventually(lambda: lasts.snapshot.taken_s != taken_s)
    assert lasts.alive
    assert ends.stop()
    assert lasts.stop()


@pytest.mark.parametrize(("others", "interval_s"), [(1.0, 1.0), (0.0, 8.0)], ids=["the server", "the driver"])
def test_what_takes_long_because_the_server_computes_is_no_reason_to_look_less_often(
    monkeypatch: pytest.MonkeyPatch, others: float, interval_s: float
) -> None:
    """A thread that computes holds the interpreter up to 5 ms after each call of a driver: that is not the driver's."""

    class Slow(FakeGpu):
        def read(self, device: Device) -> GpuReading:
            bench.now_s += 0.2
            return super().read(device)

    bench = Bench(Slow(two().readings))
    monkeypatch.setattr(sampling, "_others_s", lambda: others * bench.now_s)
    for _ in range(20):
        bench.look()
    assert bench.sampler._readings.interval_s == interval_s


def test_what_other_threads_computed_is_told_from_what_this_one_did() -> None:
    def compute() -> float:
        before_s = time.thread_time()
        while time.thread_time() - before_s < 0.1:
            pass
        return sampling._others_s()

    before_s = sampling._others_s()
    own_s = compute() - before_s
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    others_s = sampling._others_s() - before_s
    assert others_s - own_s >= 0.09


def test_who_lost_the_election_does_not_look() -> None:
    gpu = two()
    sampler = Sampler(lambda: {"fake": gpu}, interval_s=0.01, elected=lambda: False)
    sampler.start()
    assert sampler.stop()
    assert gpu.opened == 0


def test_the_child_of_a_fork_has_no_devices_until_it_starts_and_closes_nothing_of_the_parents() -> None:
    gpu = two()
    sampler = Sampler(lambda: {"fake": gpu}, interval_s=0.01)
    sampler.start()
    assert eventually(lambda: bool(sampler.snapshot.looks))
    child = os.fork()
    if child == 0:
        clean = not sampler.snapshot.looks and not sampler.alive and gpu.closed == 0
        sampler.start()
        os._exit(0 if clean and eventually(lambda: bool(sampler.snapshot.looks)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sampler.alive
    assert sampler.stop()
