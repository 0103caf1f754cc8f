"""The wiring, with a source whose counter runs in real time: one GPU of 200 W that is simulated here."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ai_otel.energy.stage import cost_of
from ai_otel.gpu import registry
from ai_otel.gpu.registry import attributable, wanted_sources
from ai_otel.gpu.source import Device, GpuReading, Options
from ai_otel.record import Choice, Energy, Inference, Outcome
from ai_otel.settings import Price
from ai_otel.testing import Captured, FakeGpu, captured
from harness.polling import eventually

GPU = Device("GPU-1", "fake", model="simulated")
POWER_W = 200.0


class Metered(FakeGpu):
    """Its counter follows the clock."""

    counts = True

    def __init__(self, options: Options) -> None:
        super().__init__({GPU: GpuReading(power_w=POWER_W, power_window="average", status="ok")})
        made.append(self)

    def read(self, device: Device) -> GpuReading:
        reading = super().read(device)
        if self.counts:
            reading.energy_j = round(time.perf_counter(), 1) * POWER_W
        return reading


made: list[Metered] = []


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    module: Any = ModuleType("a_vendors_source")
    module.Metered = Metered
    monkeypatch.setitem(sys.modules, "a_vendors_source", module)
    monkeypatch.setattr(registry, "SOURCES", {"fake": "a_vendors_source:Metered"})
    monkeypatch.setattr(Metered, "counts", True)
    monkeypatch.setenv("AI_OTEL_LOCK_DIR", str(tmp_path))  # an election of its own
    yield
    made.clear()


def serve(telemetry: Captured, seconds: float) -> Inference:
    """One request of an engine that says nothing while it runs."""
    inference = telemetry.recorder.begin(Inference("vllm", "chat", model="tiny"))
    time.sleep(seconds)
    inference.choices = [Choice(completed=True, counted_input_tokens=7, output_tokens=20)]
    telemetry.recorder.end(inference, Outcome.FINISHED)
    return inference


def on(**settings: Any) -> Any:
    return captured(
        attach=False, engine="vllm", gpu="fake", gpu_interval=0.2, lock_dir=os.environ["AI_OTEL_LOCK_DIR"], **settings
    )


def seen(telemetry: Captured) -> Any:
    """The devices are read."""
    telemetry.recorder.wake()
    return eventually(lambda: telemetry.handle.pipeline.devices.snapshot.ids)


def test_a_request_carries_its_gpus_and_without_the_setting_no_energy() -> None:
    with on() as telemetry:
        assert seen(telemetry) == ("GPU-1",)
        serve(telemetry, 0.01)
        attributes = telemetry.spans[-1].attributes or {}
        assert attributes["ai_otel.gpu.ids"] == ("GPU-1",)
        assert "ai_otel.energy.gpu" not in attributes
        (power,) = eventually(lambda: telemetry.points("hw.power"))
        assert power.value == POWER_W
    assert [(gpu.opened, gpu.closed) for gpu in made] == [(1, 1)]


def test_a_request_alone_on_a_gpu_has_all_of_its_energy_and_its_price() -> None:
    with on(energy=True, price="3.60 USD/gpu_hour") as telemetry:
        seen(telemetry)
        eventually(lambda: telemetry.recorder._started is not None)
        time.sleep(0.5)
        inference = serve(telemetry, 1.5)
        took_s = (inference.end_ns - inference.start_ns) / 1e9
        (span,) = eventually(lambda: telemetry.spans)
        found = span.attributes
        assert found["ai_otel.energy.gpu"] == pytest.approx(POWER_W * took_s, rel=0.2)
        assert found["ai_otel.gpu.time"] == pytest.approx(took_s, rel=0.2)
        assert found["ai_otel.energy.method"] == "exclusive"
        assert found["ai_otel.cost.amount"] == pytest.approx(found["ai_otel.gpu.time"] * 0.001)
        assert found["ai_otel.cost.currency"] == "USD"
        (point,) = telemetry.points("ai_otel.request.energy")
        assert point.sum == found["ai_otel.energy.gpu"]
        by_bucket = {p.attributes["ai_otel.energy.bucket"]: p.value for p in telemetry.points("ai_otel.gpu.energy")}
        assert by_bucket["request"] == pytest.approx(found["ai_otel.energy.gpu"])
        assert "idle" in by_bucket
        (error,) = telemetry.points("ai_otel.gpu.conservation.error")
        assert error.value == pytest.approx(0.0, abs=1e-9)


def test_where_there_is_no_counter_a_request_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Metered, "counts", False)
    with on(energy=True) as telemetry:
        seen(telemetry)
        serve(telemetry, 0.3)
        (span,) = eventually(lambda: telemetry.spans)
        assert span.attributes["ai_otel.gpu.ids"] == ("GPU-1",)
        assert "ai_otel.energy.gpu" not in span.attributes
        assert telemetry.points("ai_otel.gpu.energy") == []


def test_what_waits_for_its_energy_at_stop_is_emitted() -> None:
    with on(energy=True) as telemetry:
        seen(telemetry)
        eventually(lambda: telemetry.recorder._started is not None)
        serve(telemetry, 0.01)
        telemetry.handle.stop()
        assert len(telemetry._exporter.get_finished_spans()) == 1


@pytest.mark.parametrize("energy", [False, True])
def test_a_forked_child_emits_and_takes_over_when_the_parent_stops(energy: bool) -> None:
    """With providers of the user's, whose copies the child has with all our instruments in them."""
    with on(energy=energy) as telemetry:
        seen(telemetry)
        serve(telemetry, 0.3)
        before = len(eventually(lambda: telemetry.spans))
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os._exit(in_the_child(telemetry, before, ready[1], go[0]))
        assert os.read(ready[0], 1) == b"."  # the child had its request emitted while the parent samples
        assert telemetry.handle.pipeline.devices.snapshot.ids == ("GPU-1",)
        telemetry.handle.stop()
        os.write(go[1], b".")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def in_the_child(telemetry: Captured, before: int, ready: int, go: int) -> int:
    """0 where all is as it should be."""
    devices, exporter = telemetry.handle.pipeline.devices, telemetry._exporter
    serve(telemetry, 0.3)
    eventually(lambda: len(exporter.get_finished_spans()) == before + 1)
    sampled = bool(devices.snapshot.ids)
    os.write(ready, b".")
    os.read(go, 1)
    eventually(lambda: devices.snapshot.ids)  # a lost election is tried again
    points = eventually(lambda: telemetry.points("hw.power"))
    telemetry.handle.stop()
    return 1 if sampled or [point.value for point in points] != [POWER_W] or made[-1].closed != 1 else 0


def test_a_price_without_energy_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ai_otel"), on(price="1 EUR/kWh") as telemetry:
        seen(telemetry)
    assert "set AI_OTEL_ENERGY=true as well" in caplog.text


def test_switched_off_nothing_is_opened() -> None:
    with captured(attach=False, engine="vllm", gpu="none") as telemetry:
        serve(telemetry, 0.01)
        assert "ai_otel.gpu.ids" not in (telemetry.spans[-1].attributes or {})
    assert made == []


def test_an_unknown_vendor_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ai_otel"):
        assert wanted_sources(("fake", "nvidai")) == {"fake": "a_vendors_source:Metered"}
    assert "AI_OTEL_GPU names nvidai; known are auto, none, fake" in caplog.text


def test_a_price_is_per_hour_of_a_gpu_or_per_kilowatt_hour() -> None:
    energy = Energy(gpu_j=7200.0, idle_share=0.1, method="affine", uncertainty=0.05, gpu_time_s=18.0)
    assert cost_of(energy, Price(2.0, "USD", "gpu_hour")).amount == pytest.approx(0.01)
    assert cost_of(energy, Price(0.30, "EUR", "kWh")).amount == pytest.approx(0.0006)


def test_a_partitioned_gpu_is_not_attributed_and_a_card_of_tiles_is() -> None:
    divided, part = Device("GPU-1", "nvidia"), Device("GPU-1", "nvidia", instance_id="1", instance_uuid="MIG-1")
    card, tile = Device("UUID-2", "intel"), Device("UUID-2", "intel", instance_id="0")
    assert attributable([divided, part, card, tile]) == [part, card]


@pytest.mark.parametrize("setting", [{"metrics": False}, {}])
def test_a_process_that_exports_no_metrics_does_not_lead(setting: dict[str, bool], tmp_path: Path) -> None:
    with on(**setting) as telemetry:
        assert seen(telemetry) == ("GPU-1",)
        serve(telemetry, 0.01)
        assert (telemetry.spans[-1].attributes or {})["ai_otel.gpu.ids"] == ("GPU-1",)
        assert bool(list(tmp_path.glob("*-gpu-*.lock"))) is not bool(setting)
