"""
Histograms that cost little: a value is a few updates of numbers.

What is collected equals what the SDK collects after the same calls, in the SDK's own classes: explicit buckets, both
temporalities, exemplars by the SDK's three filters, its limit of attribute sets with the overflow point.
"""

from __future__ import annotations

import math
import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from time import time_ns
from typing import Any

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, HistogramDataPoint, Metric
from opentelemetry.trace import INVALID_SPAN, get_current_span

from ai_otel.direct.binding import Attributes, BindableHistogram
from ai_otel.direct.versions import OVERFLOW, cleaned, key_of
from ai_otel.export.pauses import Paused, pause

Mark = tuple[int, "int | None", "int | None"]
"""Time, trace and span of an exemplar."""
Choose = Callable[[Context], "Mark | None"]
"""The exemplar filter: what marks an exemplar in a context; `None` where it has none."""

_MOST = sys.float_info.max
"""The largest value: what is above it, infinity and huge integers, could not be sent, and no later value with it."""
_MOST_INT = 2**63 - 1


def sampled_only(context: Context) -> Mark | None:
    """The filter `trace_based`."""
    span = get_current_span(context).get_span_context()
    return (time_ns(), span.trace_id, span.span_id) if span.trace_flags.sampled else None


def always(context: Context) -> Mark | None:
    """The filter `always_on`."""
    current = get_current_span(context)
    if current == INVALID_SPAN:
        return time_ns(), None, None
    span = current.get_span_context()
    return time_ns(), span.trace_id, span.span_id


def never(_context: Context) -> Mark | None:
    """The filter `always_off`."""
    return None


class Stream:
    """
    What all histograms of a meter provider have in common, and how values are added to them.

    `limit` is how many sets of attributes a histogram may have; those beyond it are recorded in one point. The lock is
    held while the values of one request are recorded, or one series is collected: for microseconds.
    """

    __slots__ = ("_choose", "_last", "limit", "lock", "temporality")

    def __init__(self, temporality: AggregationTemporality, choose: Choose, limit: int) -> None:
        self.temporality = temporality
        self.limit = limit
        self.lock = threading.Lock()
        self._choose = choose
        self._last: tuple[Context | None, Mark | None] = (Context(), None)

    def record(self, values: Iterable[tuple[BoundSeries, float]], context: Context | None) -> None:
        """Record values that were measured in one context. Negative ones, NaN and infinity are ignored."""
        last = self._last
        mark = last[1] if last[0] is context else self._read(context)
        with self.lock:
            for bound, value in values:
                if 0 <= value <= _MOST:
                    series = bound.series
                    if series.closed:
                        series = bound.open()
                    index = bisect_left(series.bounds, value)
                    series.counts[index] += 1
                    series.sum += value
                    series.min = min(series.min, value)
                    series.max = max(series.max, value)
                    if mark is not None:
                        series.exemplars[index] = (value, mark, bound)

    def _read(self, context: Context | None) -> Mark | None:
        """Read the span of a context: once, though the parts of a request may be recorded one by one."""
        if not context:
            # As the SDK has it: the current context also where an empty one is passed.
            return self._choose(get_current())
        mark = self._choose(context)
        self._last = (context, mark)
        return mark


class Series:
    """The values of one set of attributes."""

    __slots__ = ("attributes", "bounds", "closed", "counts", "exemplars", "max", "min", "start_ns", "sum", "total")

    def __init__(self, attributes: Attributes, bounds: Sequence[float], start_ns: int) -> None:
        self.attributes = attributes
        self.bounds = bounds
        self.start_ns = start_ns
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0
        """Since the last collection."""
        self.total: float = 0
        """Until the last collection."""
        self.min, self.max = math.inf, -math.inf
        self.exemplars: dict[int, tuple[float, Mark, BoundSeries]] = {}
        """The last value of each bucket."""
        self.closed = False
        """Collected for the last time: a later value begins another one."""


_CLOSED = Series({}, (), 0)
_CLOSED.closed = True


class BoundSeries:
    """A histogram with one set of attributes."""

    __slots__ = ("attributes", "histogram", "key", "series")

    def __init__(self, histogram: DirectHistogram, attributes: Attributes | None) -> None:
        self.histogram = histogram
        self.attributes = attributes
        self.key = key_of(attributes or {})
        self.series = _CLOSED

    def record(self, value: float, context: Context | None) -> None:
        """Record a value that was measured in a context."""
        self.histogram.stream.record(((self, value),), context)

    def open(self) -> Series:
        """Find or begin the series that the next values go to; the lock is held."""
        self.series = self.histogram.series(self.key, self.attributes)
        return self.series


class DirectHistogram(BindableHistogram):
    """A histogram with explicit buckets. `started` is called when it has its first series."""

    def __init__(
        self,
        name: str,
        unit: str,
        description: str,
        *,
        bounds: Sequence[float],
        stream: Stream,
        started: Callable[[DirectHistogram], None],
    ) -> None:
        self.name, self.unit, self.description = name, unit, description
        self.bounds = tuple(bounds)
        self.stream = stream
        self._started = started
        self._series: dict[Any, Series] = {}
        self._collected_ns = 0
        """The last collection, from which the next series of a delta begin."""

    def bind(self, attributes: Attributes | None) -> BoundSeries:
        """Return the series with these attributes."""
        return BoundSeries(self, None if attributes is None else cleaned(attributes))

    def record(self, amount: float, attributes: Attributes | None = None, context: Context | None = None) -> None:
        """Record a value; who has many for the same attributes binds them."""
        self.bind(attributes).record(amount, context)

    @property
    def together(self) -> Callable[[Any, Context | None], None]:
        """Records many values of histograms of one provider."""
        return self.stream.record

    def series(self, key: Any, attributes: Attributes | None) -> Series:
        """Return the open series of a set of attributes, or the one for overflow; the lock is held."""
        found = self._series.get(key)
        if found is None and len(self._series) >= self.stream.limit:
            key, attributes = key_of(OVERFLOW), OVERFLOW
            found = self._series.get(key)
        if found is None:
            start_ns = self._collected_ns or time_ns()
            found = self._series[key] = Series(attributes or {}, self.bounds, start_ns)
            self._started(self)
        return found

    def collect(self, now_ns: int) -> Metric | None:
        """Everything that was recorded so far, or since the last collection; `None` where there is nothing."""
        delta = self.stream.temporality is AggregationTemporality.DELTA
        with self.stream.lock:
            if delta:
                series, self._series, self._collected_ns = list(self._series.values()), {}, now_ns
            else:
                series = list(self._series.values())
        points = []
        for each in series:
            points.append(self._point(each, now_ns, close=delta))
            pause()
        if not points:
            return None
        data = Histogram(data_points=points, aggregation_temporality=self.stream.temporality)
        return Metric(name=self.name, description=self.description, unit=self.unit, data=data)

    def _point(self, series: Series, now_ns: int, *, close: bool) -> HistogramDataPoint:
        with self.stream.lock:
            series.closed = close
            series.total, series.sum = series.sum + series.total, 0
            counts, exemplars, series.exemplars = tuple(series.counts), series.exemplars, {}
            total, smallest, largest = series.total, series.min, series.max
        return HistogramDataPoint(
            attributes=series.attributes,
            exemplars=Paused(_exemplar(*exemplars[index], series.attributes) for index in sorted(exemplars)),
            start_time_unix_nano=series.start_ns,
            time_unix_nano=now_ns,
            count=sum(counts),
            sum=total,
            bucket_counts=counts,
            explicit_bounds=self.bounds,
            min=smallest,
            max=largest,
        )


def _exemplar(value: float, mark: Mark, bound: BoundSeries, point: Attributes) -> Exemplar:
    """The measured attributes that the point does not have: those of a value in the overflow point."""
    measured, (at_ns, trace_id, span_id) = bound.attributes, mark
    filtered = {name: each for name, each in measured.items() if name not in point} if measured else None
    return Exemplar(filtered, value if value <= _MOST_INT else float(value), at_ns, span_id, trace_id)
