from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from ai_otel.emit.health import observe_health
from ai_otel.export.counts import ExportCounts
from ai_otel.hooks import guard
from ai_otel.testing import captured
from records import call, deliver, inference


def observed(
    dropped: dict[str, int], open_count: int, errors: dict[str, int], disabled: set[str], exports: ExportCounts | None
) -> dict[str, dict[tuple[str, ...], Any]]:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("ai_otel")
    records = SimpleNamespace(dropped=dropped, open_count=open_count)
    observe_health(meter, records, SimpleNamespace(errors=errors, disabled=disabled), lambda: exports)
    data = reader.get_metrics_data()
    assert data is not None
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    return {
        metric.name: {tuple((point.attributes or {}).values()): point.value for point in metric.data.data_points}
        for metric in metrics
    }


def test_losses_and_failures_are_measured() -> None:
    exports = ExportCounts()
    exports.sent.update(traces=90, metrics=50)
    exports.failed.update(traces=7, metrics=0)
    exports.dropped.update(traces=3)
    found = observed({"queue_full": 3, "fork": 1}, 2, {"vllm:generate": 12}, {"vllm:generate"}, exports)
    assert found == {
        "ai_otel.record.dropped": {("queue_full",): 3, ("fork",): 1},
        "ai_otel.record.open": {(): 2},
        "ai_otel.export.sent": {("traces",): 90, ("metrics",): 50},
        "ai_otel.export.failed": {("traces",): 7, ("metrics",): 0},
        "ai_otel.export.dropped": {("traces",): 3},
        "ai_otel.hook.errors": {("vllm:generate",): 12},
        "ai_otel.hook.disabled": {("vllm:generate",): 1},
    }


def test_without_failures_only_open_records_are_exported() -> None:
    assert observed({}, 0, {}, set(), None) == {"ai_otel.record.open": {(): 0}}


def test_the_handle_exports_its_recorder_and_its_guards() -> None:
    with captured(attach=False) as telemetry:
        deliver(telemetry, call(inference()))
        telemetry.recorder.flush()
        telemetry.recorder.open("chat")
        telemetry.recorder.dropped["queue_full"] += 4
        guard.errors["some hook"] += 2
        guard.disabled.add("some hook")
        found = {
            name: [point.value for point in telemetry.points(f"ai_otel.{name}")]
            for name in ("record.open", "record.dropped", "hook.errors", "hook.disabled")
        }
    assert found == {"record.open": [1], "record.dropped": [4], "hook.errors": [2], "hook.disabled": [1]}
    assert guard.errors["some hook"] == 0  # one test's troubles are not the next one's
