"""
The same server in several ways: as it is, with ai-otel, and with what others would write into it by hand.

Each runs in a process of its own (`child.py`). ai-otel is started as a user starts it, by `ai_otel.instrument()` and
environment variables, so that any version of it can be measured.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent

FAKES = {
    "fake_vllm": (
        "vllm",
        "vllm.v1.engine.async_llm",
        "vllm.v1.engine.output_processor",
        "vllm.v1.metrics.loggers",
    ),
    "fake_starlette": ("starlette.applications",),
}
"""A module beside this file -> the names under which hooks find it."""

Serve = Callable[[], Coroutine[Any, Any, None]]


class Server:
    """A chat server whose engine answers at once, so that what is measured is the way to it; nothing observed."""

    def __init__(self) -> None:
        self.vllm, self.web = (loaded(name, names) for name, names in FAKES.items())
        self.vllm.__version__ = "0.32.0"  # type: ignore[attr-defined]
        self.loop = asyncio.new_event_loop()
        self._count = itertools.count()

    def start(self, recipe: dict[str, Any]) -> None:
        """Set up what observes it, and then the engines: one that answers at once, one in chunks."""
        self.observe(recipe)
        self.engines = {chunks: self.vllm.AsyncLLM(chunks) for chunks in (0, 100)}
        kinds = {0: "FINAL_ONLY", 100: "DELTA"}
        self.params = {c: self.vllm.SamplingParams(output_kind=self.vllm.OutputKind(kinds[c])) for c in kinds}
        self.apps = {
            chunks: self.around(self.web.Starlette(self.engines[chunks], self.params[chunks])) for chunks in kinds
        }

    def observe(self, recipe: dict[str, Any]) -> None:
        """Set up nothing."""

    def around(self, app: Any) -> Any:
        """The application with its middleware."""
        return app

    async def exchange(self, chunks: int = 0) -> None:
        """One chat request through the application."""
        await self.apps[chunks](self.web.scope(), self.web.receive, self.web.send)

    async def generate(self, chunks: int = 0) -> None:
        """One request to the engine alone."""
        request_id = f"chatcmpl-{next(self._count):032x}"
        async for _ in self.engines[chunks].generate("a prompt", self.params[chunks], request_id, **self.web.PASSED):
            pass

    def settle(self) -> bool:
        """Return when all telemetry of what was served is acknowledged; `False` where it was not."""
        return True


class AiOtel(Server):
    """With ai-otel."""

    def observe(self, recipe: dict[str, Any]) -> None:
        """Instrument this process, then make vLLM's stat logger as vLLM does."""
        import ai_otel

        self.handle = ai_otel.instrument()
        # As where vLLM has loaded the plug-in: its counters come from there, once an iteration.
        from ai_otel.entrypoints import VllmStatLogger

        self.statistics = VllmStatLogger(self.vllm.VllmConfig(), 0)
        self.statistics.log_engine_initialized()

    def settle(self) -> bool:
        """Emit and export all."""
        return self.handle.flush(60)


class Plain(Server):
    """
    By hand, the least that gives the same data with the plain SDK: at the end of a request its span with the same
    attributes and its phases, and the same points in the span's context; by a batch processor and OTLP over HTTP.
    """

    phases = True

    def observe(self, recipe: dict[str, Any]) -> None:
        """Make the providers and the instruments."""
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self.traces = TracerProvider()
        self.traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.metrics = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])
        if recipe:
            self.emit = self.by_hand(recipe)

    def by_hand(self, recipe: dict[str, Any]) -> Callable[[int], None]:
        """What is written into the server."""
        from opentelemetry.metrics import Observation
        from opentelemetry.trace import SpanKind, set_span_in_context

        request, *phases = recipe["spans"]
        tracer = self.traces.get_tracer(request["scope"])
        meters = {point["scope"]: self.metrics.get_meter(point["scope"]) for point in recipe["points"]}
        points = [
            (
                meters[point["scope"]]
                .create_histogram(
                    point["name"], unit=point["unit"], explicit_bucket_boundaries_advisory=point["bounds"]
                )
                .record,
                point["value"],
                point["attributes"],
            )
            for point in recipe["points"]
            for _ in range(int(point["times"]))
        ]
        for name in {number["name"] for number in recipe["numbers"]}:
            same = [number for number in recipe["numbers"] if number["name"] == name]
            observations = [Observation(number["value"], number["attributes"]) for number in same]
            meter = self.metrics.get_meter(same[0]["scope"])
            kinds = {
                "counter": meter.create_observable_counter,
                "updown": meter.create_observable_up_down_counter,
                "gauge": meter.create_observable_gauge,
            }
            kinds[same[0]["kind"]](name, [lambda _, seen=observations: seen], unit=same[0]["unit"])
        children = [(phase["name"], phase["attributes"]) for phase in phases] if self.phases else []
        attributes = request["attributes"]

        def emit(started: int) -> None:
            span = tracer.start_span(
                request["name"], kind=SpanKind.SERVER, attributes={**attributes}, start_time=started
            )
            context = set_span_in_context(span)
            for name, own in children:
                tracer.start_span(name, context=context, attributes=own, start_time=started).end()
            for record, value, labels in points:
                record(value, labels, context)
            span.end()

        return emit

    async def exchange(self, chunks: int = 0) -> None:
        """One chat request, and its telemetry."""
        started = time.time_ns()
        await super().exchange(chunks)
        self.emit(started)

    async def generate(self, chunks: int = 0) -> None:
        """One request to the engine, and its telemetry."""
        started = time.time_ns()
        await super().generate(chunks)
        self.emit(started)

    def settle(self) -> bool:
        """Export all."""
        return all([self.traces.force_flush(60_000), self.metrics.force_flush(60_000)])


class PlainWithoutPhases(Plain):
    """The same without the phases' spans."""

    phases = False


class Asgi(Plain):
    """With OpenTelemetry's own instrumentation of ASGI applications: it knows the exchange, and no model."""

    def around(self, app: Any) -> Any:
        """The application inside the middleware, as the instrumentor of FastAPI and Starlette puts it there."""
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        return OpenTelemetryMiddleware(app, tracer_provider=self.traces, meter_provider=self.metrics)

    async def exchange(self, chunks: int = 0) -> None:
        """One chat request."""
        await Server.exchange(self, chunks)

    def observe(self, recipe: dict[str, Any]) -> None:
        """Make the providers."""
        super().observe({})


class Prometheus(Server):
    """The same series by `prometheus_client`, and no spans; a scrape takes the place of an export."""

    def observe(self, recipe: dict[str, Any]) -> None:
        """Make the metrics, and the endpoint."""
        from prometheus_client import CollectorRegistry, Gauge, Histogram, start_http_server

        registry = CollectorRegistry()
        self.points = []
        series = [point | {"labels": labels(point["attributes"])} for point in recipe["points"]]
        for name in {point["name"] for point in series}:
            same = [point for point in series if point["name"] == name]
            keys = sorted({key for point in same for key in point["labels"]})
            histogram = Histogram(underscored(name), name, keys, buckets=same[0]["bounds"], registry=registry)
            for point in same:
                full = dict.fromkeys(keys, "") | point["labels"]
                self.points += [(histogram, full, point["value"])] * int(point["times"])
        for name in {number["name"] for number in recipe["numbers"]}:
            same = [number for number in recipe["numbers"] if number["name"] == name]
            keys = sorted({underscored(key) for number in same for key in number["attributes"]})
            gauge = Gauge(underscored(name), name, keys, registry=registry)
            for number in same:
                full = dict.fromkeys(keys, "") | labels(number["attributes"])
                (gauge.labels(**full) if keys else gauge).set(number["value"])
        server, _ = start_http_server(0, addr="127.0.0.1", registry=registry)
        self.port = server.server_port
        self.scraped = ""

    async def exchange(self, chunks: int = 0) -> None:
        """One chat request, and its observations."""
        await super().exchange(chunks)
        for histogram, full, value in self.points:
            histogram.labels(**full).observe(value)

    def settle(self) -> bool:
        """Scrape."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            self.scraped = b"".join(iter(lambda: connection.recv(1 << 20), b"")).decode()
        return bool(self.scraped)


def underscored(name: str) -> str:
    """A name as Prometheus takes it."""
    return name.replace(".", "_")


def labels(attributes: dict[str, Any]) -> dict[str, str]:
    """Attributes as labels."""
    return {
        underscored(key): value if isinstance(value, str) else json.dumps(value) for key, value in attributes.items()
    }


def loaded(name: str, names: tuple[str, ...]) -> ModuleType:
    """A module beside this file, which counts as imported under other names."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.update(dict.fromkeys((name, *names), module))  # dataclasses resolve their module
    spec.loader.exec_module(module)
    return module


VARIANTS: dict[str, type[Server]] = {
    "nothing": Server,
    "ai-otel": AiOtel,
    "ai-otel-bare": AiOtel,
    "plain": Plain,
    "plain-bare": PlainWithoutPhases,
    "prometheus": Prometheus,
    "asgi": Asgi,
}
