"""Spans that wait for their energy while the driver hangs: a timer resumes them."""

from __future__ import annotations

import threading
import time

import pytest

from ai_otel.energy.attribution import EnergyAttribution
from ai_otel.energy.ledger import Ledger
from ai_otel.gpu.source import Device
from ai_otel.record import Inference, Outcome, RequestRecord
from ai_otel.recorder import Recorder

GPU = Device("GPU-0", "nvidia")
PATIENCE_S = 0.3


def timers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ai-otel energy timer"]


@pytest.mark.fault(
    "gpu",
    "the driver never returns from a call, and no further request arrives",
    "the spans that wait are emitted without energy after 10 s (`ai_otel.energy.absence` is `timeout`)",
)
def test_a_record_waits_for_a_hanging_driver_no_longer_than_its_patience() -> None:
    resumed: list[tuple[float, RequestRecord]] = []
    arrived = threading.Event()

    def resume(record: RequestRecord) -> None:
        resumed.append((time.perf_counter(), record))
        arrived.set()

    closed: list[RequestRecord] = []
    recorder = Recorder(closed.append)
    attribution = EnergyAttribution(Ledger([GPU]), resume, gpu_ids=[GPU.id], patience_s=PATIENCE_S)
    recorder.follow(attribution.started)
    collected_s = time.perf_counter()
    attribution.collect(collected_s)
    recorder.end(recorder.begin(Inference("test", "chat")), Outcome.FINISHED)
    assert recorder.flush()
    assert [attribution.defer(record) for record in closed] == [True]
    assert arrived.wait(10)
    ((resumed_s, record),) = resumed
    assert PATIENCE_S <= resumed_s - collected_s < PATIENCE_S + 2
    assert (record.energy, record.energy_absence, record.gpu_ids) == (None, "timeout", (GPU.id,))
    assert attribution.deferred == 0
    recorder.stop()


def test_the_timer_ends_with_the_attribution() -> None:
    attribution = EnergyAttribution(Ledger([GPU]), lambda _record: None, patience_s=60.0)
    record = RequestRecord(inferences=[Inference("test", "chat")])
    before = len(timers())
    assert attribution.defer(record)
    assert len(timers()) == before + 1
    attribution.release_all(time.perf_counter())
    deadline = time.monotonic() + 10
    while len(timers()) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(timers()) == before
