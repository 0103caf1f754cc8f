"""A collection of metrics and its encoding give the interpreter lock away, so that the server's event loop goes on."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource

from ai_otel import instruments, providers, semconv
from ai_otel.export import pauses

POINTS = 50


class Encoded(MetricExporter):
    """Encodes, as an OTLP exporter does."""

    def __init__(self) -> None:
        super().__init__()
        self.points = 0

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
        encoded = encode_metrics(metrics_data)
        metrics = [m for each in encoded.resource_metrics for scope in each.scope_metrics for m in scope.metrics]
        self.points += sum(len(metric.sum.data_points) + len(metric.histogram.data_points) for metric in metrics)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        pass


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make each pause that may be one; these are the modules that paused, in order."""
    paused: list[str] = []

    def sleep(_: float) -> None:
        frame: Any = sys._getframe(2)
        while frame.f_code.co_filename == pauses.__file__:
            frame = frame.f_back
        paused.append(Path(frame.f_code.co_filename).stem)

    monkeypatch.setattr(pauses, "HOLD_S", -1.0)
    monkeypatch.setattr(pauses, "time", SimpleNamespace(sleep=sleep, perf_counter=time.perf_counter))
    return paused


def measure(meter: Meter) -> None:
    observed = [Observation(number, {"number": number}) for number in range(POINTS)]
    instruments.observable(meter, semconv.AI_OTEL_RECORD_DROPPED, lambda: observed)
    bound = instruments.histogram(meter, semconv.GEN_AI_SERVER_REQUEST_DURATION).bind({})
    bound.record(1.0, None)


@pytest.mark.fault(
    "export",
    "the metrics of many devices and requests are exported",
    "the interpreter lock is given away between metrics and between points, and the server's event loop goes on",
)
@pytest.mark.parametrize("direct", [True, False])
def test_collecting_and_encoding_metrics_give_the_interpreter_lock_away(
    monkeypatch: pytest.MonkeyPatch, paused: list[str], direct: bool
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    exporter = Encoded()
    made = providers.own(Resource({}), {"OTEL_TRACES_EXPORTER": "none"}, lambda *_: (exporter, None), direct=direct)
    measure(made.meter_provider.get_meter("test"))
    made.meter_provider.force_flush()  # type: ignore[attr-defined]
    assert exporter.points == POINTS + 1
    by_module = Counter(paused)
    assert by_module["instruments"] == POINTS  # observed
    assert by_module["metric_reader_storage"] >= 1 + (not made.direct)  # instruments that the SDK collects
    assert by_module["points"] >= len(made.direct)  # series of histograms
    assert by_module["__init__"] >= POINTS + 1 + 2  # encoded points and metrics
    made.shutdown()


def test_a_users_own_provider_is_collected_without_pauses(paused: list[str]) -> None:
    """The application may collect on its event loop."""
    reader = InMemoryMetricReader()
    measure(MeterProvider([reader], shutdown_on_exit=False).get_meter("test"))
    assert reader.get_metrics_data() is not None
    assert paused == []
