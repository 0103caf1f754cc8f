"""Makes OpenTelemetry instruments from rows of the contract, so that no name, unit or bucket is written twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from ai_otel.semconv import Metric

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
    """An asynchronous instrument of the contract's kind; `observe` yields what is known and nothing else."""
    create = {
        "counter": meter.create_observable_counter,
        "updowncounter": meter.create_observable_up_down_counter,
        "gauge": meter.create_observable_gauge,
    }[metric.instrument]

    def callback(_: CallbackOptions) -> Iterable[Observation]:
        return observe()

    create(metric.name, callbacks=[callback], unit=metric.unit, description=metric.description)
