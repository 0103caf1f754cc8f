"""The recorder with many threads and in forked children."""

from __future__ import annotations

import bisect
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from ai_otel.hooks import forks
from ai_otel.record import RequestRecord
from records import a_closed_record, recorder_of


def test_flush_never_returns_before_everything_is_delivered() -> None:
    """Again and again, because it was a matter of a few instructions."""
    delivered: list[RequestRecord] = []

    def slowly(record: RequestRecord) -> None:
        time.sleep(0.0005)
        delivered.append(record)

    with recorder_of(slowly, interval_s=0.0001) as recorder:
        for count in range(1, 150):
            a_closed_record(recorder)
            if count % 3 == 0:
                assert recorder.flush()
                assert len(delivered) == count


def test_records_of_many_threads_all_arrive() -> None:
    delivered: list[RequestRecord] = []
    with recorder_of(delivered.append, limit=100_000) as recorder:
        ready = threading.Barrier(8)

        def serve() -> None:
            ready.wait()
            for _ in range(200):
                a_closed_record(recorder)

        threads = [threading.Thread(target=serve) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert recorder.flush()
        assert len(own_threads()) == 1
        assert recorder.open_count == 0
    assert len(delivered) == 1600
    assert len({id(record) for record in delivered}) == 1600


def test_a_burst_of_records_leaves_the_interpreter_to_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between records the lock is given away, so no run of records is longer than the limit and one record."""
    pauses: list[float] = []
    one_s = forks.TURN_S / 3
    done_s: list[float] = []

    def paused(seconds: float) -> None:
        if seconds == forks.PAUSE_S:
            pauses.append(time.perf_counter())
        else:  # `flush`, on this thread
            time.sleep(seconds)

    def busily(_: RequestRecord) -> None:
        end_s = time.perf_counter() + one_s
        while time.perf_counter() < end_s:
            pass
        done_s.append(time.perf_counter())

    with recorder_of(busily, interval_s=0.05) as recorder:
        monkeypatch.setattr(forks, "time", _Clock(paused))
        for _ in range(300):
            a_closed_record(recorder)
        assert recorder.flush()
    runs: Counter[int] = Counter(bisect.bisect(pauses, done) for done in done_s)
    assert len(done_s) == 300
    # Three or four records fit into the limit; fewer where this machine was busy in between.
    assert max(runs.values()) <= 4, runs


@pytest.mark.fault(
    "export",
    "the process ends while threads of the application compute on, and records wait",
    "the records are emitted without pauses for those threads, so that all leave within the time for it",
)
def test_records_that_wait_at_the_end_are_emitted_without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    done: list[RequestRecord] = []

    def busily(record: RequestRecord) -> None:
        end_s = time.perf_counter() + forks.TURN_S
        while time.perf_counter() < end_s:
            pass
        done.append(record)

    with recorder_of(busily, interval_s=60) as recorder:
        monkeypatch.setattr(forks, "time", _Clock(pauses.append))
        for _ in range(100):
            a_closed_record(recorder)
        recorder.stop()
    assert len(done) == 100
    assert forks.PAUSE_S not in pauses


class _Clock:
    """The module `time`, with another `sleep`."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self.sleep = sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ai-otel"]


# ---------------------------------------------------------------- fork


def in_a_child(work: Callable[[], bool]) -> bool:
    """Whether `work` held in a forked child."""
    child = os.fork()
    if child == 0:
        try:
            held = work()
        except BaseException:  # noqa: BLE001 - for any exception the child must end here
            held = False
        os._exit(0 if held else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_child_starts_empty_and_reports_only_its_own() -> None:
    delivered: list[RequestRecord] = []
    with recorder_of(delivered.append) as recorder:
        inherited = recorder.open("chat")
        a_closed_record(recorder)
        recorder.flush()
        recorder.dropped["queue_full"] += 5
        recorder.counter(()).add("tokens", 7)

        def child() -> bool:
            delivered.clear()
            fresh = (
                recorder.open_count,
                len(recorder._queue),
                dict(recorder.dropped),
                list(recorder.counters.values("tokens")),
            )
            recorder.close(inherited)  # the parent's to report
            recorder.discard(recorder.open())
            own = a_closed_record(recorder)
            return (
                fresh == (0, 0, {}, [])
                and recorder.flush()
                and delivered == [own]
                and recorder.dropped == {"fork": 1}
                and recorder.open_count == 0
            )

        assert in_a_child(child)
        recorder.close(inherited)
        assert recorder.flush()
        assert recorder.dropped == {"queue_full": 5}
    assert len(delivered) == 2
