"""The recorder with many threads and in forked children."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

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
