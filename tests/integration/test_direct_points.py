"""Direct histograms while another thread collects."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, HistogramDataPoint, InMemoryMetricReader

from ai_otel.direct.binding import BindableHistogram
from isolated import python

meters = pytest.importorskip("ai_otel.direct.meters", exc_type=ImportError)  # an SDK that keeps its parts elsewhere

RECORDS, SERIES = 60_000, 7


@pytest.fixture
def switches() -> Iterator[None]:
    """Threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def points(reader: InMemoryMetricReader) -> dict[str, HistogramDataPoint]:
    data = reader.get_metrics_data()
    if data is None:
        return {}
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    return {str((point.attributes or {})["series"]): point for point in metric.data.data_points}  # type: ignore[misc]


@pytest.mark.usefixtures("switches")
@pytest.mark.parametrize("temporality", [AggregationTemporality.DELTA, AggregationTemporality.CUMULATIVE])
def test_a_collection_while_values_are_recorded_loses_and_doubles_none(temporality: AggregationTemporality) -> None:
    reader = InMemoryMetricReader(preferred_temporality={Histogram: temporality})
    provider = meters.directed(MeterProvider([reader], shutdown_on_exit=False), [reader])
    histogram = provider.get_meter("test").create_histogram("h", explicit_bucket_boundaries_advisory=[1.0, 2.0])
    assert isinstance(histogram, BindableHistogram)

    def record() -> None:
        bound = [histogram.bind({"series": str(number)}) for number in range(SERIES)]
        for number in range(RECORDS):
            bound[number % SERIES].record(number % 4, None)

    threads = [threading.Thread(target=record) for _ in range(2)]
    collections = []
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        collections.append(points(reader))
    collections.append(points(reader))
    assert len(collections) > 20

    expected = dict.fromkeys(map(str, range(SERIES)), 0)
    sums = dict.fromkeys(expected, 0)
    for number in range(RECORDS):
        expected[str(number % SERIES)] += 2
        sums[str(number % SERIES)] += 2 * (number % 4)
    delta = temporality is AggregationTemporality.DELTA
    found = dict.fromkeys(expected, 0)
    found_sums: dict[str, float] = dict.fromkeys(expected, 0)
    for collected in collections:
        for series, point in collected.items():
            assert point.count == sum(point.bucket_counts)
            assert delta or point.count >= found[series]
            found[series] = point.count + (found[series] if delta else 0)
            found_sums[series] = point.sum + (found_sums[series] if delta else 0)
    assert found == expected
    assert found_sums == sums


FORKED = """
import os, sys, warnings
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult
from opentelemetry.sdk.resources import Resource
from ai_otel import providers

class Printing(MetricExporter):
    def export(self, data, timeout_millis=10_000, **_):
        for scope in data.resource_metrics[0].scope_metrics:
            for metric in scope.metrics:
                print(who, scope.scope.name, metric.data.data_points[0].count, flush=True)
        return MetricExportResult.SUCCESS
    def force_flush(self, timeout_millis=10_000):
        return True
    def shutdown(self, timeout_millis=30_000, **_):
        pass

warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on Python warns of a fork beside threads

def made(scope):
    own = providers.own(Resource({}), {"OTEL_TRACES_EXPORTER": "none"}, lambda *_: (Printing(), None))
    assert own.direct == ("metrics",)
    histogram = own.meter_provider.get_meter(scope).create_histogram("h")
    histogram.record(1.0)
    return own, histogram

who = "parent"
parents, histogram = made("of the parent")
parents.meter_provider.force_flush()
# Another thread records: it does not exist in the child, and its lock is never released there.
lock = histogram.stream.lock
lock.acquire()
child = os.fork()
if child == 0:
    who = "child"
    parents.meter_provider.force_flush()
    own, _ = made("of the child")
    own.shutdown()
    parents.meter_provider.shutdown()
    os._exit(0)
lock.release()
assert os.waitpid(child, 0)[1] == 0
histogram.record(1.0)
parents.meter_provider.shutdown()
"""


@pytest.mark.fault(
    "export",
    "a server forks while a request's metrics are recorded",
    "the child does not wait, and exports what it measured itself and nothing of its parent's",
)
def test_the_child_of_a_fork_exports_its_own_values_once() -> None:
    printed = python(FORKED, OTEL_METRIC_EXPORT_INTERVAL="3600000")
    assert printed.splitlines() == ["parent of the parent 1", "child of the child 1", "parent of the parent 2"]
