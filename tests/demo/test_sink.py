"""Where the demo's telemetry arrives, and the page that is made of it."""

from __future__ import annotations

import gzip
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from prometheus_client.parser import text_string_to_metric_families

from ai_otel.demo.endpoint import prometheus_name, render
from ai_otel.demo.sink import ArrivedMetric, Sink, listening

RESOURCE = Resource({"service.name": "demo", "service.instance.id": "one"})


@pytest.fixture
def sink() -> Iterator[Sink]:
    with listening({"/metrics": render}) as kept:
        yield kept


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_spans_arrive_from_the_sdks_own_exporter(sink: Sink, compression: Compression) -> None:
    provider = TracerProvider(resource=RESOURCE)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{sink.url}/v1/traces", compression=compression)))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("request", attributes={"tokens": 7, "reasons": ("stop",)}) as request:
        tracer.start_span("decode").end()
    trace_id = f"{request.get_span_context().trace_id:032x}"
    root = sink.roots([trace_id])[trace_id]
    assert (root.name, root.attributes, root.failed) == ("request", {"tokens": 7, "reasons": ("stop",)}, False)
    assert [child.name for child in sink.children(root)] == ["decode"]
    assert sink.roots(["0" * 32]) == {}
    provider.shutdown()


def page_of(sink: Sink) -> dict[str, dict[tuple[str, str], float]]:
    """Sample name → (one label's value, `le`) → value."""
    with urllib.request.urlopen(f"{sink.url}/metrics", timeout=5) as page:
        text = page.read().decode()
    samples: dict[str, dict[tuple[str, str], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.labels.get("kind", ""), sample.labels.get("le", "")
            samples.setdefault(sample.name, {})[key] = sample.value
            assert (sample.labels["job"], sample.labels["instance"]) == ("demo", "one")
    return samples


def test_metrics_become_prometheus_families(sink: Sink) -> None:
    exporter = OTLPMetricExporter(f"{sink.url}/v1/metrics", compression=Compression.Gzip)
    provider = MeterProvider([PeriodicExportingMetricReader(exporter, 3_600_000)], resource=RESOURCE)
    meter = provider.get_meter("test")
    tokens = meter.create_counter("gen.tokens", unit="{token}")
    tokens.add(3, {"kind": "in"})
    provider.force_flush()
    tokens.add(4, {"kind": "in"})
    tokens.add(1)
    meter.create_up_down_counter("running", unit="{request}").add(2)
    meter.create_gauge("cache.used", unit="1").set(0.25)
    duration = meter.create_histogram("duration", unit="s", explicit_bucket_boundaries_advisory=[0.1, 1])
    for value in (0.05, 0.5, 5):
        duration.record(value)
    provider.shutdown()
    samples = page_of(sink)
    assert samples["gen_tokens_total"] == {("in", ""): 7, ("", ""): 1}
    assert samples["running"] == {("", ""): 2}
    assert samples["cache_used_ratio"] == {("", ""): 0.25}
    assert samples["duration_seconds_bucket"] == {("", "0.1"): 1, ("", "1.0"): 2, ("", "+Inf"): 3}
    assert samples["duration_seconds_count"] == {("", ""): 3}
    assert samples["duration_seconds_sum"] == {("", ""): pytest.approx(5.55)}


@pytest.mark.parametrize(
    ("name", "unit", "kind", "expected"),
    [
        ("gen_ai.server.request.duration", "s", "histogram", "gen_ai_server_request_duration_seconds"),
        ("ai_otel.usage.input_tokens", "{token}", "sum", "ai_otel_usage_input_tokens"),
        ("hw.energy", "J", "sum", "hw_energy_joules"),
        ("hw.memory.usage", "By", "sum", "hw_memory_usage_bytes"),
        ("ai_otel.kv_cache.utilization", "1", "gauge", "ai_otel_kv_cache_utilization_ratio"),
        ("ai_otel.share", "1", "sum", "ai_otel_share"),
    ],
)
def test_a_name_is_the_one_that_prometheus_would_give(name: str, unit: str, kind: str, expected: str) -> None:
    assert prometheus_name(ArrivedMetric(name, unit, "", kind, monotonic=kind == "sum")) == expected


def test_what_is_no_page_is_not_found(sink: Sink) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{sink.url}/elsewhere", timeout=5)
    refused.value.close()
    assert refused.value.code == 404


def test_other_signals_are_accepted_and_left_alone(sink: Sink) -> None:
    request = urllib.request.Request(
        f"{sink.url}/v1/logs", gzip.compress(b"x"), {"Content-Encoding": "gzip"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.status == 200
    assert (list(sink.spans), sink.metrics) == ([], {})
