"""No thread of ai-otel ends silently: what its work raises is counted, and it goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import pytest
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from ai_otel import providers
from ai_otel.agent.kubelet_poller import KubeletPoller, PollerOptions
from ai_otel.export import loading
from ai_otel.gpu.sampler import Sampler
from ai_otel.gpu.source import Device, GpuReading
from ai_otel.hooks import daemon, guard
from ai_otel.hooks.daemon import DaemonThread
from ai_otel.record import Inference, RequestRecord
from ai_otel.recorder import Recorder
from ai_otel.settings import Environment, Settings
from ai_otel.start import Handle
from ai_otel.testing import FakeGpu
from harness.polling import eventually
from records import call, unknown

# As PyO3 makes it: no `Exception`, so that Python code does not catch it by accident.
PANIC = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
RAISED = [PANIC("called `Option::unwrap()` on a `None` value"), SystemExit(1), KeyboardInterrupt(), ValueError("no")]


@pytest.fixture(autouse=True)
def no_failures_so_far(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(daemon, "PAUSE_S", 0.001)
    logging.getLogger("ai_otel").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("ai_otel").setLevel(logging.NOTSET)
    guard.errors.clear()
    guard.disabled.clear()


class Failing:
    """Raises the first `times` times that it is called, each time something else."""

    def __init__(self, times: int, then: Callable[..., Any] = lambda *_: None) -> None:
        self.left = times
        self.calls = 0
        self._then = then

    def __call__(self, *arguments: Any, **_: Any) -> Any:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise RAISED[self.left % len(RAISED)]
        return self._then(*arguments)


# ---------------------------------------------------------------- the helper


def test_a_loop_that_raises_is_called_again_and_counted() -> None:
    ended = threading.Event()
    thread = DaemonThread("d", Failing(len(RAISED), ended.set))
    assert thread.start()
    assert ended.wait(10)
    eventually(lambda: not thread.alive, 10)
    assert guard.errors == {"thread d": len(RAISED)}


def test_stopping_cuts_the_pause_short_and_the_loop_ends_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "PAUSE_S", 60.0)
    loop = Failing(1)
    thread = DaemonThread("d", loop)
    thread.start()
    eventually(lambda: loop.calls == 1, 10)
    assert thread.stop(10)
    assert loop.calls == 2


def test_a_loop_that_always_raises_ends_when_it_is_stopped() -> None:
    loop = Failing(10_000)
    thread = DaemonThread("d", loop)
    thread.start()
    eventually(lambda: loop.calls > guard.FAILURES_IN_A_ROW + 1, 10)
    assert thread.stop(10)


# ---------------------------------------------------------------- the recorder


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.fault(
    "requests",
    "an object of the engine panics or requests the interpreter's exit while ai-otel reads it",
    "the failure is counted, the request's span has what was known before, and later requests are complete",
)
def test_the_recorder_survives_an_engine_object_that_raises_anything(error: BaseException) -> None:
    def unreadable(_: Inference) -> NoReturn:
        raise error

    handle = Handle(Settings(flush_interval=0.001, gpu=("none",), traces=False, metrics=False), Environment.read({}))
    delivered: list[RequestRecord] = []
    emit = handle.pipeline._emit_spans
    handle.pipeline._emit_spans = lambda record: (delivered.append(record), emit(record))[1]  # type: ignore[method-assign]
    try:
        for inference in (unknown(model="tiny", read_engine=unreadable), unknown(model="tiny")):
            record = call(inference)
            handle.recorder._queue.append((handle.pipeline._process, record))
            handle.recorder.wake()
            assert handle.recorder.flush(20)
    finally:
        handle.stop()
    assert len(delivered) == 2
    assert guard.errors == {"complete": 1}


def test_the_recorder_survives_a_step_that_raises_anything() -> None:
    delivered: list[RequestRecord] = []
    recorder = Recorder(Failing(len(RAISED), delivered.append), interval_s=0.001)
    for _ in range(len(RAISED) + 1):
        recorder.close(recorder.open("chat"))
        assert recorder.flush(10)
    recorder.stop()
    assert len(delivered) == 1
    assert guard.errors == {"recorder": len(RAISED)}


def test_records_that_were_queued_when_the_loop_failed_are_delivered() -> None:
    delivered: list[RequestRecord] = []
    recorder = Recorder(delivered.append, interval_s=1e300)  # `SimpleQueue.get` raises OverflowError
    recorder.close(recorder.open("chat"))
    eventually(lambda: len(delivered) == 1, 10)
    recorder.close(recorder.open("chat"))
    assert recorder.flush(10)
    recorder.stop()
    assert len(delivered) == 2
    assert guard.errors["thread ai-otel"] >= 1


def test_what_fails_before_the_first_record_is_not_repeated() -> None:
    prepare = Failing(1)
    delivered: list[RequestRecord] = []
    recorder = Recorder(delivered.append, prepare=prepare, interval_s=0.001)
    recorder.close(recorder.open("chat"))
    assert recorder.flush(10)
    recorder.stop()
    assert (prepare.calls, len(delivered)) == (1, 1)


# ---------------------------------------------------------------- devices

GPU = Device("GPU-1", "fake")


class Panicking(FakeGpu):
    """A driver's binding that panics in the first readings."""

    def __init__(self, times: int) -> None:
        super().__init__({GPU: GpuReading(power_w=300.0)})
        self._failing = Failing(times, super().read)

    def read(self, device: Device) -> GpuReading:
        reading: GpuReading = self._failing(device)
        return reading


@pytest.mark.fault(
    "gpu",
    "a driver's library panics or requests the interpreter's exit in a reading",
    "the failure is counted, and the next sample has the device's values",
)
def test_the_sampler_survives_a_reading_that_raises_anything() -> None:
    sampler = Sampler(lambda: {"fake": Panicking(len(RAISED))}, interval_s=0.01)
    sampler.start()
    try:
        eventually(lambda: [sample.reading.power_w for sample in sampler.snapshot.samples] == [300.0], 10)
    finally:
        assert sampler.stop()
    assert guard.errors == {"gpu fake read": len(RAISED)}


def test_the_sampler_survives_a_measurement_of_itself_that_raises_anything() -> None:
    on_collected = Failing(len(RAISED))
    sampler = Sampler(lambda: {"fake": Panicking(0)}, interval_s=0.01, on_collected=on_collected)
    sampler.start()
    try:
        eventually(lambda: on_collected.calls > len(RAISED), 10)
    finally:
        assert sampler.stop()
    assert guard.errors == {"thread ai-otel gpu": len(RAISED)}


# ---------------------------------------------------------------- the agent


@pytest.mark.fault(
    "gpu",
    "a poll of the node agent fails unexpectedly, more than ten times in a row",
    "each failure is counted, `/healthz` names it, and polling continues",
)
def test_the_poller_survives_polls_that_raise_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ai_otel.agent.kubelet_poller.MIN_INTERVAL_S", 0.001)
    options = PollerOptions(Path("/nonexistent"), Path("/nonexistent"), ("*",), interval_s=0.001)
    poller = KubeletPoller(options, lambda: [GPU])
    times = 3 * len(RAISED)
    assert times > guard.FAILURES_IN_A_ROW
    failing = Failing(times, lambda: poller.view)
    monkeypatch.setattr(poller, "poll", failing)
    poller.start()
    try:
        eventually(lambda: failing.calls > times, 10)
        assert "kubelet" in poller.view.errors
        assert poller.alive
    finally:
        poller.stop()
    assert guard.errors == {"poll": times}


# ---------------------------------------------------------------- exporters


class Spans(SpanExporter):
    """Raises in its first exports."""

    made: ClassVar[list[Spans]] = []

    def __init__(self) -> None:
        self.made.append(self)
        self.exported: list[str] = []
        self._export = Failing(len(RAISED), lambda spans: self.exported.extend(span.name for span in spans))

    def export(self, spans: Any) -> SpanExportResult:
        self._export(spans)
        return SpanExportResult.SUCCESS


class Metrics(MetricExporter):
    """Raises in its first exports."""

    made: ClassVar[list[Metrics]] = []

    def __init__(self) -> None:
        super().__init__()
        self.made.append(self)
        self.exports = Failing(len(RAISED))

    def export(self, metrics_data: Any, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
        self.exports(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        pass


@pytest.mark.fault(
    "export",
    "an exporter panics or requests the interpreter's exit",
    "the batch is lost, the failure is counted, and the next batch is exported",
)
def test_exporters_may_raise_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "1")
    classes = {"opentelemetry_traces_exporter": Spans, "opentelemetry_metrics_exporter": Metrics}
    monkeypatch.setattr(loading, "load", lambda group, _: classes[group])
    made = providers.own(Resource({}), {})
    spans, metrics = Spans.made.pop(), Metrics.made.pop()
    try:
        tracer = made.tracer_provider.get_tracer("t")

        def exported() -> bool:
            tracer.start_span("s").end()
            return bool(spans.exported)

        eventually(exported, 10)
        made.meter_provider.get_meter("m").create_counter("c").add(1)
        eventually(lambda: metrics.exports.calls > len(RAISED), 10)
    finally:
        made.shutdown()
    assert guard.errors["Spans.export"] == len(RAISED)


def test_a_collection_may_raise_anything() -> None:
    collected = Failing(len(RAISED))
    reader = PeriodicExportingMetricReader(Metrics(), export_interval_millis=1)
    reader.collect = collected  # type: ignore[method-assign]
    providers._bind(reader)
    eventually(lambda: collected.calls > len(RAISED), 10)
    reader.shutdown()
    assert guard.errors["PeriodicExportingMetricReader.collect"] == len(RAISED)
