"""`tools/compare_otlp.py` finds what a refactoring changed, and nothing where nothing changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

import compare_otlp

Json = dict[str, Any]


def text(key: str, value: str) -> Json:
    return {"key": key, "value": {"stringValue": value}}


def span(name: str, trace: str, started: str, *attributes: Json) -> Json:
    return {"name": name, "spanId": trace, "startTimeUnixNano": started, "kind": 2, "attributes": list(attributes)}


def requests(trace: str, started: str, value: int) -> list[Json]:
    resource = {"attributes": [text("service.name", "vllm"), text("service.instance.id", trace)]}
    spans = {"scope": {"name": "s"}, "schemaUrl": "u", "spans": [span("chat m", trace, started, text("a", "b"))]}
    point = {"asInt": str(value), "timeUnixNano": started, "attributes": [text("m", "tiny")]}
    metric = {"name": "c", "unit": "{token}", "description": "d", "sum": {"isMonotonic": True, "dataPoints": [point]}}
    metrics = {"scope": {"name": "s"}, "metrics": [metric]}
    return [
        {"resourceSpans": [{"resource": resource, "scopeSpans": [spans]}]},
        {"resourceMetrics": [{"resource": resource, "scopeMetrics": [metrics]}]},
    ]


def captured(all_requests: list[Json]) -> compare_otlp.Capture:
    capture = compare_otlp.Capture()
    for request in all_requests:
        capture.add(request)
    return capture


BEFORE = requests("00aa11bb22cc33dd", "1", 7)


def test_runs_that_differ_in_ids_times_and_values_are_equal() -> None:
    assert compare_otlp.compare(captured(BEFORE), captured(requests("ff00ff00ff00ff00", "2", 9))) == 0


def _spans(request: list[Json]) -> Any:
    return request[0]["resourceSpans"][0]["scopeSpans"][0]


def _metric(request: list[Json]) -> Any:
    return request[1]["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]


@pytest.mark.parametrize(
    "change",
    [
        lambda request: _spans(request)["spans"][0].update(name="chat n"),
        lambda request: _spans(request)["spans"][0].update(attributes=[]),
        lambda request: _spans(request)["spans"][0].update(status={"code": 2}),
        lambda request: _spans(request).update(schemaUrl="v"),
        lambda request: _metric(request).update(unit="1"),
        lambda request: _metric(request)["sum"].update(isMonotonic=False),
        lambda request: _metric(request)["sum"]["dataPoints"][0].update(attributes=[text("m", "other")]),
        lambda request: request[0]["resourceSpans"][0]["resource"]["attributes"].pop(0),
    ],
)
def test_each_kind_of_change_is_found(change: Callable[[list[Json]], object]) -> None:
    after = copy.deepcopy(BEFORE)
    change(after)
    assert compare_otlp.compare(captured(BEFORE), captured(after)) > 0


def test_reworded_description_is_listed_and_is_no_difference(capsys: pytest.CaptureFixture[str]) -> None:
    after = copy.deepcopy(BEFORE)
    _metric(after)["description"] = "e"
    assert compare_otlp.compare(captured(BEFORE), captured(after)) == 0
    assert "c: 'd' → 'e'" in capsys.readouterr().out
