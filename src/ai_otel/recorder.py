"""
Holds open records, and hands closed ones to one daemon thread through a bounded queue.

Everything here that runs on a request's path is a few attribute writes and one `deque.append`: no lock, no
OpenTelemetry call, nothing that waits.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from typing import Any
from weakref import WeakMethod

from ai_otel.engine_counters import EngineCounter, EngineCounters, Labels
from ai_otel.hooks.daemon import DaemonThread
from ai_otel.hooks.forks import FORKS, IMPORTS_S
from ai_otel.hooks.guard import Guard
from ai_otel.record import Inference, Outcome, RequestRecord, begin_clock, clock

CURRENT: ContextVar[RequestRecord | None] = ContextVar("ai_otel_record", default=None)
"""The record of the call that the running task serves. Set and reset inside one coroutine, never across a `yield`."""

MAX_WAITING_BYTES = 64 * 2**20
"""Of the records that wait, beside their number: a call may have thousands of inferences, or large headers."""
_MEASURED_FROM = 256
"""Fewer waiting records are not measured."""
_INFERENCE_BYTES = 2048

HURRY = 1024
"""
With more waiting records there are no pauses for the server's threads, so that the queue does not fill up. Nor are
there any at the end of the process, which may take a few seconds only.
"""
BATCH = 64
"""Records that are taken from the queue before `finish_batch` is called."""

Step = Callable[[RequestRecord], None]


def _no_context() -> object | None:
    return None


def _nothing() -> None:
    return None


def _size_of(record: RequestRecord) -> int:
    """About how many bytes a closed record keeps in memory."""
    headers = record.headers
    size = getattr(headers, "size", None) if headers else 0
    if size is None:
        texts: Iterable[object] = itertools.chain.from_iterable((headers or {}).items())
        size = sum(len(text) for text in texts if isinstance(text, str))
    answer = record.exchange.answer if record.exchange is not None else None
    kept = answer.kept_bytes if answer is not None else 0
    return int(size) + kept + _INFERENCE_BYTES * (1 + len(record.inferences))


class Recorder:
    """
    Opens, closes and queues records.

    `deliver` is called on the recorder's own thread, once for each closed record; `finish_batch` after some of them and
    whenever none is left; `prepare` before the first, `finish` after the last. What they raise is counted, and the
    thread goes on. `capture` returns the caller's current
    OpenTelemetry context. Beyond `limit` waiting records, or `MAX_WAITING_BYTES` of them, more are
    dropped and counted in `dropped`.
    """

    def __init__(
        self,
        deliver: Step,
        *,
        prepare: Callable[[], None] = _nothing,
        finish_batch: Callable[[], None] = _nothing,
        finish: Callable[[], None] = _nothing,
        capture: Callable[[], Any] = _no_context,
        limit: int = 8192,
        interval_s: float = 0.1,
    ) -> None:
        self._deliver = deliver
        self._prepare = prepare
        self._finish_batch = finish_batch
        self._finish = finish
        self.capture = capture
        self._limit = limit
        self._interval_s = interval_s
        self.dropped: Counter[str] = Counter()
        self.counters = EngineCounters()
        self._begin_life()
        forget = WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: (method := forget()) and method())

    def _begin_life(self) -> None:
        self._queue: deque[tuple[Step, RequestRecord]] = deque()
        # An Event's lock would be held when garbage collection ends a dropped stream, which wakes us from inside it.
        self._bell: SimpleQueue[None] = SimpleQueue()
        # Added to where records are closed, and where they are taken out: one writer each.
        self._bytes_in = self._bytes_out = 0
        self._signalled = False
        self._prepared = False
        self._thread = DaemonThread("ai-otel", self._run)
        self._guard = Guard("recorder", alone=True, lasting=True)
        self._starting = threading.Lock()
        self._stopped = False
        self.generation = os.getpid()
        self.open_count = 0
        self.engine_devices: int | None = None
        """Number of devices that the engine computes on, the first of the visible ones; `None` if it is unknown."""
        self._started: deque[Inference] | None = None
        self.between: Callable[[], None] = _nothing
        """Called on the recorder's thread between two steps, to let the server's threads and forks go first."""

    def _after_fork(self) -> None:
        # What the parent had recorded or was recording is the parent's to report.
        self._begin_life()
        self.dropped.clear()
        self.counters.clear()

    def open(self, operation: str | None = None, headers: Mapping[str, str] | None = None) -> RequestRecord:
        """Open the record of one call."""
        record = RequestRecord.opened(operation, headers, self.capture(), self.generation)
        if not self._prepared:
            # Everything is made ready while the first request runs; a short script may have no second one.
            self.wake()
        self.open_count += 1
        return record

    def begin(self, inference: Inference, headers: Mapping[str, str] | None = None) -> Inference:
        """
        Begin one engine request, inside the call that is being served or as a call of its own.

        `headers` carry the caller's trace context where no HTTP middleware read it before.
        """
        record = CURRENT.get()
        if record is None or record.closed:
            record = self.open(inference.operation, headers)
            inference.owns_record = True
            inference.start_ns, inference._started = record.start_ns, record._started  # noqa: SLF001
        else:
            begin_clock(inference, record)
        inference.record = record
        record.inferences.append(inference)
        if self._started is not None:
            self._started.append(inference)
        return inference

    def end(self, inference: Inference, outcome: Outcome, error_type: str | None = None) -> None:
        """End one engine request; the first end counts, later ones are ignored."""
        if inference.outcome is not None:
            return
        inference.outcome = outcome
        inference.error_type = error_type
        inference.end_ns = end_ns = clock(inference)
        if inference.owns_record and inference.record is not None:
            self._close(inference.record, end_ns)

    def close(self, record: RequestRecord, end_ns: int | None = None) -> None:
        """Close a record and queue it; the first close counts. It ends at `end_ns`, or now."""
        self._close(record, clock(record) if end_ns is None else end_ns)

    def _close(self, record: RequestRecord, end_ns: int) -> None:
        if record.closed:
            return
        record.closed = True
        record.end_ns = end_ns
        if record.generation != self.generation:
            self.dropped["fork"] += 1
            return
        self.open_count -= 1
        queue = self._queue
        waiting = len(queue)
        if self._stopped:
            self.dropped["stopped"] += 1
        elif waiting >= self._limit:
            self.dropped["queue_full"] += 1
            record.release()
        elif waiting >= _MEASURED_FROM and not self._has_room_for(record):
            self.dropped["queue_bytes"] += 1
            record.release()
        else:
            # As `schedule`, without its calls: it runs once for each request.
            queue.append((self._deliver, record))
            if not self._signalled:
                self.wake()

    def _has_room_for(self, record: RequestRecord) -> bool:
        size = _size_of(record)
        if self._bytes_in - self._bytes_out + size > MAX_WAITING_BYTES:
            return False
        record.queued_bytes = size
        self._bytes_in += size
        return True

    def schedule(self, step: Step, record: RequestRecord) -> None:
        """Have `step` called with a record on the recorder's thread. May be called on any thread; no limit applies."""
        self._queue.append((step, record))
        self.wake()

    def follow(self, started: deque[Inference]) -> None:
        """Append every inference that starts from now on to a queue, in this process only."""
        self._started = started

    def refuse(self, error_type: str) -> None:
        """Name the reason for which the call that is being served is about to be refused."""
        record = CURRENT.get()
        if record is not None and not record.closed:
            record.refusal = error_type

    def discard(self, record: RequestRecord) -> None:
        """Close a record that turned out to be no inference: nothing is made of it."""
        if not record.closed:
            record.closed = True
            if record.generation == self.generation:
                self.open_count -= 1

    def counter(self, labels: Labels) -> EngineCounter:
        """The counter with these labels, which from now on is observed."""
        counter = self.counters.of(labels)
        self.wake()
        return counter

    def wake(self) -> None:
        """Make sure that the thread runs soon, starting it if need be."""
        if self._signalled or self._stopped:
            return
        self._signalled, rung = True, False
        try:
            if not self._thread.started:
                self._start()
            self._bell.put(None)
            rung = True
        finally:
            if not rung:  # a signal handler of the application has raised: the next record rings
                self._signalled = False

    def _start(self) -> None:
        with self._starting:
            started = self._thread.start()
        if not started:
            # No thread can be started, as at interpreter exit: the next record tries again, and `limit` holds.
            self._signalled = False

    def _run(self) -> None:
        if self._prepared:
            # Called again after a failure. Records that are queued rang the bell before it.
            self._drain()
        else:
            self._prepared = True
            with FORKS.held_off(IMPORTS_S):
                self._guard(self._prepare)
        while not self._stopped:
            self._bell.get()
            # Let a batch gather, so that the server is disturbed rarely; stop() cuts this short.
            with suppress(Empty):
                self._bell.get(timeout=self._interval_s)
            self._drain()
        self._drain()
        self._guard(self._finish)

    def _drain(self) -> None:
        while True:
            try:
                with FORKS.turns(self._is_in_a_hurry) as self.between:
                    self._take_all()
            finally:
                self.between = _nothing
            self._signalled = False
            # A record that came before this line saw that we were awake, a later one wakes us.
            if not self._queue:
                return
            self._signalled = True

    def _take_all(self) -> None:
        queue, taken = self._queue, 0
        while queue:
            step, record = queue.popleft()
            if record.queued_bytes:
                self._bytes_out += record.queued_bytes
                record.queued_bytes = 0
            self._guard(step, record)
            self.between()
            taken += 1
            if taken % BATCH == 0:
                self._guard(self._finish_batch)
        self._guard(self._finish_batch)

    def _is_in_a_hurry(self) -> bool:
        return self._stopped or len(self._queue) > HURRY

    def stop(self, timeout_s: float = 5.0) -> None:
        """
        Deliver what is queued, finish, and stop the thread. Returns after `timeout_s` at the latest.

        All of it happens on the recorder's thread: at interpreter exit no new thread can be started, and a sink that
        does not answer must not hold the process.
        """
        if self._stopped:
            return
        self._stopped = True
        self._bell.put(None)
        self._thread.stop(timeout_s)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until everything closed so far is delivered; `False` after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self._queue or self._signalled:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True
