"""
Where telemetry goes: providers that were passed in, that the user made global, from a file, or our own.

Ours are private: a global MeterProvider would empty Ray's metrics page, and a global TracerProvider would make FastAPI
trace every route. They are the SDK's own classes with the SDK's own exporters, so every `OTEL_*` variable holds.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import TracerProvider

log = logging.getLogger("ai_otel")

_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


class Providers(NamedTuple):
    """The two providers, and whose they are."""

    tracer_provider: TracerProvider
    meter_provider: MeterProvider
    origin: str
    """`passed`, `global`, `file` or `own`."""

    @property
    def private(self) -> bool:
        """Whether only we use them, so that we also have to shut them down."""
        return self.origin in ("own", "file")

    def shutdown(self) -> None:
        """Hand over what is left and end. Only ours are ended; others are flushed."""
        for provider in (self.tracer_provider, self.meter_provider):
            end = getattr(provider, "shutdown" if self.private else "force_flush", None)
            if end is not None:
                end()


def global_tracer_provider() -> TracerProvider | None:
    """The global one, if the user set it."""
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider


def global_meter_provider() -> MeterProvider | None:
    """The global one, if the user set it."""
    provider = metrics.get_meter_provider()
    # The API has no public name for its placeholder.
    return None if type(provider).__name__ == "_ProxyMeterProvider" else provider


def own(resource: Resource, environment: Mapping[str, str]) -> Providers:
    """Private providers, configured by the `OTEL_*` variables as the SDK reads them."""
    tracer_provider = SdkTracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in _exporters("traces", environment):
        tracer_provider.add_span_processor(BatchSpanProcessor(exporter()))
    readers = [_reader(exporter) for exporter in _exporters("metrics", environment)]
    meter_provider = SdkMeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
    return Providers(tracer_provider, meter_provider, "own")


def from_file(path: str, resource: Resource) -> Providers | None:
    """Private providers from a declarative configuration file; `None`, and a line that says why, where it cannot be."""
    try:
        from opentelemetry.configuration import ConfigurationError, load_config_file
        from opentelemetry.configuration._meter_provider import create_meter_provider
        from opentelemetry.configuration._resource import create_resource
        from opentelemetry.configuration._tracer_provider import create_tracer_provider
    except ImportError:
        log.warning("ai-otel: OTEL_CONFIG_FILE is set: pip install 'opentelemetry-sdk[file-configuration]' to have it read")
        return None
    try:
        config = load_config_file(path)
    except (ConfigurationError, OSError, ValueError) as error:
        log.warning("ai-otel: OTEL_CONFIG_FILE=%s cannot be used: %s", path, error)
        return None
    merged = resource.merge(create_resource(config.resource))
    limits = config.attribute_limits
    return Providers(
        create_tracer_provider(config.tracer_provider, merged, limits),
        create_meter_provider(config.meter_provider, merged),
        "file",
    )


def _exporters(signal: str, environment: Mapping[str, str]) -> Iterable[type[Any]]:
    names = environment.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp")
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name == "none":
            continue
        exporter = _load(f"opentelemetry_{signal}_exporter", _entry(name, signal, environment))
        if exporter is not None:
            yield exporter


def _entry(name: str, signal: str, environment: Mapping[str, str]) -> str:
    if name != "otlp":
        return name
    for variable in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = environment.get(variable, "").strip()
        if protocol in _OTLP:
            return _OTLP[protocol]
        if protocol:
            log.warning("ai-otel: %s=%r is not known: write %s; using http/protobuf", variable, protocol, " or ".join(_OTLP))
    return _OTLP["http/protobuf"]


def _load(group: str, name: str) -> type[Any] | None:
    for entry in entry_points(group=group, name=name):
        try:
            loaded: type[Any] = entry.load()
        except ImportError as error:
            log.warning("ai-otel: exporter %s cannot be loaded: %s", name, error)
            return None
        return loaded
    log.warning("ai-otel: no exporter is called %s in %s: is its package installed?", name, group)
    return None


class _ProcessBoundReader(PeriodicExportingMetricReader):
    """
    Exports only in the process that made it.

    A fork inherits every sum, and the SDK starts the reader again in the child: what the parent counted would be
    reported twice.
    """

    def __init__(self, exporter: MetricExporter) -> None:
        self._made_in = os.getpid()
        super().__init__(exporter)

    def collect(self, timeout_millis: float = 10_000) -> None:
        if os.getpid() == self._made_in:
            super().collect(timeout_millis)


def _reader(exporter: type[Any]) -> MetricReader:
    if issubclass(exporter, MetricReader):
        return exporter()
    return _ProcessBoundReader(exporter())
