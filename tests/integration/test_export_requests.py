"""Requests of a limited size and saved batches also for metrics, and for what `OTEL_CONFIG_FILE` configures."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource

from ai_otel import providers
from ai_otel.export.spans import MAX_REQUEST_BYTES
from ai_otel.providers import Providers
from harness.telemetry.receiver import receiver, too_large

FILE = """\
file_format: "1.0"
tracer_provider:
  processors: [{PROCESSOR: {EXPORTER: {otlp_http: {endpoint: "URL/v1/traces"}}}}]
meter_provider:
  readers: [{periodic: {interval: 3600000, exporter: {otlp_http: {endpoint: "URL/v1/metrics"}}}}]
"""
BATCH = "batch: {schedule_delay: 3600000, exporter"
SLOW = "batch: {schedule_delay: 3600000, max_queue_size: 50, max_export_batch_size: 10, exporter"
SIMPLE = "simple: {exporter"

FromFile = Callable[..., Providers]


@pytest.fixture
def from_file(tmp_path: Path) -> FromFile:
    """Private providers of a file that export to a URL when they are flushed."""

    def read(url: str, processor: str = BATCH) -> Providers:
        path = tmp_path / "otel.yaml"
        path.write_text(FILE.replace("PROCESSOR: {EXPORTER", processor).replace("URL", url))
        made = providers.from_file(str(path), Resource({"service.name": "test"}))
        assert made is not None
        return made

    return read


def record(made: Providers, *names: str, **attributes: Any) -> None:
    for name in names:
        made.tracer_provider.get_tracer("test").start_span(name, attributes=attributes).end()


def counted(made: Providers) -> Any:
    """What the exporters counted when everything is exported; then they end, while the receiver still answers."""
    made.flush(30)
    counts = copy.deepcopy(made.exports)
    made.shutdown()
    return counts


NAMES = [f"span {index}" for index in range(100)]

needs_reader = pytest.mark.requires(module="opentelemetry.configuration")


@needs_reader
@pytest.mark.fault(
    "export",
    "one span of a batch is larger than the receiver accepts, and `OTEL_CONFIG_FILE` names the exporter",
    "the other spans arrive; this one is counted in ai_otel.export.failed",
)
@pytest.mark.parametrize("processor", [BATCH, SIMPLE], ids=["batch", "simple"])
def test_one_span_does_not_cost_the_others_with_a_file(from_file: FromFile, processor: str) -> None:
    with receiver(too_large(200_000)) as (found, url):
        made = from_file(url, processor)
        record(made, *NAMES)
        record(made, "culprit", text="x" * 300_000)
        counts = counted(made)
    assert sorted(found.spans) == sorted(NAMES)
    assert (counts.sent["traces"], counts.failed["traces"]) == (100, 1)


@needs_reader
def test_points_are_counted_with_a_file(from_file: FromFile) -> None:
    with receiver() as (found, url):
        made = from_file(url)
        made.meter_provider.get_meter("test").create_counter("requests").add(1)
        counts = counted(made)
        assert found.points
        assert (counts.sent["metrics"], counts.failed["metrics"]) == (1, 0)
    with receiver(lambda _path, _body: (400, {})) as (_, url):
        made = from_file(url)
        made.meter_provider.get_meter("test").create_counter("requests").add(1)
        assert counted(made).failed["metrics"] == 1


@needs_reader
def test_spans_that_the_queue_drops_are_counted_with_a_file(from_file: FromFile) -> None:
    answer, asked = threading.Event(), threading.Event()

    def slowly(_path: str, _body: bytes) -> tuple[int, dict[str, str]]:
        asked.set()
        answer.wait(10)
        return 200, {}

    with receiver(slowly) as (found, url):
        made = from_file(url, SLOW)
        record(made, *NAMES[:10])
        assert asked.wait(10)
        record(made, *NAMES * 10)
        answer.set()
        counts = counted(made)
        assert counts.dropped["traces"] >= 900
        assert counts.sent["traces"] == len(found.spans) == 1010 - counts.dropped["traces"]


@needs_reader
@pytest.mark.fault(
    "export",
    "an OTLP/HTTP endpoint that `OTEL_CONFIG_FILE` names answers with a redirect",
    "a failed export: counted in ai_otel.export.failed, and logged once with the URL to set",
)
def test_a_redirect_is_a_failed_export_with_a_file(from_file: FromFile, caplog: pytest.LogCaptureFixture) -> None:
    with receiver() as (target, final), receiver(lambda path, _: (307, {"Location": final + path})) as (_, url):
        made = from_file(url)
        record(made, "span")
        made.meter_provider.get_meter("test").create_counter("requests").add(1)
        counts = counted(made)
        assert (target.spans, target.methods) == ([], [])
    assert counts.failed == {"traces": 1, "metrics": 1}
    assert [line for line in caplog.messages if "answers 307" in line]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Providers]:
    """Private providers of the `OTEL_*` variables that export metrics when they are flushed."""

    def make(url: str) -> Providers:
        environment = {
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return providers.own(Resource({"service.name": "test"}), environment)

    return make


def count_many(made: Providers) -> None:
    counter = made.meter_provider.get_meter("test").create_counter("requests")
    for number in range(1500):
        counter.add(1, {"model": f"{number} " + "m" * 1000})


@pytest.mark.fault(
    "export",
    "a process has so many series that its metrics exceed the 1 MiB that the Collector accepts",
    "they are sent in several requests, and all points arrive",
)
def test_metrics_fit_the_receiver(own: Callable[[str], Providers]) -> None:
    with receiver(too_large(2**20)) as (found, url):
        made = own(url)
        count_many(made)
        counts = counted(made)
    assert (counts.sent["metrics"], counts.failed["metrics"]) == (1500, 0)
    assert max(found.sizes) <= MAX_REQUEST_BYTES


def test_a_refused_request_of_metrics_costs_its_own_points_only(own: Callable[[str], Providers]) -> None:
    refused = [400, 200]
    with receiver(lambda _path, _body: (refused.pop(0) if refused else 200, {})) as (found, url):
        made = own(url)
        count_many(made)
        made.meter_provider.force_flush()  # type: ignore[attr-defined]
        counts = copy.deepcopy(made.exports)
        assert counts is not None
        made.shutdown()
    assert counts.sent["metrics"] + counts.failed["metrics"] == 1500
    assert 500 < counts.sent["metrics"] < 1000
    assert found.points == counts.sent["metrics"] + 1500
