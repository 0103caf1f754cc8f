"""What emitters know of a histogram, the SDK's or a direct one: it is bound to attributes, then recorded to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, MeterProvider

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader

Attributes = Mapping[str, Any]


class Bound(Protocol):
    """A histogram with the attributes of one series. It may be kept for as long as its meter provider lives."""

    def record(self, value: float, context: Context | None) -> None:
        """Record a value that was measured in a context."""


Values = Iterable[tuple[Bound, float]]


class BindableHistogram(Histogram):
    """A histogram whose series are looked up once."""

    @abstractmethod
    def bind(self, attributes: Attributes) -> Bound:
        """Return the series with these attributes."""

    @property
    @abstractmethod
    def together(self) -> Callable[[Any, Context | None], None]:
        """Records many values in one context, of all histograms that have the same `together`."""


class Adapted(NamedTuple):
    """A histogram of any meter provider, such as the user's: the provider finds its series again at every value."""

    histogram: Histogram

    def bind(self, attributes: Attributes) -> Bound:
        """Return the series with these attributes."""
        return _Adapted(self.histogram, attributes)


def recorder(histograms: Iterable[BindableHistogram | Adapted]) -> Callable[[Values, Context | None], None]:
    """Return what records values of these histograms that were measured in one context."""
    ways = {each.together if isinstance(each, BindableHistogram) else _one_by_one for each in histograms}
    return ways.pop() if len(ways) == 1 else _one_by_one


def _one_by_one(values: Values, context: Context | None) -> None:
    for bound, value in values:
        bound.record(value, context)


class _Adapted(NamedTuple):
    histogram: Histogram
    attributes: Attributes

    def record(self, value: float, context: Context | None) -> None:
        self.histogram.record(value, self.attributes, context)


def with_direct_histograms(provider: SdkMeterProvider, readers: Sequence[MetricReader]) -> MeterProvider:
    """Return a provider with direct histograms; the same one where they are not known to equal the SDK's."""
    try:
        from ai_otel.direct.meters import directed
    except ImportError:  # another version of the SDK
        return provider
    return directed(provider, readers)
