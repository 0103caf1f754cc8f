"""Makes OpenTelemetry instruments from rows of the contract, so that no name, unit or bucket is written twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from ai_otel.direct.binding import Adapted, BindableHistogram
from ai_otel.export.pauses import pause
from ai_otel.semconv import Metric

LARGEST = 2**63 - 1
"""The largest integer of OTLP. NaN and infinite values are of no use either: they spoil every sum."""

Observe = Callable[[], Iterable[Observation]]

_OBSERVED: WeakKeyDictionary[Meter, dict[str, Observe]] = WeakKeyDictionary()
"""Meter → name of an asynchronous instrument → what its callback calls."""


def histogram(meter: Meter, metric: Metric) -> BindableHistogram | Adapted:
    """A histogram with the contract's buckets."""
    made = meter.create_histogram(
        metric.name,
        unit=metric.unit,
        description=metric.description,
        explicit_bucket_boundaries_advisory=metric.buckets,
    )
    return made if isinstance(made, BindableHistogram) else Adapted(made)


def observable(meter: Meter, metric: Metric, observe: Observe) -> None:
    """
    An asynchronous instrument of the contract's kind; `observe` yields what is known and nothing else.

    A value that OTLP cannot carry is left out: the encoder would refuse it, and with it every point of the export.

    The SDK keeps the first callback of an instrument for as long as the provider lives. It is therefore registered once
    for a meter and calls the latest `observe`, so that a process can be instrumented again on its own provider.
    """
    observed, name = _OBSERVED.setdefault(meter, {}), metric.name
    registered, observed[name] = name in observed, observe
    if registered:
        return
    create = {
        "counter": meter.create_observable_counter,
        "updowncounter": meter.create_observable_up_down_counter,
        "gauge": meter.create_observable_gauge,
    }[metric.instrument]

    def callback(_: CallbackOptions) -> Iterable[Observation]:
        for each in observed[name]():
            if _is_exportable(each.value):
                yield each
            pause()

    create(name, callbacks=[callback], unit=metric.unit, description=metric.description)


def silencer(*meters: Meter) -> Callable[[], None]:
    """Return a function that ends the present observations of these meters, and none that have replaced them."""
    present = [(observed, dict(observed)) for meter in meters if (observed := _OBSERVED.get(meter)) is not None]

    def silence() -> None:
        for observed, observations in present:
            for name, observe in observations.items():
                if observed[name] is observe:
                    observed[name] = _nothing

    return silence


def _nothing() -> Iterable[Observation]:
    return ()


def _is_exportable(value: float) -> bool:
    return -LARGEST <= value <= LARGEST  # NaN is not
