"""Makes OpenTelemetry instruments from rows of the contract, so that no name, unit or bucket is written twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from ai_otel.semconv import Metric

LARGEST = 2**63 - 1
"""The largest integer of OTLP. NaN and infinite values are of no use either: they spoil every sum."""

Observe = Callable[[], Iterable[Observation]]


def histogram(meter: Meter, metric: Metric) -> Histogram:
    """A histogram with the contract's buckets."""
    return meter.create_histogram(
        metric.name,
        unit=metric.unit,
        description=metric.description,
        explicit_bucket_boundaries_advisory=metric.buckets,
    )


def observable(meter: Meter, metric: Metric, observe: Observe) -> None:
    """
    An asynchronous instrument of the contract's kind; `observe` yields what is known and nothing else.

    A value that OTLP cannot carry is left out: the encoder would refuse it, and with it every point of the export.
    """
    create = {
        "counter": meter.create_observable_counter,
        "updowncounter": meter.create_observable_up_down_counter,
        "gauge": meter.create_observable_gauge,
    }[metric.instrument]

    def callback(_: CallbackOptions) -> Iterable[Observation]:
        return (each for each in observe() if _is_exportable(each.value))

    create(metric.name, callbacks=[callback], unit=metric.unit, description=metric.description)


def _is_exportable(value: float) -> bool:
    return -LARGEST <= value <= LARGEST  # NaN is not
