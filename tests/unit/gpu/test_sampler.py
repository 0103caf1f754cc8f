"""The sampler, driven by hand with a manual clock. The last section tests its thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from ai_otel.gpu import sampler as sampling
from ai_otel.gpu.sampler import RETRY_S, Sampler
from ai_otel.gpu.source import Device, GpuEvent, GpuReading, Outdated, Support, Unavailable
from ai_otel.hooks import guard
from ai_otel.testing import FakeGpu
from harness.gpu.fakes import ONE, TWO, two_gpus
from harness.polling import eventually

pytestmark = pytest.mark.usefixtures("no_hook_failures")


class Recorder:
    """A listener that records what it receives."""

    def __init__(self) -> None:
        self.devices: list[list[Device]] = []
        self.energies: list[tuple[str, float | None]] = []
        self.readings: list[Device] = []
        self.events: list[GpuEvent] = []
        self.collections = 0

    def opened(self, devices: Sequence[Device]) -> None:
        self.devices.append(list(devices))

    def saw_energy(self, device: Device, time_s: float, energy_j: float | None) -> None:
        self.energies.append((device.id, energy_j))

    def saw_reading(self, device: Device, time_s: float, reading: GpuReading) -> None:
        self.readings.append(device)

    def saw_event(self, event: GpuEvent) -> None:
        self.events.append(event)

    def collected(self, time_s: float) -> None:
        self.collections += 1


class Omitting(FakeGpu):
    """Like NVML, does not enumerate a device that does not answer when the library is opened."""

    def open(self) -> list[Device]:
        return [device for device in super().open() if device not in self.lost]


class Bench:
    """A sampler over one fake source, without its thread."""

    def __init__(self, gpu: FakeGpu, **options: Any) -> None:
        self.now_s = 0.0
        self.gpu = gpu
        self.sampler = Sampler(lambda: {"fake": gpu}, clock=lambda: self.now_s, **options)

    def sample(self, after_s: float = 1.0) -> dict[str, GpuReading]:
        self.now_s += after_s
        self.sampler.collect()
        return {sample.device.id: sample.reading for sample in self.sampler.snapshot.samples}


def test_a_collection_replaces_the_snapshot_of_all_devices() -> None:
    bench = Bench(two_gpus())
    assert {name: reading.power_w for name, reading in bench.sample().items()} == {"GPU-1": 100.0, "GPU-2": 200.0}
    before = bench.sampler.snapshot
    bench.gpu.readings[ONE] = GpuReading(power_w=150.0)
    assert bench.sample()["GPU-1"].power_w == 150.0
    assert before.samples[0].reading.power_w == 100.0
    assert bench.sampler.snapshot.ids == ("GPU-1", "GPU-2")


def test_counters_continue_after_a_reset() -> None:
    bench = Bench(two_gpus())
    bench.sample()
    bench.gpu.readings[ONE] = GpuReading(energy_j=3.0)
    assert bench.sample()["GPU-1"].energy_j == 50.0
    assert bench.sample()["GPU-1"].energy_j == 53.0


def test_nothing_is_read_before_the_next_sample_is_due() -> None:
    bench = Bench(two_gpus())
    first = bench.sample()
    bench.gpu.readings[ONE] = GpuReading(power_w=150.0)
    assert bench.sample(after_s=0.5) == first


def test_energy_is_read_ten_times_a_second_with_a_listener() -> None:
    recorder = Recorder()
    bench = Bench(two_gpus(), listener=recorder)
    for _ in range(20):
        bench.sample(after_s=0.1)
    assert recorder.collections == 20
    assert len(recorder.energies) == 40
    assert 4 <= len(recorder.readings) <= 6
    assert recorder.devices == [[ONE, TWO]]


def test_a_reset_is_corrected_in_both_collections() -> None:
    """Until it is confirmed, the listener receives no energy."""
    recorder = Recorder()
    bench = Bench(FakeGpu({ONE: GpuReading(energy_j=50.0)}), listener=recorder)
    bench.sample()
    bench.gpu.readings[ONE] = GpuReading(energy_j=2.0)
    bench.sample()
    assert bench.sample()["GPU-1"].energy_j == 52.0
    assert recorder.energies == [("GPU-1", 50.0), ("GPU-1", None), ("GPU-1", 52.0)]


@pytest.mark.fault("gpu", "a GPU falls off the bus", "it is logged once, its values are absent, other GPUs are sampled")
def test_a_lost_gpu_is_logged_once_and_the_others_are_still_read(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(two_gpus())
    bench.sample()
    bench.gpu.lost.add(ONE)
    with caplog.at_level(logging.WARNING, "ai_otel"):
        for _ in range(3):
            samples = bench.sample()
    assert samples["GPU-2"].power_w == 200.0
    assert samples["GPU-1"].status == "failed"
    assert samples["GPU-1"].power_w is None
    assert samples["GPU-1"].absent["power_w"] is Support.LOST
    assert [record.getMessage() for record in caplog.records] == [
        "ai-otel: GPU GPU-1 does not answer any more; the others are still sampled. See its driver's log."
    ]
    assert bench.sampler.snapshot.ids == ("GPU-2",)


@pytest.mark.fault("gpu", "a lost GPU comes back", "it is sampled again")
def test_a_lost_gpu_that_returns_is_rediscovered() -> None:
    bench = Bench(two_gpus())
    bench.sample()
    bench.gpu.lost.add(ONE)
    bench.sample()
    bench.gpu.lost.clear()
    assert bench.sample()["GPU-1"].status == "failed"
    assert bench.sample(after_s=RETRY_S)["GPU-1"].power_w == 100.0
    assert (bench.gpu.opened, bench.gpu.closed) == (2, 1)


def test_a_lost_gpu_that_is_not_enumerated_stays_lost_until_found() -> None:
    bench = Bench(Omitting(two_gpus().readings))
    bench.sample()
    bench.gpu.lost.add(ONE)
    bench.sample()
    for _ in range(3):
        assert bench.sample(after_s=10 * RETRY_S)["GPU-1"].status == "failed"
    bench.gpu.lost.clear()
    assert bench.sample(after_s=100 * RETRY_S)["GPU-1"].power_w == 100.0


@pytest.mark.parametrize("source", [FakeGpu, Omitting])
@pytest.mark.fault("gpu", "a GPU stays lost", "it is retried with growing intervals")
def test_a_gpu_that_stays_lost_is_retried_with_backoff(source: type[FakeGpu]) -> None:
    """A retry reopens the library, which affects the other devices, too."""
    bench = Bench(source(two_gpus().readings))
    bench.sample()
    bench.gpu.lost.add(ONE)
    for _ in range(3600):
        bench.sample()
    assert bench.gpu.opened == 6  # at the start, then after 1, 3, 7, 15 and 31 min


def test_a_gpu_that_is_lost_twice_is_logged_twice(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(two_gpus())
    bench.sample()
    with caplog.at_level(logging.WARNING, "ai_otel"):
        for _ in range(2):
            bench.gpu.lost.add(ONE)
            bench.sample()
            bench.gpu.lost.clear()
            bench.sample(after_s=RETRY_S)
    said = [record.getMessage().partition(";")[0] for record in caplog.records]
    assert said == ["ai-otel: GPU GPU-1 does not answer any more", "ai-otel: GPU GPU-1 answers again."] * 2


def test_rediscovery_drops_a_lost_device_that_is_gone() -> None:
    bench = Bench(Omitting(two_gpus().readings))
    bench.sample()
    bench.gpu.lost.add(ONE)
    assert set(bench.sample()) == {"GPU-1", "GPU-2"}
    bench.sampler.rediscover()
    assert set(bench.sample()) == {"GPU-2"}


def test_a_gpu_that_reports_failed_still_answers() -> None:
    bench = Bench(FakeGpu({ONE: GpuReading(status="failed", power_w=70.0)}))
    bench.sample()
    assert bench.sampler.snapshot.ids == ("GPU-1",)


def test_collections_without_a_device_are_not_reported() -> None:
    took: list[str] = []
    bench = Bench(two_gpus(), on_collected=lambda kind, _: took.append(kind))
    bench.gpu.trouble = Unavailable("There is no such library.", installed=False)
    bench.sample()
    assert took == []
    assert bench.sampler.snapshot.skipped == {}


def test_a_vendor_that_is_not_installed_is_not_logged_or_retried(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(two_gpus())
    bench.gpu.trouble = Unavailable("There is no such library.", installed=False)
    with caplog.at_level(logging.DEBUG, "ai_otel"):
        bench.sample()
        bench.gpu.trouble = None
        assert bench.sample(after_s=10 * RETRY_S) == {}
    assert caplog.records == []
    assert bench.sampler.snapshot.errors == {}


@pytest.mark.fault("gpu", "the driver cannot be opened", "the error is logged once and the driver is tried again")
def test_an_installed_source_that_fails_is_logged_once_and_retried(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(two_gpus())
    bench.gpu.trouble = Unavailable("No permission: add the user to the group video.", installed=True)
    with caplog.at_level(logging.WARNING, "ai_otel"):
        for _ in range(5):
            bench.sample(after_s=RETRY_S)
    assert [record.getMessage() for record in caplog.records] == [
        "ai-otel: No permission: add the user to the group video."
    ]
    assert bench.sampler.snapshot.errors == {"fake": "No permission: add the user to the group video."}
    bench.gpu.trouble = None
    assert set(bench.sample(after_s=100 * RETRY_S)) == {"GPU-1", "GPU-2"}
    assert bench.sampler.snapshot.errors == {}


def test_events_are_counted_by_device_and_code(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    bench = Bench(two_gpus(), listener=recorder)
    bench.sample()
    bench.gpu.reported = [GpuEvent(ONE, 79, 1.0), GpuEvent(ONE, 79, 1.1), GpuEvent(TWO, 31, 1.2)]
    with caplog.at_level(logging.WARNING, "ai_otel"):
        bench.sample()
    assert bench.sampler.snapshot.xids == {(ONE, 79): 2, (TWO, 31): 1}
    assert len(recorder.events) == 3
    assert "GPU GPU-1 reports XID 79" in caplog.text


def test_the_duration_of_each_collection_is_reported() -> None:
    took: list[tuple[str, float]] = []
    bench = Bench(two_gpus(), listener=Recorder(), on_collected=lambda kind, seconds: took.append((kind, seconds)))
    bench.sample()
    assert took == [("energy", 0.0), ("readings", 0.0)]


class Broken(FakeGpu):
    def read(self, device: Device) -> GpuReading:
        if device == ONE:
            raise ZeroDivisionError("a bug in a source")
        return super().read(device)


@pytest.mark.fault("gpu", "reading one device raises an unknown error", "only that device has no values")
def test_a_bug_in_a_source_affects_that_device_only() -> None:
    bench = Bench(Broken({ONE: GpuReading(power_w=1.0), TWO: GpuReading(power_w=2.0)}))
    with guard.strict() as failures:
        assert set(bench.sample()) == {"GPU-2"}
    assert [type(failure) for failure in failures] == [ZeroDivisionError]
    guard.errors.clear()


def test_a_source_that_fails_more_than_ten_times_is_still_retried() -> None:
    """A hook of the engine would be switched off: it is on the path of requests."""

    class Failing(FakeGpu):
        broken = True

        def open(self) -> list[Device]:
            if self.broken:
                raise ZeroDivisionError("a bug in a source")
            return super().open()

    gpu = Failing(two_gpus().readings)
    bench = Bench(gpu)
    with guard.strict() as failures:
        for _ in range(15):
            assert bench.sample(after_s=sampling.MAX_RETRY_S) == {}
        assert len(failures) == 15
        gpu.broken = False
        assert set(bench.sample(after_s=sampling.MAX_RETRY_S)) == {"GPU-1", "GPU-2"}
    guard.errors.clear()


def test_devices_that_could_not_be_opened_are_failed_and_retried() -> None:
    class Partial(FakeGpu):
        unopened: Sequence[Device] = (TWO,)

    recorder = Recorder()
    gpu = Partial({ONE: GpuReading(status="ok")})
    bench = Bench(gpu, listener=recorder)
    assert {name: reading.status for name, reading in bench.sample().items()} == {"GPU-1": "ok", "GPU-2": "failed"}
    gpu.unopened, gpu.readings[TWO] = (), GpuReading(status="ok")
    assert {reading.status for reading in bench.sample(after_s=RETRY_S).values()} == {"ok"}
    assert recorder.devices == [[ONE, TWO], [ONE, TWO]], "the energy of one is not that of a request on both"


def test_an_outdated_source_is_reopened_at_once_and_at_most_once_a_minute() -> None:
    class Changing(FakeGpu):
        def read(self, device: Device) -> GpuReading:
            raise Outdated("its instances have changed")

    bench = Bench(Changing(two_gpus().readings))
    for _ in range(3 * int(RETRY_S)):
        bench.sample()
    assert bench.gpu.opened <= 4


# ---------------------------------------------------------------- the thread


def test_the_thread_samples_and_closes_its_sources_when_stopped() -> None:
    gpu = two_gpus()
    sampler = Sampler(lambda: {"fake": gpu}, interval_s=0.01)
    sampler.start()
    sampler.start()
    eventually(lambda: bool(sampler.snapshot.samples))
    assert [thread.name for thread in threading.enumerate()].count("ai-otel gpu") == 1
    assert sampler.stop()
    assert not sampler.alive
    assert (gpu.opened, gpu.closed) == (1, 1)


def test_without_devices_the_thread_ends_unless_it_is_lasting() -> None:
    gpu = two_gpus()
    gpu.trouble = Unavailable("There is no such library.", installed=False)
    ends, lasts = (Sampler(lambda: {"fake": gpu}, interval_s=0.01, lasting=lasting) for lasting in (False, True))
    ends.start()
    lasts.start()
    eventually(lambda: not ends.alive)
    taken_s = lasts.snapshot.taken_s
    eventually(lambda: lasts.snapshot.taken_s != taken_s)
    assert lasts.alive
    assert ends.stop()
    assert lasts.stop()


@pytest.mark.parametrize(("others", "interval_s"), [(1.0, 1.0), (0.0, 8.0)], ids=["the server", "the driver"])
def test_waiting_for_the_servers_threads_does_not_extend_the_interval(
    monkeypatch: pytest.MonkeyPatch, others: float, interval_s: float
) -> None:
    """A computing thread holds the interpreter lock for up to 5 ms after each driver call."""

    class Slow(FakeGpu):
        def read(self, device: Device) -> GpuReading:
            bench.now_s += 0.2
            return super().read(device)

    bench = Bench(Slow(two_gpus().readings))
    monkeypatch.setattr(sampling, "other_threads_s", lambda: others * bench.now_s)
    for _ in range(20):
        bench.sample()
    assert bench.sampler.snapshot.interval_s == interval_s
