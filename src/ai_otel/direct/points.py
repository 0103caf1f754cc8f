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
from collections.abc import Callable, Sequence
from time import time_ns
from typing import Any, NamedTuple

from opentelemetry.attributes import _clean_attribute_value
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics._internal._view_instrument_match import (
    _OVERFLOW_ATTRIBUTES,
    _OVERFLOW_KEY,
    _hash_attributes,
)
from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, HistogramDataPoint, Metric
from opentelemetry.trace import INVALID_SPAN, get_current_span

from ai_otel.direct.binding import Attributes, BindableHistogram
from ai_otel.export.pauses import Paused, pause

Ids = tuple["int | None", "int | None"]
"""Trace and span of an exemplar."""
Choose = Callable[[Context], "Ids | None"]
"""The exemplar filter: the ids of an exemplar in a context; `None` where it has none."""

_MOST = sys.float_info.max
"""The largest value: what is above it, infinity and huge integers, could not be sent, and no later value with it."""
_MOST_INT = 2**63 - 1


class Exemplars:
    """Reads the span of a context for exemplars: once, though a request has many points in the same context."""

    __slots__ = ("_choose", "last")

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self.last: tuple[Context | None, Ids | None] = (Context(), None)

    def read(self, context: Context | None) -> Ids | None:
        """The ids for an exemplar."""
        if not context:
            # As the SDK has it: the current context also where an empty one is passed.
            return self._choose(get_current())
        ids = self._choose(context)
        self.last = (context, ids)
        return ids


def sampled_ids(context: Context) -> Ids | None:
    """The filter `trace_based`."""
    span = get_current_span(context).get_span_context()
    return (span.trace_id, span.span_id) if span.trace_flags.sampled else None


def all_ids(context: Context) -> Ids | None:
    """The filter `always_on`."""
    current = get_current_span(context)
    if current == INVALID_SPAN:
        return None, None
    span = current.get_span_context()
    return span.trace_id, span.span_id


def no_ids(_context: Context) -> Ids | None:
    """The filter `always_off`."""
    return None


class Stream(NamedTuple):
    """What all histograms of a meter provider have in common."""

    temporality: AggregationTemporality
    exemplars: Exemplars
    limit: int
    """Sets of attributes of a histogram; those beyond it are recorded in one point."""
    lock: threading.Lock
    """Held while a value is recorded, or one series is collected: for microseconds."""


class _Series:
    """The values of one set of attributes."""

    __slots__ = ("attributes", "closed", "counts", "exemplars", "max", "min", "start_ns", "sum", "total")

    def __init__(self, attributes: Attributes, buckets: int, start_ns: int) -> None:
        self.attributes = attributes
        self.start_ns = start_ns
        self.counts = [0] * buckets
        self.sum: float = 0
        """Since the last collection."""
        self.total: float = 0
        """Until the last collection."""
        self.min, self.max = math.inf, -math.inf
        self.exemplars: dict[int, tuple[float, int, Ids, Attributes | None]] = {}
        """The last value of each bucket, with its time, span, and attributes."""
        self.closed = False
        """Collected for the last time: a later value begins another one."""


class BoundSeries:
    """Records values with one set of attributes."""

    __slots__ = ("_attributes", "_bounds", "_exemplars", "_histogram", "_key", "_lock", "_series")

    def __init__(self, histogram: DirectHistogram, attributes: Attributes | None) -> None:
        self._histogram = histogram
        self._attributes = attributes
        self._key = _hash_attributes(attributes or {})
        self._bounds = histogram.bounds
        self._lock = histogram.stream.lock
        self._exemplars = histogram.stream.exemplars
        self._series = _NONE

    def record(self, value: float, context: Context | None) -> None:
        """Record a value that was measured in a context. Negative values, NaN and infinity are ignored."""
        if not 0 <= value <= _MOST:
            return
        exemplars = self._exemplars
        last = exemplars.last
        ids = last[1] if last[0] is context else exemplars.read(context)
        with self._lock:
            series = self._series
            if series.closed:
                series = self._series = self._histogram.series(self._key, self._attributes)
            index = bisect_left(self._bounds, value)
            series.counts[index] += 1
            series.sum += value
            series.min = min(series.min, value)
            series.max = max(series.max, value)
            if ids is not None:
                series.exemplars[index] = (value, time_ns(), ids, self._attributes)


_NONE = _Series({}, 0, 0)
_NONE.closed = True


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
        self._series: dict[Any, _Series] = {}
        self._collected_ns = 0
        """The last collection, from which the next series of a delta begin."""

    def bind(self, attributes: Attributes | None) -> BoundSeries:
        """Return the series with these attributes."""
        return BoundSeries(self, None if attributes is None else _clean_attribute_value(attributes, None))

    def record(self, amount: float, attributes: Attributes | None = None, context: Context | None = None) -> None:
        """Record a value; who has many for the same attributes binds them."""
        self.bind(attributes).record(amount, context)

    def series(self, key: Any, attributes: Attributes | None) -> _Series:
        """Return the open series of a set of attributes, or the one for overflow; the lock is held."""
        found = self._series.get(key)
        if found is None and len(self._series) >= self.stream.limit:
            key, attributes = _OVERFLOW_KEY, _OVERFLOW_ATTRIBUTES
            found = self._series.get(key)
        if found is None:
            start_ns = self._collected_ns or time_ns()
            found = self._series[key] = _Series(attributes or {}, len(self.bounds) + 1, start_ns)
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

    def _point(self, series: _Series, now_ns: int, *, close: bool) -> HistogramDataPoint:
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


def _exemplar(value: float, at_ns: int, ids: Ids, measured: Attributes | None, point: Attributes) -> Exemplar:
    """The measured attributes that the point does not have: those of a value in the overflow point."""
    filtered = {name: each for name, each in measured.items() if name not in point} if measured else None
    trace_id, span_id = ids
    return Exemplar(filtered, value if value <= _MOST_INT else float(value), at_ns, span_id, trace_id)
