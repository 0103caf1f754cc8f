"""The fourth law: every request ends once, in any order of its marks."""

from __future__ import annotations

import contextvars
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings, strategies as st

from ai_otel.record import Exchange, Inference, Outcome, RequestRecord
from ai_otel.recorder import CURRENT, Recorder
from ai_otel.testing import captured

OUTCOMES = st.sampled_from(list(Outcome))
MARKS = st.one_of(
    st.tuples(st.just("open"), st.none()),
    st.tuples(st.just("begin inside"), st.none()),
    st.tuples(st.just("begin alone"), st.none()),
    st.tuples(st.just("end"), OUTCOMES),
    st.tuples(st.just("close"), st.none()),
    st.tuples(st.just("discard"), st.none()),
    st.tuples(st.just("hang up"), st.none()),
    st.tuples(st.just("status"), st.sampled_from([200, 400, 500, 503])),
)


class Life:
    """Carries out marks on records that are chosen from all that there are."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.records: list[RequestRecord] = []
        self.inferences: list[Inference] = []
        self.discarded: list[RequestRecord] = []

    def carry_out(self, mark: str, value: Any, choose: int) -> None:
        record = self.records[choose % len(self.records)] if self.records else None
        inference = self.inferences[choose % len(self.inferences)] if self.inferences else None
        if mark == "open":
            self.records.append(self.recorder.open("chat"))
            self.records[-1].exchange = Exchange("POST")
        elif mark == "begin alone" or (mark == "begin inside" and record is None):
            self._begin(None)
        elif mark == "begin inside":
            self._begin(record)
        elif mark == "end" and inference is not None:
            self.recorder.end(inference, value, None if value is Outcome.FINISHED else value.value)
        elif mark == "close" and record is not None:
            self.recorder.close(record)
        elif mark == "discard" and record is not None:
            self.discarded += [] if record.closed else [record]
            self.recorder.discard(record)
        elif mark == "hang up" and record is not None and record.exchange is not None:
            record.exchange.hung_up = True
        elif mark == "status" and record is not None and record.exchange is not None:
            record.exchange.status = value

    def _begin(self, record: RequestRecord | None) -> None:
        context = contextvars.copy_context()
        context.run(CURRENT.set, record)
        inference = context.run(self.recorder.begin, Inference("fake", "chat", model="tiny"))
        self.inferences.append(inference)
        if inference.record is not None and inference.record not in self.records:
            self.records.append(inference.record)


@settings(max_examples=150)
@given(marks=st.lists(st.tuples(MARKS, st.integers(0, 5)), max_size=25))
def test_a_record_ends_at_most_once_in_any_order_of_marks(marks: list[tuple[tuple[str, Any], int]]) -> None:
    delivered: Counter[int] = Counter()
    recorder = Recorder(lambda record: delivered.update([id(record)]), interval_s=0.0001)
    life = Life(recorder)
    for (mark, value), choose in marks:
        life.carry_out(mark, value, choose)
        open_ones = [record for record in life.records if not record.closed]
        assert recorder.open_count == len(open_ones)
    for record in life.records:
        recorder.close(record)
    assert recorder.flush()
    recorder.stop()
    assert recorder.open_count == 0
    kept = [record for record in life.records if record not in life.discarded]
    assert delivered == {id(record): 1 for record in kept}


@settings(max_examples=40)
@given(marks=st.lists(st.tuples(MARKS, st.integers(0, 5)), max_size=25))
def test_every_record_that_ended_has_one_span_with_an_outcome(marks: list[tuple[tuple[str, Any], int]]) -> None:
    with captured(attach=False, engine="fake", phases=False, flush_interval=0.0001) as telemetry:
        life = Life(telemetry.recorder)
        for (mark, value), choose in marks:
            life.carry_out(mark, value, choose)
        for record in life.records:
            telemetry.recorder.close(record)
        requests = [span for span in telemetry.spans if span.parent is None]
        kept = [record for record in life.records if record not in life.discarded]
        assert len(requests) == len(kept)
        assert all(
            (span.attributes or {}).get("ai_otel.outcome") in {each.value for each in Outcome} for span in requests
        )
        points = telemetry.points("gen_ai.server.request.duration")
        assert sum(point.count for point in points) == len(kept)


def in_threads(count: int, work: Callable[[], None]) -> None:
    ready = threading.Barrier(count)

    def begin() -> None:
        ready.wait()
        work()

    threads = [threading.Thread(target=begin) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_requests_of_many_threads_end_once_each() -> None:
    delivered: Counter[int] = Counter()
    records: list[RequestRecord] = []
    recorder = Recorder(lambda record: delivered.update([id(record)]), interval_s=0.0001, limit=100_000)

    def serve() -> None:
        for number in range(150):
            record = recorder.open("chat")
            records.append(record)
            context = contextvars.copy_context()
            context.run(CURRENT.set, record)
            inference = context.run(recorder.begin, Inference("fake"))
            recorder.end(inference, Outcome.FINISHED)
            (recorder.discard if number % 3 == 0 else recorder.close)(record)
            recorder.close(record)

    in_threads(6, serve)
    assert recorder.flush()
    recorder.stop()
    assert set(delivered.values()) == {1}
    assert sum(delivered.values()) == 6 * 100
    assert recorder.open_count == 0
