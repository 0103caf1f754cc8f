"""The benchmarks' own arithmetic: percentiles, intervals, what a request costs, and what the bytes say."""

from __future__ import annotations

import base64
import gzip
import json
import math
import urllib.request
from typing import Any

import children
import measure
import memory
import otlp
import pauses
import pytest
import targets
import totals
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def test_series_are_compared_round_by_round() -> None:
    one, other = measure.Series.of([4.0, 9.0]), measure.Series.of([2.0, 3.0])
    assert (one - other).values == [2.0, 6.0]
    assert (one / other).values == [2.0, 3.0]
    assert (one / other).best == 2.0
    assert one.each(2).median == 3.25


def test_a_ratio_to_nothing_is_not_a_number() -> None:
    assert math.isnan((measure.Series.of([1.0]) / measure.Series.of([0.0])).median)


def test_the_interval_is_that_of_students_t_distribution() -> None:
    low, high = measure.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert low == pytest.approx(3 - 2.776 * math.sqrt(2.5 / 5))
    assert high == pytest.approx(3 + 2.776 * math.sqrt(2.5 / 5))
    assert measure.interval([1.0]) == (-math.inf, math.inf)
    assert measure.student(200) == pytest.approx(1.972, abs=1e-3)


def test_percentiles_are_by_nearest_rank() -> None:
    assert measure.percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert measure.percentile(range(1, 101), 0.99) == 99
    assert measure.percentile([7.0], 0.99) == 7.0


def test_a_pause_counts_for_all_that_falls_due_within_it() -> None:
    # One gap of 20 ms in a second: what falls due in its first 10 ms waits 10 ms or more, which is 1 % of the time.
    assert pauses.delay([0.02], 1.0, 0.99) == pytest.approx(0.01, abs=1e-6)
    assert pauses.delay([0.005], 1.0, 0.99) == 0.0
    assert pauses.delay([0.02] * 50, 1.0, 0.5) == pytest.approx(0.01, abs=1e-6)
    assert pauses.delay([], 1.0, 0.99) == 0.0


def test_a_request_bears_its_part_of_an_export_of_metrics() -> None:
    request_s, export_s, count = 100e-6, 5e-3, 500
    window = {"process": count * request_s + export_s, "thread": count * 20e-6}
    single = {"process": request_s + export_s, "thread": 20e-6}
    found = totals.apart(window, single, count)
    assert found["export"] == pytest.approx(5000)
    assert found["thread"] == pytest.approx(20)
    assert found["total"] == pytest.approx(100 + 5000 / (totals.RATE * totals.INTERVAL_S))


def spans(*names: str, trace: bytes) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    scope.scope.name = "s"
    for name in names:
        parent = b"" if name == "chat" else b"\1" * 8
        span = scope.spans.add(name=name, kind=2 if not parent else 1, trace_id=trace, parent_span_id=parent)
        span.attributes.add(key="k").value.array_value.values.add().int_value = 7
    return request


def metrics(count: int) -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    scope = request.resource_metrics.add().scope_metrics.add()
    point = scope.metrics.add(name="h", unit="s").histogram.data_points.add(count=count, sum=2.0 * count)
    point.explicit_bounds.extend([1.0, 2.0])
    scope.metrics.add(name="lost").sum.data_points.add(as_int=3)
    return request


def body(request: Any, signal: str, *, name: str = "ai-otel", compressed: bool = False) -> dict[str, str]:
    data = request.SerializeToString()
    encoded = base64.b64encode(gzip.compress(data) if compressed else data).decode()
    return {"name": name, "signal": signal, "encoding": "gzip" if compressed else "", "body": encoded}


def test_the_recipe_is_what_one_request_makes() -> None:
    bodies = [
        body(spans("queue", "chat", trace=b"\1" * 16), "traces", compressed=True),
        body(spans("queue", "chat", trace=b"\2" * 16), "traces"),
        body(metrics(2), "metrics"),
        body(metrics(9), "metrics", name="other"),
    ]
    seen = otlp.arrived(bodies, "ai-otel")
    made = otlp.recipe(seen, 2)
    assert [(span["name"], span["attributes"]) for span in made["spans"]] == [
        ("chat", {"k": [7]}),
        ("queue", {"k": [7]}),
    ]
    (point,) = made["points"]
    assert (point["times"], point["value"], point["bounds"]) == (1.0, 2.0, [1.0, 2.0])
    assert seen.count("lost") == 3
    with pytest.raises(ValueError, match="4 spans of 3 requests"):
        otlp.recipe(seen, 3)


def test_equal_telemetry_has_an_equal_shape() -> None:
    one = otlp.arrived([body(spans("chat", trace=b"\1" * 16), "traces"), body(metrics(1), "metrics")], "ai-otel")
    other = otlp.arrived([body(spans("chat", trace=b"\2" * 16), "traces"), body(metrics(1), "metrics")], "ai-otel")
    more = otlp.arrived([body(spans("chat", "chat", trace=b"\3" * 16), "traces")], "ai-otel")
    assert otlp.shape(one) == otlp.shape(other)
    assert otlp.shape(one) != otlp.shape(more)


def test_the_sink_acknowledges_counts_and_keeps() -> None:
    with children.sink() as sink:
        sink.get("keep")
        data = spans("chat", trace=b"\1" * 16).SerializeToString()
        for _ in range(2):
            request = urllib.request.Request(f"{sink.url}/ai-otel/v1/traces", data=data)
            with urllib.request.urlopen(request, timeout=10) as response:
                assert response.status == 200
        assert sink.get("counts") == {"ai-otel/traces": {"requests": 2, "bytes": 2 * len(data)}}
        assert sink.bytes_of("ai-otel") == 2 * len(data)
        assert len(otlp.arrived(sink.get("bodies"), "ai-otel").spans) == 2


def test_memory_that_grows_in_the_last_third_is_no_bound() -> None:
    flat = memory.Flood([10.0, 40.0, 50.0, 50.0, 50.0, 50.0], served=9, rate=1.0, emitted=5, dropped=3, spans=0)
    growing = memory.Flood([10.0, 20.0, 30.0, 40.0, 50.0, 60.0], served=9, rate=1.0, emitted=5, dropped=4, spans=0)
    assert (flat.growth_mib, flat.added_mib, flat.unaccounted) == (0.0, 40.0, 1)
    assert (growing.growth_mib, growing.unaccounted) == (20.0, 0)


@pytest.mark.parametrize(("measured", "met"), [(0.29, True), (0.3, True), (0.31, False), (None, False)])
def test_a_target_is_met_by_the_figure_it_names(measured: float | None, met: bool) -> None:
    target = targets.Target("total", "total.ai-otel", "ratio", 0.3, "x")
    (judged,) = targets.judged({"total.ai-otel": {"median": 9.0, "ratio": measured}}, (target,))
    assert judged.met is met
    assert ("NOT MET" in str(judged)) is not met


def test_every_target_names_a_figure_of_the_result() -> None:
    figures = json.loads((children.HERE / "results/overhead.json").read_text())["figures"]
    keys = {figure["key"] for figure in figures}
    assert {target.key for target in (*targets.TARGETS, *targets.LIMITS)} <= keys
