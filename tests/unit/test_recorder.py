from __future__ import annotations

import contextvars
import gc
import threading
from typing import Any

import pytest

from ai_otel import recorder as recorder_module
from ai_otel.http.asgi import Headers
from ai_otel.record import Inference, Outcome, RequestRecord
from ai_otel.recorder import CURRENT, Recorder
from records import a_closed_record, recorder_of


class Stuck:
    """A sink that does not answer until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()
        self.delivered: list[RequestRecord] = []

    def __call__(self, record: RequestRecord) -> None:
        self.entered.set()
        self.released.wait(10)
        self.delivered.append(record)


# ---------------------------------------------------------------- one life of a record


def test_a_closed_record_is_delivered_once_on_another_thread() -> None:
    seen: list[tuple[RequestRecord, str]] = []
    with recorder_of(lambda record: seen.append((record, threading.current_thread().name))) as recorder:
        record = a_closed_record(recorder)
        recorder.close(record)
        assert recorder.flush()
    assert seen == [(record, "ai-otel")]
    assert record.end_ns >= record.start_ns


def test_the_first_close_wins() -> None:
    with recorder_of(lambda _: None) as recorder:
        record = a_closed_record(recorder)
        end_ns = record.end_ns
        recorder.close(record)
        recorder.discard(record)
        assert record.end_ns == end_ns
        assert recorder.open_count == 0


def test_the_first_end_wins() -> None:
    delivered: list[RequestRecord] = []
    with recorder_of(delivered.append) as recorder:
        inference = recorder.begin(Inference("fake", "chat"))
        recorder.end(inference, Outcome.CANCELLED, "cancelled")
        recorder.end(inference, Outcome.FINISHED)
        recorder.flush()
    assert (inference.outcome, inference.error_type) == (Outcome.CANCELLED, "cancelled")
    assert delivered == [inference.record]


def test_a_discarded_record_makes_nothing() -> None:
    delivered: list[RequestRecord] = []
    with recorder_of(delivered.append) as recorder:
        record = recorder.open()
        assert recorder.open_count == 1
        recorder.discard(record)
        recorder.discard(record)
        recorder.close(record)
        recorder.flush()
        assert recorder.open_count == 0
    assert delivered == []


def test_an_inference_joins_the_call_that_is_being_served() -> None:
    delivered: list[RequestRecord] = []
    with recorder_of(delivered.append) as recorder:
        record = recorder.open("chat")
        token = CURRENT.set(record)
        first, second = (recorder.begin(Inference("fake")) for _ in range(2))
        CURRENT.reset(token)
        recorder.end(first, Outcome.FINISHED)
        recorder.end(second, Outcome.FINISHED)
        recorder.flush()
        assert delivered == []  # the call goes on
        recorder.close(record)
        recorder.flush()
    assert delivered == [record]
    assert record.inferences == [first, second]


def test_an_inference_alone_is_a_call_of_its_own() -> None:
    headers = {"traceparent": "00-1-1-01"}
    with recorder_of(lambda _: None) as recorder:
        inference = recorder.begin(Inference("fake", "embeddings"), headers)
        assert inference.record is not None
        assert (inference.record.operation, inference.record.headers) == ("embeddings", headers)
        assert recorder.open_count == 1
        recorder.end(inference, Outcome.FINISHED)
        assert inference.record.closed
        assert recorder.open_count == 0


def test_an_inference_after_the_call_has_ended_is_a_call_of_its_own() -> None:
    """A background task inherits the context of the request that started it."""
    with recorder_of(lambda _: None) as recorder:
        over = a_closed_record(recorder)
        late = contextvars.copy_context()
        late.run(CURRENT.set, over)
        inference = late.run(recorder.begin, Inference("fake"))
        assert inference.record is not over
        assert inference.owns_record
        recorder.end(inference, Outcome.FINISHED)


def test_the_callers_context_is_captured_at_arrival() -> None:
    with recorder_of(lambda _: None) as recorder:
        recorder.capture = lambda: "here"
        assert recorder.open().context == "here"


# ---------------------------------------------------------------- the queue


@pytest.mark.fault(
    "export", "more requests end than can be emitted", "records beyond the limit are dropped and counted"
)
def test_records_beyond_the_limit_are_dropped_and_counted() -> None:
    sink = Stuck()
    with recorder_of(sink, limit=3) as recorder:
        a_closed_record(recorder)
        assert sink.entered.wait(5)
        for _ in range(10):
            a_closed_record(recorder)
        assert len(recorder._queue) == 3
        assert recorder.dropped == {"queue_full": 7}
        assert recorder.open_count == 0
        sink.released.set()
        assert recorder.flush()
    assert len(sink.delivered) == 4


@pytest.mark.fault(
    "requests",
    "requests with large headers, or calls with thousands of prompts, end faster than they are exported",
    "beyond 64 MiB of waiting records more are dropped and counted in ai_otel.record.dropped (queue_bytes)",
)
@pytest.mark.parametrize("kind", ["trace headers", "HTTP headers", "inferences"])
def test_records_beyond_the_limit_of_bytes_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(recorder_module, "MAX_WAITING_BYTES", 3_000_000)
    sink = Stuck()

    def a_large_record() -> None:
        headers: Any = {"traceparent": "x" * 100_000} if kind == "trace headers" else None
        if kind == "HTTP headers":
            headers = Headers([(b"x-large", b"x" * 100_000)])
        record = recorder.open("chat", headers)
        if kind == "inferences":
            record.inferences += [Inference("fake")] * 50
        recorder.close(record)

    with recorder_of(sink) as recorder:
        a_closed_record(recorder)
        assert sink.entered.wait(5)
        for _ in range(256):
            a_closed_record(recorder)  # so few are not measured
        for _ in range(100):
            a_large_record()
        waiting = len(recorder._queue) - 256
        assert 28 <= waiting <= 30
        assert recorder.dropped == {"queue_bytes": 100 - waiting}
        assert recorder.open_count == 0
        sink.released.set()
        assert recorder.flush()
        sink.entered.clear()
        sink.released.clear()
        a_closed_record(recorder)
        assert sink.entered.wait(5)
        for _ in range(256 + 20):
            a_large_record()  # what was delivered makes room
        assert recorder.dropped == {"queue_bytes": 100 - waiting}
        sink.released.set()


def test_flush_waits_for_the_record_that_is_being_delivered() -> None:
    sink = Stuck()
    with recorder_of(sink) as recorder:
        a_closed_record(recorder)
        assert sink.entered.wait(5)
        assert len(recorder._queue) == 0
        assert recorder.flush(0.05) is False
        sink.released.set()
        assert recorder.flush() is True
        assert len(sink.delivered) == 1


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ai-otel"]


def test_one_thread_runs_from_the_first_request_to_the_end() -> None:
    with recorder_of(lambda _: None) as recorder:
        assert own_threads() == []
        recorder.open()
        (thread,) = own_threads()
        assert thread.daemon
        a_closed_record(recorder)
        assert own_threads() == [thread]
    assert own_threads() == []


def test_a_counter_wakes_the_thread_that_will_observe_it() -> None:
    prepared = threading.Event()
    recorder = Recorder(lambda _: None, prepare=prepared.set, interval_s=0.001)
    recorder.counter(()).add("tokens", 1)
    assert prepared.wait(5)
    assert recorder.flush()
    recorder.stop()


@pytest.mark.fault("requests", "no thread can be started", "the next record tries again")
def test_where_no_thread_is_to_be_had_the_next_record_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    delivered: list[RequestRecord] = []
    with recorder_of(delivered.append) as recorder:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            a_closed_record(recorder)
        assert len(recorder._queue) == 1
        a_closed_record(recorder)
        assert recorder.flush()
        assert len(delivered) == 2


@pytest.mark.fault(
    "requests",
    "a signal handler of the application raises while the first request starts the recorder's thread",
    "the application sees its exception; one thread runs, and all later records arrive",
)
@pytest.mark.parametrize("runs", [False, True])
def test_a_signal_handler_that_raises_does_not_silence_the_recorder(
    monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    class Deadline(Exception):
        pass

    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if runs:
            start(thread)
        raise Deadline

    delivered: list[RequestRecord] = []
    prepared: list[int] = []
    recorder = Recorder(delivered.append, prepare=lambda: prepared.append(1), interval_s=0.001)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(Deadline):
            recorder.open("chat")
    a_closed_record(recorder)
    assert recorder.flush()
    assert (len(delivered), len(prepared), recorder.open_count) == (1, 1, 0)
    recorder.stop()


@pytest.mark.fault(
    "requests", "garbage collection ends an abandoned stream inside the recorder", "no deadlock; the record is emitted"
)
def test_a_stream_ended_by_garbage_collection_can_wake_the_recorder() -> None:
    """Dropped streams in a cycle end wherever Python happens to collect: also inside our own waking."""
    delivered: list[RequestRecord] = []
    with recorder_of(delivered.append, interval_s=0.0005) as recorder:

        class Dropped:
            def __init__(self) -> None:
                self.me = self

            def __del__(self) -> None:
                a_closed_record(recorder)

        before = gc.get_threshold()
        gc.set_threshold(20, 2, 2)
        try:
            for _ in range(300):
                Dropped()
                a_closed_record(recorder)
        finally:
            gc.set_threshold(*before)
        gc.collect()
        assert recorder.flush()
    assert len(delivered) == 600


# ---------------------------------------------------------------- the end


def test_stop_delivers_what_is_queued_and_then_finishes() -> None:
    order: list[str] = []
    recorder = Recorder(
        lambda _: order.append("record"),
        prepare=lambda: order.append("prepare"),
        finish=lambda: order.append("finish"),
        interval_s=60,
    )
    for _ in range(3):
        a_closed_record(recorder)
    recorder.stop()  # which does not wait for the batch to gather: that is a minute
    recorder.stop()
    assert order == ["prepare", "record", "record", "record", "finish"]


@pytest.mark.fault("export", "the sink hangs while the process stops", "stopping returns within its time limit")
def test_stop_returns_in_time_beside_a_sink_that_does_not_answer() -> None:
    sink = Stuck()
    recorder = Recorder(sink, interval_s=0.001)
    a_closed_record(recorder)
    assert sink.entered.wait(5)
    recorder.stop(timeout_s=0.2)
    (thread,) = own_threads()
    assert thread.is_alive(), "stop returned while the sink was still waiting"
    sink.released.set()
    thread.join(5)


def test_after_the_end_records_are_counted_as_dropped() -> None:
    recorder = Recorder(lambda _: None)
    open_one = recorder.open()
    recorder.stop()
    recorder.close(open_one)
    assert recorder.dropped == {"stopped": 1}
    assert recorder.open_count == 0
    assert len(recorder._queue) == 0
    recorder.counter(())
    assert recorder.flush(0.1)


def test_an_idle_recorder_stops_at_once_and_prepares_nothing() -> None:
    recorder = Recorder(lambda _: None, prepare=lambda: pytest.fail("prepared"), finish=lambda: pytest.fail("finished"))
    recorder.stop()
