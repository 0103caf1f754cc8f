"""Instrumenting again on the user's own provider, which keeps every instrument and its first callback."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

import ai_otel
from ai_otel.gpu import registry
from ai_otel.gpu.source import Device, GpuReading, Options
from ai_otel.testing import FakeGpu
from harness.polling import eventually

HEALTH = {"ai_otel.record.open"}


class Source(FakeGpu):
    """One GPU, whose power is that of the newest instance."""

    power_w = 0.0

    def __init__(self, options: Options) -> None:
        super().__init__({Device("GPU-1", "fake"): GpuReading(power_w=self.power_w, energy_j=50.0, status="ok")})


class User:
    """The application: its providers outlive ai-otel."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracers = TracerProvider(shutdown_on_exit=False)

    def instrument(self, power_w: float) -> None:
        Source.power_w = power_w
        handle = ai_otel.instrument(
            tracer_provider=self.tracers,
            meter_provider=self.meters,
            gpu="fake",
            gpu_interval=0.05,
            flush_interval=0.001,
        )
        handle.recorder.wake()
        eventually(lambda: handle.pipeline.devices.snapshot.ids == ("GPU-1",), 20)

    def points(self) -> dict[str, list[Any]]:
        """Name → points that were observed now; histograms keep what was recorded before."""
        data = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if not hasattr(metric.data.data_points[0], "bucket_counts")
        }


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    module: Any = ModuleType("a_vendors_source")
    module.Source = Source
    monkeypatch.setitem(sys.modules, "a_vendors_source", module)
    monkeypatch.setattr(registry, "SOURCES", {"fake": "a_vendors_source:Source"})
    made = User()
    yield made
    ai_otel.uninstrument()
    made.meters.shutdown()


@pytest.mark.fault(
    "configuration",
    "a program calls `uninstrument()` and `instrument()` again with its own meter provider",
    "after the first call none of ai-otel's gauges and counters is observed any more; after the second all are, with "
    "present values",
)
def test_a_provider_can_be_instrumented_again(user: User, caplog: pytest.LogCaptureFixture) -> None:
    user.instrument(100.0)
    first = user.points()
    assert [point.value for point in first["hw.power"]] == [100.0]
    assert set(first) >= HEALTH
    ai_otel.uninstrument()
    assert user.points() == {}
    user.instrument(250.0)
    again = user.points()
    assert set(again) == set(first)
    assert [point.value for point in again["hw.power"]] == [250.0]
    ai_otel.uninstrument()
    assert user.points() == {}
    assert [each for each in caplog.messages if "has been created already" in each] == []


def test_a_late_end_of_the_first_does_not_silence_the_second(user: User) -> None:
    """As after a stop timeout: an exporter hangs, and the recorder's thread ends later."""
    user.instrument(100.0)
    first = ai_otel.start.current()
    assert first is not None
    late = first.pipeline._silence
    ai_otel.uninstrument()
    user.instrument(250.0)
    late()
    assert [point.value for point in user.points()["hw.power"]] == [250.0]


@pytest.mark.fault(
    "configuration",
    "an application switches ai-otel on and off again, over and over",
    "nothing of an earlier time is kept: no settings, no recorder, no copy of the environment",
)
def test_what_was_stopped_is_let_go() -> None:
    providers: dict[str, Any] = {"tracer_provider": TracerProvider(), "meter_provider": MeterProvider()}
    handles = []
    for _ in range(4):
        handle = ai_otel.instrument(**providers, gpu="none", flush_interval=0.001)
        handle.recorder.wake()
        assert handle.flush()
        ai_otel.uninstrument()
        handles.append(weakref.ref(handle))
    del handle
    gc.collect()
    assert [each() for each in handles[:3]] == [None, None, None]
