"""The wiring: settings → resource → providers → recorder → adapters. The only file that imports across."""

from __future__ import annotations

import atexit
import functools
import importlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import wrapt

from ai_otel import activation as doors
from ai_otel.devices import Devices
from ai_otel.engines import ENGINES, Engine
from ai_otel.engines.adapter import tell_out_of_range
from ai_otel.hooks import guard
from ai_otel.hooks.guard import Guard
from ai_otel.hooks.patch import Patcher, imported_version
from ai_otel.record import RequestRecord
from ai_otel.recorder import Recorder
from ai_otel.settings import Settings, Surroundings

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from ai_otel.emit.metrics import MetricEmitter
    from ai_otel.emit.spans import SpanEmitter
    from ai_otel.engines.adapter import EngineAdapter
    from ai_otel.providers import Providers

log = logging.getLogger("ai_otel")


class Handle:
    """What runs in this process. Made by `instrument()`, ended by `uninstrument()`."""

    def __init__(
        self,
        settings: Settings,
        surroundings: Surroundings,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self.settings = settings
        self.surroundings = surroundings
        self.adapters: dict[str, EngineAdapter] = {}
        self.patchers: dict[str, Patcher] = {}
        self.providers: Providers | None = None
        self.active = True
        self._passed = (tracer_provider, meter_provider)
        self._chosen: tuple[TracerProvider | None, MeterProvider | None] | None = None
        self._spans: SpanEmitter | None = None
        self._metrics: MetricEmitter | None = None
        self._born = os.getpid()
        # Nobody stands above these: they run on the recorder's thread.
        self._emit_guard = Guard("emit", alone=True)
        self._complete_guard = Guard("complete", alone=True)
        self._devices_guard = Guard("devices", alone=True)
        self.recorder = Recorder(
            self._deliver,
            prepare=self._prepare,
            finish=self._finish,
            # Bound when an engine is attached: nothing of OpenTelemetry is imported at interpreter start.
            capture=lambda: None,
            limit=settings.queue_limit,
            interval_s=settings.flush_interval,
        )
        self.devices = Devices(settings, self.recorder)

    # Health, as `emit/health.py` asks for it.

    @property
    def dropped(self) -> Mapping[str, int]:
        """Lost records by reason."""
        return self.recorder.dropped

    @property
    def open_count(self) -> int:
        """Records that are open now."""
        return self.recorder.open_count

    @property
    def hook_errors(self) -> Mapping[str, int]:
        """Failures by hook."""
        return guard.errors

    @property
    def hooks_disabled(self) -> frozenset[str]:
        """Hooks that are switched off."""
        return frozenset(guard.disabled)

    # Engines.

    def watch(self, engines: Mapping[str, Engine]) -> None:
        """Attach each engine's adapter as soon as one of its packages is imported."""
        wanted = self.settings.engines
        for name in wanted:
            if name not in engines:
                log.warning("ai-otel: AI_OTEL_ENGINES names %s; known are %s", name, ", ".join(sorted(engines)))
        for name, engine in engines.items():
            if wanted and name not in wanted:
                continue
            attaching = Guard(f"attach {name}")
            for package in engine.packages:

                def attach(_: Any, name: str = name, engine: Engine = engine, run: Guard = attaching) -> None:
                    run(self._attach, name, engine)

                wrapt.register_post_import_hook(attach, package)
        if self.settings.edge:
            edge = Guard("attach edge")
            wrapt.register_post_import_hook(lambda _: edge(self._attach_edge), "starlette.applications")
            wrapt.register_post_import_hook(lambda _: edge(self._attach_ending), "uvicorn.server")

    def _attach(self, name: str, engine: Engine) -> None:
        if not self.active or name in self.adapters:
            return
        from opentelemetry.context import get_current

        self.recorder.capture = get_current
        self._choose()
        # Exit runs backwards: before the providers that the user has set up since we began.
        atexit.unregister(self.stop)
        atexit.register(self.stop)
        module, _, cls = engine.adapter.partition(":")
        adapter: EngineAdapter = getattr(importlib.import_module(module), cls)()
        patcher = Patcher(name, lambda: self.version_of(name))
        self.adapters[name] = adapter
        self.patchers[name] = patcher
        tell_out_of_range(name, self.version_of(name), adapter)
        adapter.attach(self.recorder, patcher)
        doors.tell_shut(name, self.surroundings)

    def _attach_edge(self) -> None:
        if not self.active or "starlette" in self.patchers:
            return
        from ai_otel.http.asgi import StarletteEdge

        patcher = Patcher("starlette", lambda: imported_version("starlette", ("starlette",)))
        self.patchers["starlette"] = patcher
        StarletteEdge(self.recorder, lambda: bool(self.adapters)).attach(patcher)

    def _attach_ending(self) -> None:
        if not self.active or "uvicorn" in self.patchers:
            return
        from ai_otel.http.shutdown import UvicornEnding

        patcher = Patcher("uvicorn", lambda: imported_version("uvicorn", ("uvicorn",)))
        self.patchers["uvicorn"] = patcher
        UvicornEnding(self._hand_over).attach(patcher)

    def _hand_over(self) -> None:
        if not self.adapters:
            return
        # On a thread of its own: a sink that does not answer must not keep the server from ending.
        timeout_s = self.settings.stop_timeout
        thread = threading.Thread(target=self.flush, args=(timeout_s,), name="ai-otel flush", daemon=True)
        thread.start()
        thread.join(timeout_s)

    @property
    def engine(self) -> str | None:
        """The engine that this process serves: the first that was attached."""
        return next(iter(self.adapters), None)

    def version_of(self, name: str) -> str | None:
        """The version of an attached engine."""
        adapter = self.adapters[name]
        versions = (imported_version(package, adapter.distributions) for package in adapter.packages)
        return next((version for version in versions if version is not None), None)

    # The recorder's thread.

    def _choose(self) -> None:
        """
        Settle on the user's global providers, if there are any.

        When the first engine is imported is the moment to look: later the engine may set globals of its own, and
        earlier the user's may not be there yet.
        """
        if self._chosen is None:
            from ai_otel import providers

            tracer_provider, meter_provider = self._passed
            self._chosen = (
                tracer_provider or providers.global_tracer_provider(),
                meter_provider or providers.global_meter_provider(),
            )

    def _prepare(self) -> None:
        Guard("start", alone=True)(self._build)

    def _build(self) -> None:
        from opentelemetry import metrics, trace

        from ai_otel import semconv
        from ai_otel.emit.health import observe_health
        from ai_otel.emit.metrics import MetricEmitter
        from ai_otel.emit.spans import SpanEmitter
        from ai_otel.version import __version__

        self._choose()
        self.providers = self._make_providers()
        tracer_provider = self.providers.tracer_provider if self.settings.traces else trace.NoOpTracerProvider()
        meter_provider = self.providers.meter_provider if self.settings.metrics else metrics.NoOpMeterProvider()
        gen_ai = meter_provider.get_meter(semconv.SCOPE_GEN_AI, __version__, semconv.SCHEMA_URL_GEN_AI)
        own = meter_provider.get_meter(semconv.SCOPE, __version__)
        self._spans = SpanEmitter(
            tracer_provider.get_tracer(semconv.SCOPE_GEN_AI, __version__, schema_url=semconv.SCHEMA_URL_GEN_AI),
            local_is_ours=not self.providers.own_traces,
            foreign=self.settings.foreign_parent,
            phases=self.settings.phases,
            keep_engine_spans=self.settings.engine_tracing == "keep",
        )
        # In the child of a fork a copy of the user's provider has our instruments already.
        observed = self._metrics is not None and not self.providers.own_metrics
        if not observed:
            self._metrics = MetricEmitter(gen_ai, own, self.recorder.tallies)
            observe_health(own, self)
        hw = meter_provider.get_meter(semconv.SCOPE_HW, __version__, semconv.SCHEMA_URL_CORE)
        self._devices_guard(functools.partial(self.devices.start, hw, own, observed=observed))

    def _make_providers(self) -> Providers:
        from ai_otel import providers, resource

        tracer_provider, meter_provider = self._chosen or (None, None)
        if tracer_provider is not None and meter_provider is not None:
            origin = "passed" if any(self._passed) else "global"
            return providers.Providers(tracer_provider, meter_provider, origin)
        engine = self.engine
        version = self.version_of(engine) if engine is not None else None
        built = resource.build(self.surroundings, engine, version, forked=os.getpid() != self._born)
        path = self.surroundings.otel.get("OTEL_CONFIG_FILE")
        ours = (providers.from_file(path, built) if path else None) or providers.own(built, self.surroundings.otel)
        if tracer_provider is None and meter_provider is None:
            return ours
        return providers.Providers(
            tracer_provider or ours.tracer_provider,
            meter_provider or ours.meter_provider,
            "passed" if any(self._passed) else "global",
            own_traces=tracer_provider is None,
            own_metrics=meter_provider is None,
        )

    def _deliver(self, record: RequestRecord) -> None:
        if not record.complete:
            self._emit_guard(self._complete, record)
            if self._devices_guard(self.devices.hold, record):
                return  # it comes back when its energy is known
        self._emit_guard(self._emit, record)
        record.release()

    def _complete(self, record: RequestRecord) -> None:
        record.complete = True
        for inference in record.inferences:
            if inference.complete is not None:
                # What cannot be read stays unknown; the request is told all the same.
                self._complete_guard(inference.complete, inference)
        record.settle()

    def _emit(self, record: RequestRecord) -> None:
        engine = record.inferences[0].engine if record.inferences else self.engine
        if engine is None or self._spans is None or self._metrics is None:
            return
        context = self._spans.emit(record, engine)
        self._metrics.emit(record, engine, context)
        if context is not None:
            self.devices.emitted(record, context)

    def _finish(self) -> None:
        self._devices_guard(self.devices.stop, self._deliver, self.settings.stop_timeout / 2)
        if self.providers is not None:
            Guard("stop", alone=True)(self.providers.shutdown)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Hand every ended request to the exporters and flush them; `False` where that took longer."""
        deadline = time.monotonic() + timeout_s
        done = self.recorder.flush(timeout_s)
        while self.devices.held and time.monotonic() < deadline:
            time.sleep(0.01)
        done = self.recorder.flush(max(0.0, deadline - time.monotonic())) and not self.devices.held and done
        if self.providers is not None:
            for provider in (self.providers.tracer_provider, self.providers.meter_provider):
                force_flush = getattr(provider, "force_flush", None)
                if force_flush is not None:
                    done = bool(force_flush(int(timeout_s * 1000))) and done
        return done

    def stop(self) -> None:
        """Take all hooks off, hand over what is left, and end."""
        if not self.active:
            return
        self.active = False
        atexit.unregister(self.stop)
        for patcher in self.patchers.values():
            patcher.undo()
        self.recorder.stop(self.settings.stop_timeout)


_handle: Handle | None = None
_lock = threading.Lock()


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    **settings: Any,
) -> Handle:
    """
    Observe the model servers of this process: those that are imported already, and those that will be.

    Without providers, the global ones are used where the user has set them, else private ones made from the `OTEL_*`
    variables; global providers are never set. Keyword arguments are the fields of `Settings` and win over the
    environment. A second call returns the first call's handle.

    Raises `SettingsError` for a setting that makes no sense.
    """
    global _handle  # noqa: PLW0603 - one handle for the process is the point
    with _lock:
        if _handle is not None and _handle.active:
            return _handle
        chosen = Settings.from_environment(**settings)
        handle = Handle(chosen, Surroundings.read(), tracer_provider, meter_provider)
        _handle = handle
    doors.show()
    handle.watch({**ENGINES, **doors.third_party_engines()})
    atexit.register(handle.stop)
    return handle


def uninstrument() -> None:
    """Undo `instrument()`: originals are restored, and what is left is handed over."""
    with _lock:
        handle = _handle
    if handle is not None:
        handle.stop()


def current() -> Handle | None:
    """The handle of this process, if it is instrumented."""
    return _handle if _handle is not None and _handle.active else None
