"""
A meter provider whose histograms are direct.

All else is the SDK's: observable instruments, the reader, its thread, its timer, its exporter. What the histograms have
joins the SDK's metrics when the reader collects, so that the exporter sees one collection.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from opentelemetry.metrics import (
    CallbackT,
    Counter,
    Histogram,
    Meter,
    MeterProvider,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
    _Gauge,
)
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    Meter as SdkMeter,
    MeterProvider as SdkMeterProvider,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics._internal.aggregation import _ExplicitBucketHistogramAggregation
from opentelemetry.sdk.metrics._internal.instrument import _Histogram
from opentelemetry.sdk.metrics.export import Metric, MetricReader, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.metrics.view import DefaultAggregation, ExplicitBucketHistogramAggregation
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from ai_otel.direct.points import Choose, DirectHistogram, Stream, always, never, sampled_only
from ai_otel.direct.versions import limit_of, measures_itself

_FILTERS: Mapping[type[Any], Choose] = {
    TraceBasedExemplarFilter: sampled_only,
    AlwaysOnExemplarFilter: always,
    AlwaysOffExemplarFilter: never,
}


_ANOTHER_SDK = (AttributeError, KeyError, TypeError)
"""What is raised where the SDK keeps its parts elsewhere than in the versions that we know."""


class _Known(NamedTuple):
    """What the SDK's provider does with histograms."""

    reader: MetricReader
    aggregation: Any
    stream: Stream
    collect: Callable[..., MetricsData | None]
    """Collects for the reader."""

    def bounds_of(self, made: Any) -> Sequence[float] | None:
        """The boundaries of the SDK's histogram; `None` where it is not one of explicit buckets with all values."""
        try:
            # The SDK decides whose boundaries hold.
            like = self.aggregation._create_aggregation(made, None, lambda _: lambda **_: None, 0)  # noqa: SLF001
            usual = type(like) is _ExplicitBucketHistogramAggregation and like._record_min_max  # noqa: SLF001
            bounds: Sequence[float] | None = like._boundaries if usual else None  # noqa: SLF001
        except _ANOTHER_SDK:
            return None
        return bounds


def directed(provider: SdkMeterProvider, readers: Sequence[MetricReader]) -> MeterProvider:
    """Return a provider with direct histograms; the same one where they would not equal the SDK's."""
    try:
        known = _known(provider, *readers) if len(readers) == 1 else None
    except _ANOTHER_SDK:
        known = None
    return provider if known is None else DirectMeterProvider(provider, known)


def _known(provider: SdkMeterProvider, reader: MetricReader) -> _Known | None:
    config = provider._sdk_config  # noqa: SLF001 - no public name for any of this
    aggregation = reader._instrument_class_aggregation[_Histogram]  # noqa: SLF001
    choose = _FILTERS.get(type(config.exemplar_filter))
    usual = type(aggregation) in (DefaultAggregation, ExplicitBucketHistogramAggregation)
    if config.views or choose is None or not usual or measures_itself(reader):
        return None
    stream = Stream(
        temporality=reader._instrument_class_temporality[_Histogram],  # noqa: SLF001
        choose=choose,
        limit=limit_of(reader, _Histogram),
    )
    collect: Any = reader._collect  # noqa: SLF001
    return _Known(reader, aggregation, stream, collect) if collect is not None else None


class DirectMeterProvider(MeterProvider):
    """The SDK's provider, but for histograms."""

    direct = True

    def __init__(self, provider: SdkMeterProvider, known: _Known) -> None:
        self.sdk = provider
        self._known = known
        self._made_in = os.getpid()
        self._meters: dict[SdkMeter, DirectMeter] = {}
        self._histograms: dict[Histogram, Histogram] = {}
        self._started: dict[DirectHistogram, InstrumentationScope] = {}
        """Those with a series, in the order in which they had their first one."""
        known.reader._set_collect_callback(self._collect)  # type: ignore[arg-type]  # noqa: SLF001

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Meter:
        """The meter of a scope, the same each time."""
        meter = self.sdk.get_meter(name, version, schema_url, attributes)
        if not isinstance(meter, SdkMeter):
            return meter  # switched off, or shut down
        return self._meters.setdefault(meter, DirectMeter(meter, self.histogram))

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Collect and export."""
        return self.sdk.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """Collect and export for the last time."""
        self.sdk.shutdown(timeout_millis)

    def histogram(self, made: Any) -> Histogram:
        """The direct histogram for one that the SDK made, checked and keeps; the SDK's own records nothing."""
        found = self._histograms.get(made)
        if found is None:
            bounds = self._known.bounds_of(made)
            if bounds is None:
                return self._histograms.setdefault(made, made)
            found = DirectHistogram(
                made.name,
                made.unit,
                made.description,
                bounds=bounds,
                stream=self._known.stream,
                started=functools.partial(self._start, made.instrumentation_scope),
            )
            found = self._histograms.setdefault(made, found)
        return found

    def _start(self, scope: InstrumentationScope, histogram: DirectHistogram) -> None:
        self._started.setdefault(histogram, scope)

    def _collect(self, reader: MetricReader, timeout_millis: float = 10_000) -> MetricsData | None:
        others = self._known.collect(reader, timeout_millis=timeout_millis)
        if os.getpid() != self._made_in:
            return others  # in the child of a fork our lock may be held for good, and the values are the parent's
        found: dict[InstrumentationScope, list[Metric]] = {}
        now_ns = time.time_ns()
        with self._known.stream.lock:
            started = list(self._started.items())
        for histogram, scope in started:
            metric = histogram.collect(now_ns)
            if metric is not None:
                found.setdefault(scope, []).append(metric)
        return self._merged(found, others) if found else others

    def _merged(self, found: Mapping[InstrumentationScope, list[Metric]], others: MetricsData | None) -> MetricsData:
        """Both, by scope; the SDK collects for one resource."""
        scopes = {scope: ScopeMetrics(scope, metrics, scope.schema_url or "") for scope, metrics in found.items()}
        for each in others.resource_metrics[0].scope_metrics if others is not None else ():
            before = scopes.get(each.scope)
            metrics = [*before.metrics, *each.metrics] if before is not None else each.metrics
            scopes[each.scope] = ScopeMetrics(each.scope, metrics, each.schema_url)
        resource = self.sdk._sdk_config.resource  # noqa: SLF001
        return MetricsData([ResourceMetrics(resource, list(scopes.values()), resource.schema_url)])


class DirectMeter(Meter):
    """The SDK's meter, but for histograms."""

    def __init__(self, meter: SdkMeter, histogram: Callable[[Histogram], Histogram]) -> None:
        super().__init__(meter.name, meter.version, meter.schema_url)
        self._meter = meter
        self._histogram = histogram

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> Histogram:
        """A direct one."""
        return self._histogram(
            self._meter.create_histogram(
                name,
                unit,
                description,
                explicit_bucket_boundaries_advisory=explicit_bucket_boundaries_advisory,
            )
        )

    def create_counter(self, name: str, unit: str = "", description: str = "") -> Counter:
        """The SDK's."""
        return self._meter.create_counter(name, unit, description)

    def create_up_down_counter(self, name: str, unit: str = "", description: str = "") -> UpDownCounter:
        """The SDK's."""
        return self._meter.create_up_down_counter(name, unit, description)

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> _Gauge:
        """The SDK's."""
        return self._meter.create_gauge(name, unit, description)

    def create_observable_counter(
        self, name: str, callbacks: Sequence[CallbackT] | None = None, unit: str = "", description: str = ""
    ) -> ObservableCounter:
        """The SDK's."""
        return self._meter.create_observable_counter(name, callbacks, unit, description)

    def create_observable_up_down_counter(
        self, name: str, callbacks: Sequence[CallbackT] | None = None, unit: str = "", description: str = ""
    ) -> ObservableUpDownCounter:
        """The SDK's."""
        return self._meter.create_observable_up_down_counter(name, callbacks, unit, description)

    def create_observable_gauge(
        self, name: str, callbacks: Sequence[CallbackT] | None = None, unit: str = "", description: str = ""
    ) -> ObservableGauge:
        """The SDK's."""
        return self._meter.create_observable_gauge(name, callbacks, unit, description)
