"""GPUs that cannot be opened at the start, have no UUID of their own, or change later: the sampler opens NVML again."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pynvml
import pytest

from ai_otel.gpu import sampler as sampling
from ai_otel.gpu.nvidia.device import SLOW_INTERVAL_S
from ai_otel.gpu.nvidia.source import NvmlSource
from ai_otel.gpu.sampler import RETRY_S, Sampler
from ai_otel.gpu.source import Device, GpuReading, Options
from ai_otel.hooks import guard
from harness.gpu import nvml
from harness.gpu.nvml import FakeNvml, Gpu, Instance, Scenario

pytestmark = pytest.mark.requires(**nvml.REQUIRES)

ONE, TWO = str(Gpu().uuid), nvml.SECOND_GPU["uuid"]
SECOND: dict[str, Any] = {**nvml.SECOND_GPU, "bus_id": "00000000:2A:00.0"}
ALWAYS = float("-inf")


class Listener:
    """Keeps the devices whose energy is attributed."""

    def __init__(self) -> None:
        self.devices: list[list[str]] = []

    def opened(self, devices: Sequence[Device]) -> None:
        self.devices.append([device.id for device in devices])

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Bench:
    """A sampler of the simulated NVML, without its thread."""

    def __init__(self, directory: Path, fake: FakeNvml) -> None:
        self.directory, self.fake, self.listener = directory, fake, Listener()
        source = NvmlSource(Options(), clock=fake.clock)
        self.sampler = Sampler(lambda: {"nvidia": source}, clock=fake.clock, listener=self.listener)
        self.source = source

    def next(self, *gpus: Gpu) -> None:
        """Set the scenario of the next start of NVML."""
        self.fake.use(Scenario(gpus=gpus).write(self.directory / "next.txt", self.fake.clock.path))

    def sample(self, after_s: float = 1.0) -> dict[tuple[str, str | None], GpuReading]:
        self.fake.clock.advance(after_s)
        self.sampler.collect()
        return {sample.device.key: sample.reading for sample in self.sampler.snapshot.samples}

    def states(self, after_s: float = 1.0) -> dict[str, str | None]:
        return {name: reading.status for (name, _), reading in self.sample(after_s).items()}


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    with guard.strict() as failures, nvml.library(tmp_path, Scenario(gpus=request.param)) as fake:
        made = Bench(tmp_path, fake)
        try:
            yield made
        finally:
            made.source.close()
    assert failures == []


def gpus(**returns: Any) -> list[Gpu]:
    return [Gpu(returns=returns), Gpu(**SECOND)]


@pytest.mark.fault(
    "gpu",
    "one of two GPUs cannot be opened when the server starts",
    "its hw.status is failed, no energy is attributed, and it is opened again after 1, 3, 7, … minutes; then all is "
    "exported",
)
@pytest.mark.parametrize(
    "bench",
    [
        gpus(nvmlDeviceGetHandleByIndex_v2=[(15, ALWAYS), (0, 50.0)]),
        gpus(nvmlDeviceGetHandleByIndex_v2=[(999, ALWAYS), (0, 50.0)]),
        gpus(nvmlDeviceGetUUID=[(15, ALWAYS), (0, 50.0)]),
        gpus(nvmlDeviceGetPersistenceMode=[(16, ALWAYS), (0, 50.0)]),
    ],
    ids=["lost", "unknown error", "lost while identified", "needs a reset"],
    indirect=True,
)
def test_a_gpu_that_cannot_be_opened_at_the_start_is_retried(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ai_otel"):
        states = bench.states()
        assert states.pop(TWO) == "ok"
        assert set(states.values()) == {"failed"}
        (known,) = bench.listener.devices
        assert len(known) == 2, "the energy of one GPU is not that of a request on two"
        assert bench.sampler.snapshot.ids == (TWO,)
        assert bench.states(after_s=RETRY_S) == {ONE: "ok", TWO: "ok"}
    assert bench.listener.devices[1:] == [[ONE, TWO]]
    assert len([each for each in caplog.messages if "is left out" in each]) == 1
    assert bench.fake.calls("nvmlInitWithFlags") == 2


@pytest.mark.parametrize("bench", [gpus(nvmlDeviceGetHandleByIndex_v2=15)], indirect=True)
def test_the_retries_become_rare_and_do_not_end(bench: Bench) -> None:
    for _ in range(70):
        assert bench.states(after_s=60.0) == {"nvidia:0": "failed", TWO: "ok"}
    assert bench.fake.calls("nvmlInitWithFlags") == 7  # after 1, 3, 7, 15, 31 and 63 min


@pytest.mark.parametrize("bench", [gpus(nvmlDeviceGetHandleByIndex_v2=4)], indirect=True)
def test_a_gpu_of_another_job_is_no_failure(bench: Bench) -> None:
    """Schedulers deny access to the GPUs of other jobs; NVML counts them."""
    assert bench.states() == {TWO: "ok"}
    assert bench.listener.devices == [[TWO]]


@pytest.mark.parametrize(
    "bench", [[Gpu(returns={"nvmlDeviceGetHandleByIndex_v2": [(15, ALWAYS), (0, 50.0)]})]], indirect=True
)
def test_the_only_gpu_is_retried(bench: Bench) -> None:
    assert bench.states() == {"nvidia:0": "failed"}
    assert "nvidia" in bench.sampler.snapshot.errors
    assert bench.states(after_s=RETRY_S) == {ONE: "ok"}
    assert bench.sampler.snapshot.errors == {}


@pytest.mark.parametrize("bench", [[Gpu(lost_at=20.0), Gpu(**SECOND)]], indirect=True)
def test_a_lost_gpu_that_then_cannot_be_opened_is_one_gpu(bench: Bench) -> None:
    assert bench.states() == {ONE: "ok", TWO: "ok"}
    assert bench.states(after_s=10.0) == {ONE: "failed", TWO: "ok"}
    assert bench.states(after_s=RETRY_S) == {ONE: "failed", TWO: "ok"}


# ---------------------------------------------------------------- UUIDs


@pytest.mark.fault(
    "gpu",
    "the driver does not report the UUID of a GPU",
    "its hw.id is its PCI address, and all of its values are exported",
)
@pytest.mark.parametrize("bench", [gpus(nvmlDeviceGetUUID=999)], indirect=True)
def test_a_gpu_without_a_uuid_has_the_id_of_its_place(bench: Bench) -> None:
    readings = bench.sample()
    assert readings["nvidia:00000000:18:00.0", None].power_w == 300.0
    assert bench.listener.devices == [["nvidia:00000000:18:00.0", TWO]]


@pytest.mark.fault(
    "gpu",
    "two GPUs report the same UUID",
    "the second one's hw.id is its PCI address, one log line names both, and the values of both are exported",
)
@pytest.mark.parametrize("bench", [[Gpu(), Gpu(**{**SECOND, "uuid": ONE}, power_w=200.0)]], indirect=True)
def test_gpus_with_the_same_uuid_are_two(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ai_otel"):
        readings = bench.sample()
    assert {name: reading.power_w for (name, _), reading in readings.items()} == {
        ONE: 300.0,
        "nvidia:00000000:2A:00.0": 200.0,
    }
    assert [each for each in caplog.messages if "two GPUs report the UUID" in each]


# ---------------------------------------------------------------- changes while the server runs

SLICED = Gpu(instances=[Instance(1, uuid="MIG-1"), Instance(2, uuid="MIG-2")])


def keys(bench: Bench, after_s: float = 1.0) -> set[str | None]:
    return {instance for _, instance in bench.sample(after_s)}


@pytest.mark.fault(
    "gpu",
    "a MIG instance is removed or created again while the server runs",
    "the devices are enumerated again within 10 s, and at most once a minute",
)
@pytest.mark.parametrize(
    "bench",
    [[Gpu(instances=SLICED.instances, returns={"nvmlDeviceGetMigDeviceHandleByIndex": [(0, ALWAYS), (6, 80.0)]})]],
    indirect=True,
)
def test_replaced_instances_are_found(bench: Bench) -> None:
    assert keys(bench) == {None, "1", "2"}
    assert keys(bench, after_s=60.0) == {None, "1", "2"}
    bench.next(Gpu(instances=[Instance(7, uuid="MIG-7")]))
    bench.sample(after_s=SLOW_INTERVAL_S)
    assert keys(bench) == {None, "7"}
    assert {sample.device.instance_uuid for sample in bench.sampler.snapshot.samples} == {None, "MIG-7"}


@pytest.mark.fault("gpu", "MIG mode is switched on while the server runs", "the instances are found within 10 s")
@pytest.mark.parametrize("bench", [[Gpu()]], indirect=True)
def test_toggled_mig_mode_is_found(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keys(bench) == {None}
    bench.next(SLICED)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMigMode", lambda _: [1, 1])
    bench.sample(after_s=RETRY_S)
    assert keys(bench) == {None, "1", "2"}
    bench.next(Gpu())
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMigMode", lambda _: [0, 0])
    bench.sample(after_s=RETRY_S)
    assert keys(bench) == {None}


@pytest.mark.fault(
    "gpu",
    "other code of the server shuts NVML down",
    "it is started again with the next sample",
)
@pytest.mark.parametrize("bench", [[Gpu(), Gpu(**SECOND)]], indirect=True)
def test_a_library_that_was_shut_down_is_started_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    assert bench.states() == {ONE: "ok", TWO: "ok"}
    bench.fake.clock.advance(RETRY_S)
    for _ in range(2):
        pynvml.nvmlShutdown()
        with caplog.at_level(logging.WARNING, "ai_otel"):
            bench.sample()
            assert bench.states(after_s=RETRY_S) == {ONE: "ok", TWO: "ok"}
    assert [each for each in caplog.messages if "does not answer" in each] == []


@pytest.mark.fault(
    "gpu",
    "the driver is unloaded while the server runs",
    "hw.status of its GPUs is failed, and they are read again once it is loaded",
)
@pytest.mark.parametrize("bench", [[Gpu()]], indirect=True)
def test_the_gpus_of_an_unloaded_driver_have_failed_until_it_is_loaded(bench: Bench) -> None:
    assert bench.states() == {ONE: "ok"}
    bench.fake.use(
        Scenario(returns={"nvmlInitWithFlags": 9}).write(bench.directory / "next.txt", bench.fake.clock.path)
    )
    pynvml.nvmlShutdown()
    bench.sample(after_s=RETRY_S)
    assert bench.states() == {ONE: "failed"}
    assert "no NVIDIA driver is loaded" in bench.sampler.snapshot.errors["nvidia"]
    bench.next(Gpu())
    assert bench.states(after_s=RETRY_S) == {ONE: "ok"}


@pytest.mark.parametrize("bench", [[Gpu()]], indirect=True)
def test_a_library_shut_down_repeatedly_is_started_once_a_minute(bench: Bench) -> None:
    bench.sample()
    for _ in range(int(3 * RETRY_S)):
        if bench.fake.live("inits"):
            pynvml.nvmlShutdown()
        bench.sample()
    assert bench.fake.calls("nvmlInitWithFlags") <= 4
    assert sampling.RETRY_S == RETRY_S
