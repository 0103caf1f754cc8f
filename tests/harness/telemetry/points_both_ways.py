"""Compares, for all records that a test emits, the metrics of the SDK's histograms with those of direct ones."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics import Histogram, MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

from ai_otel import semconv
from ai_otel.emit.metrics import MetricEmitter
from ai_otel.engine_counters import EngineCounters

CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA


def metrics_of(request: Any) -> Iterator[Any]:
    """All metrics of an export request."""
    return (metric for each in request.resource_metrics for scope in each.scope_metrics for metric in scope.metrics)


class Way:
    """An emitter on a provider of its own, with the SDK's histograms or with direct ones."""

    def __init__(self, temporality: AggregationTemporality, *, direct: bool) -> None:
        self._reader = InMemoryMetricReader(preferred_temporality={Histogram: temporality})
        sdk = SdkMeterProvider([self._reader], resource=Resource({}), shutdown_on_exit=False)
        provider: MeterProvider = sdk
        if direct:
            provider = importlib.import_module("ai_otel.direct.meters").directed(sdk, [self._reader])
            assert provider is not sdk
        self.emitter = MetricEmitter(
            provider.get_meter(semconv.SCOPE_GEN_AI, "1", semconv.SCHEMA_URL_GEN_AI),
            provider.get_meter(semconv.SCOPE, "1"),
            EngineCounters(),
        )

    def exported(self) -> Any:
        """What is exported, without its times; `None` where that is nothing."""
        data = self._reader.get_metrics_data()
        if data is None:
            return None
        request = encode_metrics(data)
        for metric in metrics_of(request):
            for point in (*metric.histogram.data_points, *metric.sum.data_points, *metric.gauge.data_points):
                point.start_time_unix_nano = point.time_unix_nano = 0
                for exemplar in point.exemplars:
                    exemplar.time_unix_nano = 0
        return request


class Pair:
    """Both ways, which emit the same records."""

    def __init__(self, temporality: AggregationTemporality) -> None:
        self._ways = Way(temporality, direct=False), Way(temporality, direct=True)

    def emit(self, record: Any, engine: str, context: Context | None) -> None:
        """Record the points of a record, twice."""
        for way in self._ways:
            way.emitter.emit(record, engine, context)

    def compare(self) -> Any:
        """Fail where the ways differ; what both export."""
        sdk, direct = (way.exported() for way in self._ways)
        assert direct == sdk, f"{direct}\n\ninstead of\n\n{sdk}"
        return direct


@pytest.fixture(autouse=True)
def measured_both_ways(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every record of a test is measured both ways, those of each emitter apart. Import it into a conftest.py."""
    try:
        importlib.import_module("ai_otel.direct.meters")
    except ImportError:  # an SDK that keeps its parts elsewhere
        yield []
        return
    emit, twins, records = MetricEmitter.emit, WeakKeyDictionary[MetricEmitter, list[Pair]](), list[Any]()
    pairs: list[Pair] = []
    own: set[int] = set()

    def both(self: MetricEmitter, record: Any, engine: str, context: Context | None) -> None:
        if id(self) not in own:
            if self not in twins:
                twins[self] = [Pair(CUMULATIVE), Pair(DELTA)]
                pairs.extend(twins[self])
                own.update(id(way.emitter) for pair in twins[self] for way in pair._ways)
            for pair in twins[self]:
                pair.emit(record, engine, context)
            records.append(record)
        emit(self, record, engine, context)

    monkeypatch.setattr(MetricEmitter, "emit", both)
    yield records
    for pair in pairs:
        pair.compare()
