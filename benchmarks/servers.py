"""The same server three times: as it is, with the floor written into it by hand, and with ai-otel."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from ai_otel.engines import ENGINES
from ai_otel.hooks import guard
from ai_otel.settings import Environment, Settings
from ai_otel.start import Handle

HERE = Path(__file__).parent

VLLM = ("vllm", "vllm.v1.engine.async_llm", "vllm.v1.engine.output_processor")
STARLETTE = ("starlette.applications",)

Serve = Callable[[], Coroutine[Any, Any, None]]


class Counted(SpanExporter):
    """Exports to nowhere, and counts: a dropped span would understate the cost."""

    def __init__(self) -> None:
        self.count = 0
        self.last: Sequence[ReadableSpan] = ()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Take them."""
        self.count += len(spans)
        self.last = spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing to do."""


class Telemetry:
    """The SDK as a server would have it: sampled in full, batched, exported to nowhere."""

    def __init__(self) -> None:
        self.exporter = Counted()
        self.reader: MetricReader = InMemoryMetricReader()
        resource = Resource({"service.name": "benchmark"})
        self.tracer_provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(BatchSpanProcessor(self.exporter))
        self.meter_provider = MeterProvider([self.reader], resource=resource, shutdown_on_exit=False)

    def flush(self) -> None:
        """Export all spans. Metrics are collected once a minute, independent of the load, and are excluded."""
        assert self.tracer_provider.force_flush(30_000)

    def shutdown(self) -> None:
        """End its threads."""
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


class Server:
    """Serves requests one after another, in one event loop; `chunks` partial answers come before the last one."""

    def __init__(self, *, chunks: int = 0, http: bool = False) -> None:
        self.vllm = fresh("fake_vllm")
        self.web = fresh("fake_starlette")
        self.vllm.__version__ = "0.32.0"  # type: ignore[attr-defined]
        self.chunks = chunks
        self.http = http
        self.loop = asyncio.new_event_loop()
        self._count = itertools.count()

    def start(self) -> None:
        """Make the engine; after hooks are on, as in a real process."""
        kind = "DELTA" if self.chunks else "FINAL_ONLY"
        self.params = self.vllm.SamplingParams(output_kind=self.vllm.OutputKind(kind))
        self.engine = self.vllm.AsyncLLM(self.chunks)
        self.app = self.web.Starlette(self.engine, self.params)

    def serve(self, requests: int) -> None:
        """Serve so many."""
        self.loop.run_until_complete(self._serve(requests))

    async def _serve(self, requests: int) -> None:
        one = self._exchange if self.http else self._generate
        for _ in range(requests):
            await one()

    async def _generate(self) -> None:
        request_id = f"chatcmpl-{next(self._count):032x}"
        async for _ in self.engine.generate("a prompt", self.params, request_id, **self.web.PASSED):
            pass

    async def _exchange(self) -> None:
        await self.app(self.web.scope(), self.web.receive, self.web.send)

    def settle(self) -> None:
        """Wait until all telemetry of what was served is handed over."""

    def stop(self) -> None:
        """End it."""
        self.loop.close()


class Observed(Server):
    """With ai-otel: its adapter, hooks, recorder and emitters, as `instrument()` starts them."""

    def __init__(self, *, chunks: int = 0, http: bool = False, phases: bool = True) -> None:
        super().__init__(chunks=chunks, http=http)
        self.telemetry = Telemetry()
        self.handle = Handle(
            Settings(edge=http, phases=phases, flush_interval=0.02),
            Environment.read({}),
            self.telemetry.tracer_provider,
            self.telemetry.meter_provider,
        )
        with imported(dict.fromkeys(VLLM, self.vllm) | dict.fromkeys(STARLETTE, self.web)):
            self.handle.watch({"vllm": ENGINES["vllm"]})
        attached = {a.point.path for p in self.handle.patchers.values() for a in p.attachments if a.state == "attached"}
        expected = {"AsyncLLM.generate", "OutputProcessor.add_request"} | ({"Starlette.__call__"} if http else set())
        assert expected <= attached, f"the fakes no longer fit the hooks: {expected - attached}"
        # As where vLLM has loaded our stat logger: its counters come from there, once an iteration.
        adapter: Any = self.handle.adapters["vllm"]
        self.statistics = adapter.follow(self.handle.recorder, self.vllm.VllmConfig(), 0)

    def settle(self) -> None:
        """Emit and export all."""
        assert self.handle.recorder.flush(30)
        self.telemetry.flush()
        assert not self.handle.recorder.dropped, self.handle.recorder.dropped
        assert not guard.errors, guard.errors

    def stop(self) -> None:
        """End the recorder's thread and the SDK's."""
        self.handle.stop()
        self.telemetry.shutdown()
        super().stop()


class Floor(Server):
    """
    By hand, the least that gives the same data: at the end of a request its span with the same attributes, and the
    same points with the same attributes, in the span's context. With `phases`, the phase spans too.
    """

    def __init__(self, observed: Observed, *, phases: bool = False) -> None:
        super().__init__(http=observed.http)
        self.telemetry = Telemetry()
        self._phases = phases
        self._spans, self._points = emitted_by(observed)
        self.attributes = len(self._spans[0].attributes or ())
        self.points = len(self._points)
        self.phases = len(self._spans) - 1

    def start(self) -> None:
        """Make the instruments."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        super().start()
        tracer = self.telemetry.tracer_provider.get_tracer("floor")
        create = self.telemetry.meter_provider.get_meter("floor").create_histogram
        points = [
            (create(name, unit=unit, explicit_bucket_boundaries_advisory=bounds).record, value, labels)
            for name, unit, bounds, value, labels in self._points
        ]
        request = self._spans[0]
        phases = [span.name for span in self._spans[1:]] if self._phases else []
        attributes = dict(request.attributes or {})
        serve = self._exchange if self.http else self._generate
        self._exchange = self._generate = self._with_floor(serve)  # type: ignore[method-assign]

        def emit(started: int) -> None:
            span = tracer.start_span(request.name, kind=SpanKind.SERVER, attributes={**attributes}, start_time=started)
            context = set_span_in_context(span)
            for name in phases:
                tracer.start_span(name, context=context, start_time=started).end()
            for record, value, labels in points:
                record(value, labels, context)
            span.end()

        self._emit = emit

    def _with_floor(self, serve: Serve) -> Serve:
        async def served() -> None:
            started = time.time_ns()
            await serve()
            self._emit(started)

        return served

    def settle(self) -> None:
        """Export all."""
        self.telemetry.flush()

    def stop(self) -> None:
        """End the SDK's threads."""
        self.telemetry.shutdown()
        super().stop()


Point = tuple[str, str, Sequence[float], float, dict[str, Any]]


def emitted_by(observed: Observed) -> tuple[list[ReadableSpan], list[Point]]:
    """The spans (the request's first) and the histogram points that one request makes of itself."""
    reader = observed.telemetry.reader
    assert isinstance(reader, InMemoryMetricReader)
    observed.serve(1)
    observed.settle()
    spans = sorted(observed.telemetry.exporter.last, key=lambda span: span.parent is not None)
    return spans, list(_points(reader))


def _points(reader: InMemoryMetricReader) -> Iterator[Point]:
    data = reader.get_metrics_data()
    for metric in (m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics) if data else ():
        for point in metric.data.data_points:
            if isinstance(point, HistogramDataPoint):
                labels = dict(point.attributes or {})
                yield metric.name, metric.unit or "", point.explicit_bounds, point.sum / point.count, labels


def fresh(name: str) -> ModuleType:
    """A new copy of a module beside this file."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with imported({name: module}):  # dataclasses resolve their module
        spec.loader.exec_module(module)
    return module


@contextmanager
def imported(modules: dict[str, ModuleType]) -> Iterator[None]:
    """Let these count as imported, inside the block."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
