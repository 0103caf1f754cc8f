"""Direct histograms export what the SDK's export after the same calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, strategies as st
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import Histogram, MeterProvider
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    Histogram as SdkHistogram,
    MeterProvider as SdkMeterProvider,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from ai_otel.direct.binding import BindableHistogram

meters = pytest.importorskip("ai_otel.direct.meters", exc_type=ImportError)  # an SDK that keeps its parts elsewhere

BOUNDS = (0.0, 1.0, 2.5, 10.0)
FILTERS = (TraceBasedExemplarFilter, AlwaysOnExemplarFilter, AlwaysOffExemplarFilter)
# Before 1.45 the SDK limits no attributes, checks no values, and keeps the series of a delta for good.
LIMITED = hasattr(InMemoryMetricReader(), "_instrument_class_cardinality_limit")
UNLIMITED = 2000
limited = pytest.mark.skipif(not LIMITED, reason="this version of the SDK has no limit")

CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA

# Histograms of two scopes; one without boundaries of its own, for which the SDK's default holds.
HISTOGRAMS: Sequence[tuple[str, str, Sequence[float] | None]] = (
    ("first", "http.duration", BOUNDS),
    ("first", "tokens", None),
    ("second", "http.duration", (5.0,)),
)


def context_of(number: int, *, sampled: bool) -> Context:
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return trace.set_span_in_context(
        NonRecordingSpan(SpanContext(number, number + 1, is_remote=False, trace_flags=flags))
    )


SPANS = [context_of(1, sampled=True), context_of(2, sampled=True), context_of(3, sampled=False)]
WITHOUT = [None, Context(), Context({"other": 1}), trace.set_span_in_context(trace.INVALID_SPAN)]


class Way:
    """One way to emit: a provider, its histograms, its collections."""

    def __init__(
        self,
        through: Callable[[SdkMeterProvider, list[Any]], MeterProvider],
        *,
        temporality: AggregationTemporality = CUMULATIVE,
        exemplar_filter: type[Any] = TraceBasedExemplarFilter,
        limit: int = UNLIMITED,
    ) -> None:
        limits: dict[str, Any] = {} if limit == UNLIMITED else {"cardinality_limits": {SdkHistogram: limit}}
        self.reader = InMemoryMetricReader(preferred_temporality={SdkHistogram: temporality}, **limits)
        self._delta = temporality is DELTA
        sdk = SdkMeterProvider(
            [self.reader],
            resource=Resource({"service.name": "test"}, "https://example.com/resource"),
            exemplar_filter=exemplar_filter(),
            shutdown_on_exit=False,
        )
        self.provider = through(sdk, [self.reader])
        self._symbols: dict[int, str] = {}
        self.histograms: list[Histogram] = [
            self.provider.get_meter(scope, "1", f"https://example.com/{scope}").create_histogram(
                name, "s", f"The {name}", explicit_bucket_boundaries_advisory=bounds
            )
            for scope, name, bounds in HISTOGRAMS
        ]

    def collect(self) -> MetricsData | None:
        return self.reader.get_metrics_data()

    def exported(self) -> ExportMetricsServiceRequest | None:
        """What is exported; each time is replaced by when it was first seen."""
        data = self.collect()
        if data is None:
            return None
        request = encode_metrics(data)
        points = list(points_of(request))
        for point in points:
            assert point.start_time_unix_nano <= point.time_unix_nano
            for exemplar in point.exemplars:
                assert 0 < exemplar.time_unix_nano <= point.time_unix_nano
                exemplar.time_unix_nano = 0
            known = LIMITED or not self._delta
            point.start_time_unix_nano = self.symbol(point.start_time_unix_nano, "began") if known else 0
        for point in points:
            point.time_unix_nano = self.symbol(point.time_unix_nano, "collected")
        if not LIMITED:
            for metric in metrics_of(request):
                metric.histogram.data_points.sort(key=lambda point: str(point.attributes))
        return request

    def symbol(self, time_ns: int, kind: str) -> int:
        self._symbols.setdefault(time_ns, kind)
        return 1 + list(self._symbols).index(time_ns)


def metrics_of(request: ExportMetricsServiceRequest) -> Iterable[Any]:
    return (metric for each in request.resource_metrics for scope in each.scope_metrics for metric in scope.metrics)


def points_of(request: ExportMetricsServiceRequest) -> Iterable[Any]:
    return (point for metric in metrics_of(request) for point in metric.histogram.data_points)


def direct(provider: SdkMeterProvider, readers: list[Any]) -> MeterProvider:
    made: MeterProvider = meters.directed(provider, readers)
    assert isinstance(made, meters.DirectMeterProvider)
    return made


def ways(**options: Any) -> list[Way]:
    return [Way(lambda provider, _: provider, **options), Way(direct, **options)]


# ---------------------------------------------------------------- equal to the SDK's

values = st.one_of(
    st.sampled_from([0, 0.0, 1, 1.0, 2.5, 10, 10.1, -1, -0.5, *([math.nan, math.inf] * LIMITED), 1e308, 2**62]),
    st.floats(0, 20),
    st.integers(0, 50),
)
attributes = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(["a", "b"]),
        st.sampled_from(["x", "y", 1, *([True, 1.0, ("x", "y"), ["x", "y"], (1, 2), None] * LIMITED)]),
        max_size=2,
    ),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.integers(0, len(HISTOGRAMS) - 1), values, attributes, st.integers(0, 6)),
        st.just("collect"),
    ),
    max_size=40,
)


@given(
    steps=steps,
    temporality=st.sampled_from([CUMULATIVE, DELTA]),
    exemplar_filter=st.sampled_from(FILTERS),
    limit=st.sampled_from([*([1, 2, 4] * LIMITED), UNLIMITED]),
)
def test_the_same_calls_export_the_same(
    steps: list[Any], temporality: AggregationTemporality, exemplar_filter: type[Any], limit: int
) -> None:
    # Without a span the SDK's `always_on` keeps the ids of the value before it: see below.
    contexts = SPANS if exemplar_filter is AlwaysOnExemplarFilter else [*SPANS, *WITHOUT]
    both = ways(temporality=temporality, exemplar_filter=exemplar_filter, limit=limit)
    kept: dict[str, Any] = {}
    for step in [*steps, "collect", "collect"]:
        if step == "collect":
            sdk, lean = (way.exported() for way in both)
            assert sdk == lean
            continue
        histogram, value, given_attributes, context = step
        where = contexts[context % len(contexts)]
        for way in both:
            way.histograms[histogram].record(value, given_attributes, where)
        # Bound once, as emitters do it, and kept over collections.
        bindable = both[1].histograms[histogram]
        assert isinstance(bindable, BindableHistogram)
        bound = kept.setdefault(f"{histogram} {given_attributes!r}", bindable.bind(given_attributes))  # type: ignore[arg-type]
        both[0].histograms[histogram].record(value, given_attributes, where)
        bound.record(value, where)


@limited
@pytest.mark.parametrize("temporality", [CUMULATIVE, DELTA])
def test_attributes_beyond_the_limit_share_a_point_whose_exemplars_name_them(
    temporality: AggregationTemporality,
) -> None:
    both = ways(temporality=temporality, limit=2)
    for _ in range(2):
        for way in both:
            for value, name in enumerate("abcab"):
                way.histograms[0].record(value, {"name": name}, SPANS[0])
        sdk, lean = (way.exported() for way in both)
        assert sdk == lean
        assert lean is not None
        *_, overflow = points_of(lean)
        assert [each.key for each in overflow.attributes] == ["otel.metric.overflow"]
        assert [each.filtered_attributes[0].value.string_value for each in overflow.exemplars] == ["c"]


def test_the_current_context_holds_where_none_is_passed() -> None:
    both = ways()
    for context in SPANS[:2]:
        token = attach(context)
        for way in both:
            way.histograms[0].record(1.0)
            way.histograms[0].record(5.0, {}, Context())
        detach(token)
        sdk, lean = (way.exported() for way in both)
        assert sdk == lean
        assert lean is not None
        assert [each.span_id[-1] for point in points_of(lean) for each in point.exemplars] == [
            context_span(context),
            context_span(context),
        ]


def context_span(context: Context) -> int:
    return trace.get_current_span(context).get_span_context().span_id


def test_always_on_never_takes_the_span_of_another_value() -> None:
    """As the SDK's would: its buckets keep the ids of the value before."""
    way = Way(direct, exemplar_filter=AlwaysOnExemplarFilter)
    way.histograms[0].record(1.0, None, SPANS[0])
    way.histograms[0].record(0.9, None, Context({"other": 1}))
    exported = way.exported()
    assert exported is not None
    ((exemplar,),) = [point.exemplars for point in points_of(exported)]
    assert (exemplar.as_double, exemplar.trace_id, exemplar.span_id) == (0.9, b"", b"")


def test_a_second_instrument_of_the_same_name_is_the_same() -> None:
    way = Way(direct)
    scope, name, bounds = HISTOGRAMS[0]
    meter = way.provider.get_meter(scope, "1", f"https://example.com/{scope}")
    again = meter.create_histogram(name, "s", f"The {name}", explicit_bucket_boundaries_advisory=bounds)
    assert again is way.histograms[0]


@pytest.mark.fault(
    "export", "an engine reports a token count beyond 64 bits", "its histogram and all other metrics are exported"
)
@pytest.mark.parametrize("value", [2**63, 10**30, 10**400])
def test_a_huge_integer_costs_no_export(value: int) -> None:
    way = Way(direct)
    way.histograms[0].record(1, None, SPANS[0])
    way.histograms[0].record(value, None, SPANS[0])
    exported = way.exported()
    assert exported is not None
    (point,) = points_of(exported)
    assert point.count == (2 if value < 10**300 else 1)
