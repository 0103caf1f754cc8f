"""
The way of a closed record to telemetry, on the recorder's thread.

    read       the adapter reads what the engine kept of each inference (`Inference.read_engine`)
    settle     the record decides its outcome
    defer      with `AI_OTEL_ENERGY`, it waits until the energy of its time is settled
    emit       what the answer says of itself is added where no engine said it (`Exchange.complete`); spans and points
               are created, with explicit times
    release    the engine's objects are let go

Records come in batches: all of a batch are read and settled, then the spans of all are created, then all points.

Each stage runs in a guard of its own: what one cannot do costs its part of the telemetry and nothing else.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakMethod

from ai_otel.energy.stage import DeviceOptions, DeviceStage
from ai_otel.hooks.guard import Guard
from ai_otel.record import RequestRecord
from ai_otel.recorder import Recorder

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Meter

    from ai_otel.emit.metrics import MetricEmitter
    from ai_otel.emit.spans import SpanEmitter
    from ai_otel.export.counts import ExportCounts
    from ai_otel.providers import Providers


class StopTime:
    """
    The time that all stop actions of a process may take together: the end of a server, `uninstrument()`, the exit.

    Time in which several run counts once. Time between them does not count: a process may live on after a server.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._spent_s = 0.0
        self._running = 0
        self._since_s = 0.0

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        with self._lock:
            running_s = self._clock() - self._since_s if self._running else 0.0
            return max(0.0, self._timeout_s - self._spent_s - running_s)

    @contextmanager
    def spend(self) -> Iterator[None]:
        """Count the time until the block ends."""
        with self._lock:
            if not self._running:
                self._since_s = self._clock()
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._spent_s += self._clock() - self._since_s


class Pipeline:
    """
    The recorder and the stages behind it.

    `build` is called on the recorder's thread before the first record, and calls `connect`. `engine` returns the name
    for a record in which no engine was reached. `queue_limit` is a number of records, `interval_s` the time in
    seconds over which they gather, `stop_timeout_s` the time that all stop actions may take together.
    """

    def __init__(
        self,
        build: Callable[[], None],
        engine: Callable[[], str | None],
        devices: DeviceOptions,
        *,
        queue_limit: int,
        interval_s: float,
        stop_timeout_s: float,
    ) -> None:
        self._build = build
        self._engine = engine
        self._stop_timeout_s = stop_timeout_s
        self._stop_time = StopTime(stop_timeout_s)
        self._serves_again_ns: int | None = None
        """A request that begins later shows that the process lives on after a server has stopped."""
        self._providers: Providers | None = None
        self.exports: ExportCounts | None = None
        self._spans: SpanEmitter | None = None
        self._silence: Callable[[], None] = lambda: None
        self._metrics: MetricEmitter | None = None
        # Outermost on their thread: nothing above them could handle what they raise. None is ever switched off: what
        # ten requests in a row made fail, such as a span processor of the application, may work for the next one.
        self._read_guard = Guard("complete", alone=True, lasting=True)
        self._device_guard = Guard("devices", alone=True, lasting=True)
        self._emit_guard = Guard("emit", alone=True, lasting=True)
        self._ready: list[RequestRecord] = []
        self.recorder = Recorder(
            self._process,
            prepare=self._prepare,
            finish_batch=self._emit_ready,
            finish=self._finish,
            # Bound when an engine is attached: nothing of OpenTelemetry is imported at interpreter start.
            capture=lambda: None,
            limit=queue_limit,
            interval_s=interval_s,
        )
        self.devices = DeviceStage(
            devices, self._resume, self.recorder.follow, engine_devices=lambda: self.recorder.engine_devices
        )
        forget = WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: (method := forget()) and method())

    def _after_fork(self) -> None:
        # The parent's exporters and their locks. `_metrics` stays: a user's provider has its instruments in the child.
        self._providers = self._spans = None
        self._stop_time, self._serves_again_ns = StopTime(self._stop_timeout_s), None
        self._ready = []

    # Start.

    def _prepare(self) -> None:
        Guard("start", alone=True)(self._build)

    def connect(self, providers: Providers, spans: SpanEmitter, metrics: MetricEmitter) -> None:
        """Set where records are emitted to."""
        self._providers, self._spans, self._metrics = providers, spans, metrics
        self.exports = providers.exports

    def start_devices(self, hw: Meter, own: Meter, *, observed: bool) -> None:
        """Start sampling devices; `observed` says that the meters have the instruments already."""
        from ai_otel.instruments import silencer

        self._device_guard(functools.partial(self.devices.start, hw, own, observed=observed))
        self._silence = silencer(hw, own)

    @property
    def metrics(self) -> MetricEmitter | None:
        """The emitter of metrics, once connected."""
        return self._metrics

    # The stages.

    def _process(self, record: RequestRecord) -> None:
        if self._serves_again_ns is not None and record.start_ns > self._serves_again_ns:
            self._stop_time, self._serves_again_ns = StopTime(self._stop_timeout_s), None
        self._emit_guard(self._read_and_settle, record)
        if not self._device_guard(self.devices.defer, record):
            self._keep(record)

    def _read_and_settle(self, record: RequestRecord) -> None:
        for inference in record.inferences:
            if inference.read_engine is not None:
                # What cannot be read stays unknown; the request is emitted all the same.
                self._read_guard(inference.read_engine, inference)
        record.settle()

    def _resume(self, record: RequestRecord) -> None:
        """Continue behind the stage that deferred the record; called on the sampler's thread."""
        self.recorder.schedule(self._keep, record)

    def _keep(self, record: RequestRecord) -> None:
        exchange = record.exchange
        if exchange is not None and exchange.complete is not None:
            self._read_guard(exchange.complete, record)
        self._ready.append(record)

    def _emit_ready(self) -> None:
        """Emit the records of a batch, stage by stage: the same code again and again takes two thirds of the time."""
        ready, self._ready = self._ready, []
        contexts = [self._emit_guard(self._emit_spans, record) for record in self._one_by_one(ready)]
        for record, context in zip(self._one_by_one(ready), contexts, strict=True):
            self._emit_guard(self._emit_metrics, record, context)
            record.release()

    def _one_by_one(self, records: list[RequestRecord]) -> Iterator[RequestRecord]:
        for record in records:
            yield record
            self.recorder.between()

    def _engine_of(self, record: RequestRecord) -> str | None:
        return record.inferences[0].engine if record.inferences else self._engine()

    def _emit_spans(self, record: RequestRecord) -> Context | None:
        engine = self._engine_of(record)
        return None if engine is None or self._spans is None else self._spans.emit(record, engine)

    def _emit_metrics(self, record: RequestRecord, context: Context | None) -> None:
        engine = self._engine_of(record)
        if engine is not None and self._metrics is not None:
            self._metrics.emit(record, engine, context)
            if context is not None:
                self.devices.emitted(record, context)

    # Flush and stop.

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Emit every closed record, deferred ones too, and flush the exporters; `False` if that took longer."""
        deadline = time.monotonic() + timeout_s
        done = self.recorder.flush(timeout_s)
        while self.devices.deferred and time.monotonic() < deadline:
            time.sleep(0.01)
        done = self.recorder.flush(max(0.0, deadline - time.monotonic())) and not self.devices.deferred and done
        return (self._providers is None or self._providers.flush(timeout_s)) and done

    def hand_over(self, done: Callable[[], None]) -> float:
        """
        Flush on a thread of its own because a server stops, then call `done` there.

        Returns the seconds that the caller may wait: what is left of the stop timeout.
        """
        stop_time, left_s = self._stop_time, self._stop_time.left_s
        self._serves_again_ns = time.time_ns() + int(left_s * 1e9)
        if not left_s:
            done()
            return left_s

        def flush() -> None:
            with stop_time.spend():
                Guard("flush", alone=True)(self.flush, left_s)
            done()

        threading.Thread(target=flush, name="ai-otel flush", daemon=True).start()
        return left_s

    def _finish(self) -> None:
        self._device_guard(self.devices.stop, self._keep, self._stop_time.left_s / 2)
        self._emit_ready()
        if self._providers is not None:
            Guard("stop", alone=True)(self._providers.shutdown)
        # A user's provider lives on: it would export the last values without end.
        self._silence()

    def stop(self) -> None:
        """Emit what is left, and stop. Returns at the latest when the stop timeout of all stop actions is spent."""
        left_s = self._stop_time.left_s
        with self._stop_time.spend():
            self.recorder.stop(left_s)
