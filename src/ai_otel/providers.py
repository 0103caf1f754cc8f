"""
Where telemetry goes: providers that were passed in, that the user made global, from a file, or our own.

Own providers are private: a global MeterProvider would empty Ray's metrics endpoint, and a global TracerProvider would
make FastAPI trace every route. They are the SDK's classes with the SDK's exporters: every `OTEL_*` variable holds.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider, TracerProvider

from ai_otel import semconv
from ai_otel.direct import choice
from ai_otel.direct.binding import with_direct_histograms
from ai_otel.hooks.daemon import at_once
from ai_otel.hooks.guard import Guard
from ai_otel.inputs.documents import read_text
from ai_otel.inputs.environ import process_variables
from ai_otel.inputs.instance import own_instance
from ai_otel.inputs.otel import readable
from ai_otel.inputs.shown import shown

with readable():  # the SDK reads limits of spans when it is imported
    from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader, MetricsData, PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider as SdkTracerProvider

    from ai_otel.export import loading, redirects
    from ai_otel.export.adopted import adopt_exporters, processors_of, readers_of
    from ai_otel.export.counts import ExportCounts
    from ai_otel.export.pauses import pause_between_instruments, pausing
    from ai_otel.export.points import CountedMetricExporter, paused
    from ai_otel.export.spans import BoundedSpanExporter, CountedSpanProcessor
    from ai_otel.export.unthreaded import UnthreadedMetricReader, UnthreadedSpanProcessor

log = logging.getLogger("ai_otel")

ADVICE = "Check the OTEL_* variables that it reads; `ai-otel doctor` shows what each exporter says."


class Providers(NamedTuple):
    """The two providers, and whose they are."""

    tracer_provider: TracerProvider
    meter_provider: MeterProvider
    origin: str
    """`passed`, `global`, `file` or `own`."""
    own_traces: bool = False
    """Only we use the tracer provider: we have to shut it down, and no span of the application's reaches it."""
    own_metrics: bool = False
    """Only we use the meter provider."""
    exports: ExportCounts | None = None
    """What became of what our own exporters were given; `None` where they are someone else's."""
    direct: tuple[str, ...] = ()
    """The signals that are made without the SDK's own objects: `traces`, `metrics`."""

    def shutdown(self) -> None:
        """
        Export what is left and end. Only own providers are ended; others are flushed.

        At the same time: an endpoint that does not answer costs one signal, not the last values of the other.
        """
        pairs = ((self.tracer_provider, self.own_traces), (self.meter_provider, self.own_metrics))
        ends = [getattr(provider, "shutdown" if own else "force_flush", None) for provider, own in pairs]
        at_once("stop", [end for end in ends if end is not None])

    def flush(self, timeout_s: float) -> bool:
        """Export what is left, both signals at the same time; `False` if one of them failed."""
        flushes = [getattr(provider, "force_flush", None) for provider in (self.tracer_provider, self.meter_provider)]
        calls = [functools.partial(flush, int(timeout_s * 1000)) for flush in flushes if flush is not None]
        return all(at_once("flush", calls))


def global_tracer_provider() -> TracerProvider | None:
    """The global one, if the user set it."""
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider


def global_meter_provider() -> MeterProvider | None:
    """The global one, if the user set it."""
    provider = metrics.get_meter_provider()
    # The API has no public name for its placeholder.
    return None if type(provider).__name__ == "_ProxyMeterProvider" else provider


class UserProviders(NamedTuple):
    """The providers that the user passed or made global; `None` where there is none."""

    tracer_provider: TracerProvider | None = None
    meter_provider: MeterProvider | None = None
    origin: str = "global"


def users(tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> UserProviders:
    """
    Return the user's providers: those that were passed, else the global ones, if the user has set them.

    The time to call this is when the first engine is imported: later the engine may set globals of its own, and
    earlier the user's may not be there yet.
    """
    origin = "global" if tracer_provider is None and meter_provider is None else "passed"
    with readable("globals"):  # the API makes a provider that a variable names when it is first asked
        return UserProviders(
            tracer_provider or global_tracer_provider(), meter_provider or global_meter_provider(), origin
        )


def choose(
    user: UserProviders, resource: Callable[[], Resource], environment: Mapping[str, str], *, direct: bool = True
) -> Providers:
    """
    Return the user's providers, and private ones for each signal of which the user has none.

    Private ones come from `OTEL_CONFIG_FILE`, else from the other `OTEL_*` variables in `environment`. `resource`
    builds their resource, and is not called where the user has both. `direct` is that of `own`.
    """
    if user.tracer_provider is not None and user.meter_provider is not None:
        return Providers(user.tracer_provider, user.meter_provider, user.origin)
    built = Guard("resource", alone=True)(resource) or Resource.get_empty()
    path = environment.get("OTEL_CONFIG_FILE")
    private = (from_file(path, built) if path else None) or own(built, environment, direct=direct)
    if user.tracer_provider is None and user.meter_provider is None:
        return private
    return Providers(
        user.tracer_provider or private.tracer_provider,
        user.meter_provider or private.meter_provider,
        user.origin,
        own_traces=user.tracer_provider is None,
        own_metrics=user.meter_provider is None,
        exports=private.exports,
        direct=_of_private(private.direct, user),
    )


def _of_private(signals: tuple[str, ...], user: UserProviders) -> tuple[str, ...]:
    users = {"traces": user.tracer_provider, "metrics": user.meter_provider}
    return tuple(signal for signal in signals if users[signal] is None)


Make = Callable[[str, str, type[Any]], "tuple[Any, redirects.Redirects | None] | None"]
"""Makes an exporter of a signal, from its name in `OTEL_<SIGNAL>_EXPORTER` and its class; `None` leaves it out."""


def own(
    resource: Resource, environment: Mapping[str, str], make: Make | None = None, *, direct: bool = True
) -> Providers:
    """
    Private providers, configured by the `OTEL_*` variables as the SDK reads them.

    Each signal stands for itself: what fails for one does not take the other with it. With `direct`, a signal is made
    without the SDK's own objects where that gives the same.
    """
    counts = ExportCounts()
    with readable("providers", environment={**process_variables(), **environment}) as variables:

        def usual(_signal: str, _name: str, exporter: type[Any]) -> tuple[Any, redirects.Redirects | None]:
            return redirects.made(exporter, variables)

        made = functools.partial(_made, variables, make or usual, counts)
        tracer_provider = (
            Guard("traces", alone=True)(_traces, resource, variables, made, direct) or NoOpTracerProvider()
        )
        meter_provider = Guard("metrics", alone=True)(_metrics, resource, made, direct) or NoOpMeterProvider()
    signals = {"traces": tracer_provider, "metrics": meter_provider}
    return Providers(
        tracer_provider,
        meter_provider,
        "own",
        own_traces=True,
        own_metrics=True,
        exports=counts,
        direct=tuple(signal for signal, provider in signals.items() if getattr(provider, "direct", False)),
    )


def _traces(
    resource: Resource, environment: Mapping[str, str], made: Callable[..., Iterator[Any]], direct: bool
) -> TracerProvider:
    found = list(_exporters("traces", environment))
    kind, found = (choice.for_spans(found, environment) if direct else None) or (SdkTracerProvider, found)
    provider = kind(resource=resource, shutdown_on_exit=False)
    for processor in made("traces", _processor, found):
        provider.add_span_processor(processor)
    return provider


def _metrics(resource: Resource, made: Callable[..., Iterator[Any]], direct: bool) -> MeterProvider:
    readers = list(made("metrics", _reader))
    # Without an exporter nothing is measured: this process must not sample for others that do have one.
    if not readers:
        return NoOpMeterProvider()
    provider = SdkMeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
    return with_direct_histograms(provider, readers) if direct else provider


def _made(
    environment: Mapping[str, str],
    make: Make,
    counts: ExportCounts,
    signal: str,
    use: Callable[..., Any],
    found: choice.Found | None = None,
) -> Iterator[Any]:
    """What `use` makes of each exporter. One that cannot be made does not take the others with it."""

    def of(name: str, exporter: type[Any]) -> Any:
        made = make(signal, name, exporter)
        return None if made is None else use(made[0], counts, made[1])

    for name, exporter in _exporters(signal, environment) if found is None else found:
        used = Guard(f"exporter {name}", alone=True, advice=ADVICE)(of, name, exporter)
        if used is not None:
            yield used


def from_file(path: str, resource: Resource) -> Providers | None:
    """Private providers from a declarative configuration file; `None`, and a line that says why, where it cannot be."""
    try:
        from opentelemetry.configuration import ConfigurationError, load_config_file
        from opentelemetry.configuration._meter_provider import create_meter_provider
        from opentelemetry.configuration._resource import create_resource
        from opentelemetry.configuration._tracer_provider import create_tracer_provider
    except ImportError:
        log.warning(
            "ai-otel: OTEL_CONFIG_FILE is set, but what reads it is not installed: "
            "pip install 'opentelemetry-sdk[file-configuration]'; using the other OTEL_* variables"
        )
        return None
    try:
        read_text(Path(path))  # within a limit: the SDK reads to the end
        config = load_config_file(path)
        if config.disabled:
            return Providers(NoOpTracerProvider(), NoOpMeterProvider(), "file", own_traces=True, own_metrics=True)
        merged = resource.merge(_stated(create_resource(config.resource)))
        tracer_provider = create_tracer_provider(config.tracer_provider, merged, config.attribute_limits)
        meter_provider = create_meter_provider(config.meter_provider, merged)
    except (ConfigurationError, OSError, ValueError, RecursionError) as error:
        log.warning(
            "ai-otel: OTEL_CONFIG_FILE=%s cannot be used: %s; using the other OTEL_* variables",
            shown(path),
            shown(error),
        )
        return None
    for provider in (tracer_provider, meter_provider):
        # At exit they would end before us, and without our time limit.
        atexit.unregister(provider.shutdown)
    counts = ExportCounts()
    adopt_exporters(tracer_provider, meter_provider, counts)
    for processor in processors_of(tracer_provider):
        exporter = getattr(processor, "span_exporter", None)
        _survive(exporter, "export", type(getattr(exporter, "wrapped", exporter)).__name__)
    for reader in readers_of(meter_provider):
        _bind(reader)
    return Providers(tracer_provider, meter_provider, "file", own_traces=True, own_metrics=True, exports=counts)


def _stated(resource: Resource) -> Resource:
    """What the file says, without the name that the SDK makes up where it says none, and with an id of this process."""
    stated = dict(resource.attributes)
    if str(stated.get(semconv.SERVICE_NAME, "")).startswith("unknown_service"):
        del stated[semconv.SERVICE_NAME]
    if semconv.SERVICE_INSTANCE_ID in stated:
        stated[semconv.SERVICE_INSTANCE_ID] = own_instance(str(stated[semconv.SERVICE_INSTANCE_ID]))
    return Resource(stated)


def _exporters(signal: str, environment: Mapping[str, str]) -> Iterator[tuple[str, type[Any]]]:
    for name in loading.exporter_names(signal, environment):
        if name == "none":
            continue
        group = f"opentelemetry_{signal}_exporter"
        entry = loading.PROTOCOLS[loading.otlp_protocol(signal, environment)] if name == "otlp" else name
        exporter = Guard(f"exporter {name}", alone=True, advice=ADVICE)(loading.load, group, entry)
        if exporter is not None:
            yield name, exporter


def _processor(exporter: Any, counts: ExportCounts, seen: redirects.Redirects | None) -> SpanProcessor:
    bounded = BoundedSpanExporter(exporter, counts, seen)
    _survive(bounded, "export", type(exporter).__name__)
    try:
        return CountedSpanProcessor(bounded, counts)
    except RuntimeError:  # the process ends
        return UnthreadedSpanProcessor(bounded)


def _reader(exporter: Any, counts: ExportCounts, seen: redirects.Redirects | None) -> MetricReader:
    if isinstance(exporter, MetricReader):
        return _bind(exporter)
    counted = CountedMetricExporter(exporter, counts, seen)
    try:
        return _bind(PeriodicExportingMetricReader(counted))
    except RuntimeError:
        return _bind(UnthreadedMetricReader(counted))


def _bind(reader: MetricReader) -> MetricReader:
    """
    Have a reader export only in the process that made it, and pause while it collects and exports.

    A fork inherits every sum, and the SDK starts the reader again in the child: what the parent counted would be
    reported twice.
    """
    made_in, receive = os.getpid(), reader._receive_metrics  # noqa: SLF001 - the one step that all readers share
    pause_between_instruments(reader)

    def receive_here(metrics_data: MetricsData, *arguments: Any, **options: Any) -> None:
        if os.getpid() == made_in:
            receive(paused(metrics_data), *arguments, **options)

    reader._receive_metrics = receive_here  # type: ignore[method-assign]  # noqa: SLF001
    _survive(reader, "collect", within=pausing)
    return reader


def _survive(
    owner: Any, method: str, name: str = "", *, within: Callable[[], AbstractContextManager[None]] = nullcontext
) -> None:
    """
    Suppress and count what a method raises that the SDK calls on its thread: an exporter's, or a reader's collection.

    `name` is who fails in the counts; by default the owner's class. The method is called `within` a context.

    The SDK catches `Exception` at most. Its thread would end silently, for instance at a panic of a Rust extension.
    """
    call = getattr(owner, method, None)
    if call is None:
        return
    guard = Guard(f"{name or type(owner).__name__}.{method}", alone=True, lasting=True)

    @functools.wraps(call)
    def survived(*arguments: Any, **options: Any) -> Any:
        with within():
            return guard(functools.partial(call, *arguments, **options))

    with suppress(AttributeError):  # slots
        setattr(owner, method, survived)
