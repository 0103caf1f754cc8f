"""
A kit for tests: what ai-otel makes of a piece of code, without a Collector.

    from ai_otel.testing import captured

    with captured() as telemetry:
        serve_one_request()
        print(telemetry.tree())
        assert telemetry.spans[-1].attributes["ai_otel.outcome"] == "finished"

A hook that fails, which in production is swallowed and counted, fails the test.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from opentelemetry.context import get_current
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

from ai_otel import record, semconv
from ai_otel.gpu.source import Device, DeviceLost, GpuEvent, GpuReading, Unavailable
from ai_otel.hooks import guard
from ai_otel.recorder import Recorder
from ai_otel.settings import Environment, Settings
from ai_otel.start import Handle, current, instrument, uninstrument

_SHOWN = (
    semconv.ERROR_TYPE,
    semconv.HTTP_RESPONSE_STATUS_CODE,
    semconv.GEN_AI_RESPONSE_FINISH_REASONS,
    semconv.GEN_AI_USAGE_INPUT_TOKENS,
    semconv.GEN_AI_USAGE_OUTPUT_TOKENS,
)


class Clock:
    """A clock that stands still until it is advanced."""

    def __init__(self, now_ns: int = 1_700_000_000_000_000_000) -> None:
        self.now_ns = now_ns

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ns += round(seconds * 1e9)

    def time_ns(self) -> int:
        """The present, as `time.time_ns` returns it."""
        return self.now_ns

    perf_counter_ns = time_ns


class FakeGpu:
    """
    A GPU source with the devices and readings that a test gives it: `captured(…)` does not use it by itself.

        gpu = FakeGpu({Device("GPU-1", "nvidia"): GpuReading(power_w=300.0)})
        sampler = Sampler(lambda: {"nvidia": gpu})
    """

    vendor = "fake"

    def __init__(self, readings: Mapping[Device, GpuReading]) -> None:
        self.readings = dict(readings)
        """The reading that each device returns at the next sample."""
        self.lost: set[Device] = set()
        self.reported: list[GpuEvent] = []
        self.trouble: Unavailable | None = None
        """Why it cannot be opened."""
        self.opened = self.closed = 0

    def open(self) -> list[Device]:
        """All devices; raises `trouble`."""
        if self.trouble is not None:
            raise self.trouble
        self.opened += 1
        return list(self.readings)

    def read(self, device: Device) -> GpuReading:
        """A copy of the device's reading. Raises `DeviceLost`."""
        if device in self.lost:
            raise DeviceLost(device.id)
        return replace(self.readings[device], absent=dict(self.readings[device].absent))

    def read_energy(self, device: Device) -> float | None:
        """The reading's energy. Raises `DeviceLost`."""
        return self.read(device).energy_j

    def events(self) -> list[GpuEvent]:
        """What was reported since the last call."""
        events, self.reported = self.reported, []
        return events

    def close(self) -> None:
        """Count it."""
        self.closed += 1


class _CountingIds(IdGenerator):
    """1, 2, 3: the same in every run."""

    def __init__(self) -> None:
        self._traces, self._spans = itertools.count(1), itertools.count(1)

    def generate_span_id(self) -> int:
        return next(self._spans)

    def generate_trace_id(self) -> int:
        return next(self._traces)


class _Bench(Handle):
    """A handle that observes no engine by itself, and speaks for one that is named."""

    named = ""

    @property
    def engine(self) -> str | None:
        return super().engine or self.named or None


class Captured:
    """What was emitted so far. Each access first hands over everything that has ended."""

    def __init__(
        self, exporter: InMemorySpanExporter, reader: InMemoryMetricReader, failures: list[BaseException]
    ) -> None:
        self._exporter, self._reader, self._failures = exporter, reader, failures
        self.handle: Handle

    @property
    def recorder(self) -> Recorder:
        """Where records are opened and closed."""
        return self.handle.recorder

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """Ended spans, in the order in which they ended: children before their parents."""
        self._flush()
        return tuple(self._exporter.get_finished_spans())

    def metrics(self) -> MetricsData | None:
        """Everything measured so far, exemplars since the last call; `None` while nothing is."""
        self._flush()
        return self._reader.get_metrics_data()

    def points(self, name: str) -> list[Any]:
        """The data points of one metric; none where nothing is known."""
        data = self.metrics()
        scopes = [scope for each in data.resource_metrics for scope in each.scope_metrics] if data else []
        found = [metric for scope in scopes for metric in scope.metrics if metric.name == name]
        return [point for metric in found for point in metric.data.data_points]

    def tree(self) -> str:
        """The spans as an indented tree, one line each: name, kind, outcome, and what matters most beside them."""
        spans = sorted(self.spans, key=lambda span: (span.start_time or 0, span.context.span_id))
        known = {span.context.span_id for span in spans}
        roots = [span for span in spans if span.parent is None or span.parent.span_id not in known]
        return "\n".join(line for root in roots for line in _lines(root, spans, 0))

    def _flush(self) -> None:
        # The records only: to flush the meter provider is to collect, which forgets the exemplars.
        flushed = self.recorder.flush()
        if self._failures:
            raise AssertionError(f"a hook of ai-otel failed: {self._failures[0]!r}") from self._failures[0]
        if not flushed:
            raise TimeoutError("ai-otel did not hand over its records in 5 s")


def _lines(span: ReadableSpan, spans: list[ReadableSpan], depth: int) -> Iterator[str]:
    attributes = span.attributes or {}
    shown = [f"{name}={attributes[name]!s}" for name in _SHOWN if name in attributes]
    outcome = [str(attributes[semconv.AI_OTEL_OUTCOME])] if semconv.AI_OTEL_OUTCOME in attributes else []
    yield " ".join(["  " * depth + span.name, span.kind.name, *outcome, *shown])
    for child in spans:
        if child.parent is not None and child.parent.span_id == span.context.span_id:
            yield from _lines(child, spans, depth + 1)


@contextmanager
def captured(
    *, attach: bool = True, engine: str = "", clock: Clock | None = None, **settings: Any
) -> Iterator[Captured]:
    """
    Capture what ai-otel emits while the block runs. Keyword arguments are the fields of `Settings`.

    With `attach` the process is instrumented as `ai_otel.instrument()` does it; without, only records that the test
    itself makes on `.recorder` are captured, and `engine` is whom they speak for where no inference says it. With a
    `clock`, records take their times from it.

    Raises `RuntimeError` where the process is instrumented already, `AssertionError` where a hook failed.
    """
    if attach and current() is not None:
        raise RuntimeError("ai-otel is on already: call ai_otel.uninstrument() before captured()")
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider(sampler=ParentBased(ALWAYS_ON), id_generator=_CountingIds(), shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader], shutdown_on_exit=False)
    settings = {"flush_interval": 0.001, "gpu": "none", **settings}
    with ExitStack() as stack:
        failures = stack.enter_context(guard.strict())
        stack.enter_context(_own_errors())
        if clock is not None:
            stack.enter_context(_times_from(clock))
        telemetry = Captured(exporter, reader, failures)
        if attach:
            telemetry.handle = instrument(tracer_provider=tracers, meter_provider=meters, **settings)
            stack.callback(uninstrument)
        else:
            chosen = Settings.from_environment({}, **settings)
            telemetry.handle = bench = _Bench(chosen, Environment.read({}), tracers, meters)
            bench.named = engine
            bench.recorder.capture = get_current
            stack.callback(bench.stop)
        yield telemetry
        telemetry._flush()  # noqa: SLF001 - of this module


@contextmanager
def _own_errors() -> Iterator[None]:
    kept = [(shared, shared.copy()) for shared in (guard.errors, guard.disabled)]
    guard.errors.clear()
    guard.disabled.clear()
    try:
        yield
    finally:
        for shared, before in kept:
            shared.clear()
            shared.update(before)


@contextmanager
def _times_from(clock: Clock) -> Iterator[None]:
    names = vars(record)
    before, names["time"] = names["time"], clock
    try:
        yield
    finally:
        names["time"] = before
