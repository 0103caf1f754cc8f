"""The wiring: settings → resource → providers → pipeline → adapters. The only file that imports across."""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from ai_otel import activation
from ai_otel.activation import first_engine
from ai_otel.energy.stage import DeviceOptions
from ai_otel.engines import ENGINES, EngineEntry
from ai_otel.engines.adapter import warn_blocked, warn_out_of_range
from ai_otel.hooks import guard
from ai_otel.hooks.forks import FORKS, IMPORTS_S
from ai_otel.hooks.guard import Guard
from ai_otel.hooks.imports import IMPORTS
from ai_otel.hooks.patch import Patcher, imported_version
from ai_otel.inputs.shown import shown
from ai_otel.pipeline import Pipeline
from ai_otel.settings import Environment, Settings

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import TracerProvider

    from ai_otel.engines.adapter import EngineAdapter
    from ai_otel.http.instrumentation import HttpInstrumentation
    from ai_otel.providers import Providers, UserProviders
    from ai_otel.recorder import Recorder

log = logging.getLogger("ai_otel")


class Handle:
    """What runs in this process. Created by `instrument()`, stopped by `uninstrument()`."""

    def __init__(
        self,
        settings: Settings,
        environment: Environment,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self.settings = settings
        self.environment = environment
        self.adapters: dict[str, EngineAdapter] = {}
        self.patchers: dict[str, Patcher] = {}
        self.providers: Providers | None = None
        self.active = True
        self._attached_children = False
        self._http: HttpInstrumentation | None = None
        self._own_name: str | None = None
        self._passed = (tracer_provider, meter_provider)
        self._users: UserProviders | None = None
        self._born = first_engine.first_pid()
        self.pipeline = Pipeline(
            self._build,
            lambda: self.engine,
            DeviceOptions(
                sources=settings.gpu,
                interval_s=settings.gpu_interval,
                processes=settings.gpu_processes,
                lock_dir=settings.lock_dir,
                energy=settings.energy,
                energy_shared=settings.energy_shared,
                price=settings.price,
                variables=environment.variables,
            ),
            queue_limit=settings.queue_limit,
            interval_s=settings.flush_interval,
            stop_timeout_s=settings.stop_timeout,
        )
        self.recorder = self.pipeline.recorder

    # Engines.

    def watch(self, engines: Mapping[str, EngineEntry]) -> None:
        """Attach each engine's adapter as soon as one of its packages is imported."""
        wanted = self.settings.engines
        for name in wanted:
            if name not in engines and name != self.settings.provider:
                log.warning(
                    "ai-otel: AI_OTEL_ENGINES names %s; known are %s, and the provider %s",
                    shown(name),
                    ", ".join(sorted(engines)),
                    shown(self.settings.provider),
                )
        for name, engine in engines.items():
            if wanted and name not in wanted:
                continue
            attaching = Guard(f"attach {name}")
            for package in engine.packages:
                _when_imported(package, attaching, self._attach, name, engine)
        _when_imported("multiprocessing.util", Guard("attach multiprocessing"), self._attach_children)
        if self.settings.edge:
            for module in first_engine.FRAMEWORKS:
                _when_imported(module, Guard("attach edge"), self._attach_http)

    def _attach(self, name: str, engine: EngineEntry, _module: ModuleType) -> None:
        if not self.active or name in self.adapters:
            return
        self._get_ready()
        module, _, cls = engine.adapter.partition(":")
        adapter: EngineAdapter = getattr(importlib.import_module(module), cls)()
        patcher = Patcher(name, lambda: self.version_of(name))
        self.adapters[name] = adapter
        self.patchers[name] = patcher
        warn_out_of_range(name, self.version_of(name), adapter)
        adapter.attach(self.recorder, patcher)
        warn_blocked(adapter, self.environment.variables)

    def _get_ready(self) -> None:
        """Prepare for the first request: an engine is there, or the application reports its own."""
        from opentelemetry.context import get_current

        self.recorder.capture = get_current
        self._choose()
        # Exit runs backwards: before the providers that the user has set up since we began.
        atexit.unregister(self.stop)
        atexit.register(self.stop)

    def serve(self, name: str) -> Recorder:
        """Return the recorder for inferences that the application reports itself, under a name as engines have one."""
        if self._own_name is None:
            self._own_name = name
            if not self.adapters:
                # The application's thread imports here, while another one may fork.
                with FORKS.held_off(IMPORTS_S):
                    self._get_ready()
        return self.recorder

    def _attach_http(self, _module: ModuleType | None = None) -> None:
        if not self.active or self._http is not None:
            return
        from ai_otel import providers  # noqa: F401 - takes a while: not when the first request is served
        from ai_otel.http.answered import Answers
        from ai_otel.http.instrumentation import HttpInstrumentation
        from ai_otel.http.routes import Routes
        from ai_otel.http.view import View

        view = View(
            Routes({route.template: route.operation for route in self.settings.routes}),
            Answers(self.settings.provider, lambda: bool(self.adapters)),
            self._app_seen,
        )
        self._http = HttpInstrumentation(self.recorder, self._serving, view, self._hand_over)
        self.patchers.update(self._http.patchers)

    @property
    def http(self) -> HttpInstrumentation | None:
        """The HTTP view, also where no framework is imported; `None` where it is off."""
        if self._http is None and self.settings.edge:
            self._attach_http()
        return self._http

    def _serving(self) -> bool:
        return bool(self.adapters or self._own_name) and self.active

    def _app_seen(self) -> None:
        """An application serves in this process: its devices are sampled from now on."""
        if not self.active:
            return
        if self.engine is None:
            if self.settings.engines and self.settings.provider not in self.settings.engines:
                return  # only these engines are wanted
            self.serve(self.settings.provider)
        self.recorder.wake()

    def _attach_children(self, util: ModuleType) -> None:
        """Have the children of `multiprocessing` export at their end: `os._exit` ends them, without exit handlers."""
        if self._attached_children:
            return
        self._attached_children = True

        def at_end(handle: Handle) -> None:
            # The lowest priority is the last: after the application's own.
            util.Finalize(None, handle.stop, exitpriority=-1_000_000)

        util.register_after_fork(self, at_end)
        if util.process.parent_process() is not None:
            at_end(self)

    def _hand_over(self, done: Callable[[], None]) -> float:
        if self.engine is not None:
            return self.pipeline.hand_over(done)
        done()
        return 0.0

    @property
    def engine(self) -> str | None:
        """The engine that this process serves: the first that was attached, else what the application says."""
        return next(iter(self.adapters), self._own_name)

    def version_of(self, name: str) -> str | None:
        """The version of an attached engine."""
        adapter = self.adapters[name]
        versions = (imported_version(package, adapter.distributions) for package in adapter.packages)
        return next((version for version in versions if version is not None), None)

    # On the recorder's thread.

    def _choose(self) -> UserProviders:
        """Settle on the user's providers, if there are any: once, when the first engine is imported."""
        if self._users is None:
            from ai_otel import providers

            self._users = providers.users(*self._passed)
        return self._users

    def _resource(self) -> Resource:
        from ai_otel import resource

        engine = self.engine
        version = self.version_of(engine) if engine in self.adapters else None
        return resource.build(self.environment, engine, version, forked=os.getpid() != self._born)

    def _build(self) -> None:
        from ai_otel.inputs.otel import readable

        # Tracers and meters read variables too, and so do modules that are imported on the way.
        with readable():
            self._connect()

    def _connect(self) -> None:
        from opentelemetry import metrics, trace

        from ai_otel import providers, semconv
        from ai_otel.emit.health import observe_health
        from ai_otel.emit.metrics import MetricEmitter
        from ai_otel.emit.spans import SpanEmitter
        from ai_otel.version import __version__

        self.providers = chosen = providers.choose(
            self._choose(), self._resource, self.environment.otel, direct=self.settings.emitter == "direct"
        )
        tracer_provider = chosen.tracer_provider if self.settings.traces else trace.NoOpTracerProvider()
        meter_provider = chosen.meter_provider if self.settings.metrics else metrics.NoOpMeterProvider()
        gen_ai = meter_provider.get_meter(semconv.SCOPE_GEN_AI, __version__, semconv.SCHEMA_URL_GEN_AI)
        own = meter_provider.get_meter(semconv.SCOPE, __version__)
        hw = meter_provider.get_meter(semconv.SCOPE_HW, __version__, semconv.SCHEMA_URL_CORE)
        spans = SpanEmitter(
            tracer_provider.get_tracer(semconv.SCOPE_GEN_AI, __version__, schema_url=semconv.SCHEMA_URL_GEN_AI),
            same_provider=not chosen.own_traces,
            foreign=self.settings.foreign_parent,
            phases=self.settings.phases,
            keep_engine_spans=self.settings.engine_tracing == "keep",
        )
        # In the child of a fork, a copy of the user's provider has the instruments already.
        emitter = self.pipeline.metrics if not chosen.own_metrics else None
        observed = emitter is not None
        if emitter is None:
            emitter = MetricEmitter(gen_ai, own, self.recorder.counters)
            observe_health(own, self.recorder, guard, lambda: self.pipeline.exports)
        self.pipeline.connect(chosen, spans, emitter)
        self.pipeline.start_devices(hw, own, observed=observed)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Export every ended request; `False` if that took longer than `timeout_s` seconds."""
        return self.pipeline.flush(timeout_s)

    def stop(self) -> None:
        """Take all hooks off, export what is left, and stop."""
        if not self.active:
            return
        self.active = False
        atexit.unregister(self.stop)
        for patcher in self.patchers.values():
            patcher.undo()
        self.pipeline.stop()
        FORKS.detach()


def _when_imported(module: str, guard: Guard, attach: Callable[..., None], *arguments: Any) -> None:
    """Have a handle's method called when a module is imported. The finder may keep the call for good, but no handle."""
    method = WeakMethod(attach)

    def imported(found: ModuleType) -> None:
        if (bound := method()) is not None:
            with FORKS.held_off(IMPORTS_S):
                guard(bound, *arguments, found)

    IMPORTS.when_imported(module, imported)


_handle: Handle | None = None
_lock = threading.Lock()


def _unlock() -> None:
    global _lock  # noqa: PLW0603 - in the child of a fork, the thread that held it does not exist
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock)


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

    Raises `SettingsError` for an invalid setting.
    """
    global _handle  # noqa: PLW0603 - one handle for the process is the point
    with _lock:
        if _handle is not None and _handle.active:
            return _handle
        chosen = Settings.from_environment(**settings)
        handle = Handle(chosen, Environment.read(), tracer_provider, meter_provider)
        _handle = handle
    first_engine.stop_waiting()
    FORKS.attach()
    activation.show()
    handle.watch({**ENGINES, **activation.third_party_engines()})
    atexit.register(handle.stop)
    return handle


def uninstrument() -> None:
    """Undo `instrument()`: originals are restored, and what is left is handed over."""
    first_engine.stop_waiting()
    with _lock:
        handle = _handle
    if handle is not None:
        handle.stop()


def current() -> Handle | None:
    """The handle of this process, if it is instrumented."""
    return _handle if _handle is not None and _handle.active else None
