"""
Attributes the devices' energy to requests: passes what the recorder saw to the ledger, and its result to the records.

`collect` runs on the sampler's thread, after the energy counters were sampled. `defer` runs on the recorder's thread,
with a settled record. The record goes to `resume`, on the sampler's thread, once its energy is settled. Records are
stamped with `time.perf_counter_ns` beside the wall clock, so both sides share one time line.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ai_otel.energy.absence import OVERLOAD, TIMEOUT
from ai_otel.energy.device_events import DeviceEvents
from ai_otel.energy.ledger import Ledger
from ai_otel.energy.timing import first_token_timing, monotonic_s, sum_of, timing_of, tokens_of
from ai_otel.hooks.guard import Guard
from ai_otel.record import Energy, Inference, Outcome, RequestRecord

TIMER_S = 0.05
"""Seconds that the timer waits beyond `patience_s`, and at least."""
GRACE_S = 1.0
"""Seconds that an ended inference waits for its record, which has its exact times."""


@dataclass(slots=True, eq=False)
class _Followed:
    """One inference that is followed while it runs; it is its own key in the ledger."""

    inference: Inference
    started: bool = False
    named: bool = False
    placed: bool = False
    ended_s: float | None = None
    final: bool = False
    deferred: bool = False
    settled: bool = False
    worked: bool = True
    energy: Energy | None = None
    absence: str | None = None


@dataclass(slots=True)
class _Deferred:
    """One record that waits."""

    record: RequestRecord
    since_s: float
    inferences: Sequence[_Followed] = field(default_factory=tuple)


class EnergyAttribution:
    """
    Follows inferences while they run, and fills `energy`, `gpu_ids` and `device_events` of their records.

    A deferred record must not be released (`RequestRecord.release`) before it is resumed. Beyond `limit` deferred
    records, more are not deferred, and counted in `undeferred`. `others_serving` returns whether another process works
    on the devices, such as another front end of the engine: then no energy is attributed. After `patience_s` seconds
    without a collection, deferred records are resumed without energy.
    """

    def __init__(
        self,
        ledger: Ledger,
        resume: Callable[[RequestRecord], None],
        *,
        gpu_ids: Sequence[str] = (),
        gpu_selection: str | None = None,
        others_serving: Callable[[], bool] = lambda: False,
        patience_s: float = 10.0,
        limit: int = 2048,
        started_limit: int = 8192,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._ledger = ledger
        self._resume = resume
        self._gpu_ids = tuple(dict.fromkeys(gpu_ids))
        self.gpu_selection = gpu_selection
        self._others_serving = others_serving
        self._patience_s = patience_s
        self._limit = limit
        self._clock = clock
        self._collected_s = clock()
        self.started: deque[Inference] = deque(maxlen=started_limit)
        """Inferences that have started since the last collection (`Recorder.follow`). When it overflows, the energy
        of that time is unattributed."""
        self.undeferred = 0
        """Number of records that were not deferred: too many waited, or the sampler did not answer."""
        self.device_events = DeviceEvents()
        self._followed: dict[int, _Followed] = {}
        self._arriving: deque[RequestRecord] = deque()
        self._waiting: list[_Deferred] = []
        self._stopped = False
        # Between the recorder's and the sampler's thread, never on a request's path.
        self._lock = threading.Lock()
        self._guard = Guard("progress", alone=True, lasting=True)
        self._timer: threading.Timer | None = None
        self._timer_guard = Guard("energy timer", alone=True, lasting=True)

    @property
    def deferred(self) -> int:
        """Number of records that wait."""
        return len(self._arriving) + len(self._waiting)

    def defer(self, record: RequestRecord) -> bool:
        """
        Keep a record until its energy is settled. Returns `False` if it is not kept, and must be emitted at once.

        After `patience_s` without a collection, as inside a driver that hangs, nothing is kept, and the records that
        wait are resumed, without energy, by a timer.
        """
        if not record.inferences:
            return False
        with self._lock:
            hangs = self._overdue_s() >= 0
            if not hangs and not self._stopped and self.deferred < self._limit:
                self._arriving.append(record)
                self._start_timer()
                return True
            self.undeferred += not self._stopped
        self.resume_stuck()
        self._fill_without_energy(record, TIMEOUT if hangs or self._stopped else OVERLOAD)
        return False

    def resume_stuck(self) -> None:
        """Resume the records that wait, without energy, if nothing was collected for `patience_s`."""
        with self._lock:
            stuck = self._give_up() if self._overdue_s() >= 0 else []
        for each in stuck:
            self._fill_without_energy(each, TIMEOUT)
            self._resume(each)

    def _overdue_s(self) -> float:
        return self._clock() - self._collected_s - self._patience_s

    def _start_timer(self) -> None:
        """Have `resume_stuck` called when the sampler's thread is overdue: it may hang in the driver."""
        if self._timer is not None or self._stopped:
            return
        timer = threading.Timer(max(TIMER_S, TIMER_S - self._overdue_s()), self._timer_guard, [self._fire])
        timer.name, timer.daemon = "ai-otel energy timer", True
        # At interpreter exit threads can no longer be started, and what waits is resumed by `release_all`.
        with suppress(RuntimeError):
            timer.start()
            self._timer = timer

    def _fire(self) -> None:
        self.resume_stuck()
        with self._lock:
            self._timer = None
            if self.deferred:
                self._start_timer()

    def _fill_without_energy(self, record: RequestRecord, absence: str) -> None:
        record.gpu_ids, record.gpu_selection = self._gpu_ids, self.gpu_selection
        record.energy_absence = absence

    def _give_up(self) -> list[RequestRecord]:
        stuck = [*(deferred.record for deferred in self._waiting), *self._arriving]
        for deferred in self._waiting:
            for followed in deferred.inferences:
                followed.deferred = False
        self._waiting, self._arriving = [], deque()
        return stuck

    def collect(self, now_s: float) -> None:
        """Read the progress of every running inference, settle, and resume the records that are settled."""
        self._collected_s = now_s
        overflown = len(self.started) == self.started.maxlen
        self._ledger.overflown, self._ledger.others = overflown, self._others_serving()
        while self.started:
            inference = self.started.popleft()
            self._followed[id(inference)] = _Followed(inference)
        for followed in self._followed.values():
            if followed.ended_s is None:
                self._follow(followed, now_s)
        with self._lock:
            arriving, self._arriving = self._arriving, deque()
            self._waiting += [self._take(record, now_s) for record in arriving]
        for followed in list(self._followed.values()):
            self._wait(followed, now_s)
        self._settle(now_s)
        self._release(now_s)

    def release_all(self, now_s: float) -> None:
        """Resume every deferred record with what is known. From now on no record is deferred."""
        with self._lock:
            self._stopped = True
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self.collect(now_s)
        self._settle(now_s + 10 * self._patience_s)
        self._release(float("inf"))

    # ---------------------------------------------------------------- the ledger

    def _follow(self, followed: _Followed, now_s: float) -> None:
        inference = followed.inference
        record = inference.record
        ended = inference.outcome is not None or record is None or record.closed
        read = inference.progress
        progress = self._guard(read) if read is not None else None
        if not followed.started:
            followed.started = True
            self._ledger.begin(followed, monotonic_s(inference, inference.start_ns))
        if not followed.named and inference.model is not None:
            followed.named = True
            self._ledger.name(followed, inference.model)
        if progress is not None:
            scheduled_s = first_token_s = None
            if progress.first_token_ns is not None and not followed.placed:
                followed.placed = True
                scheduled_s, first_token_s = first_token_timing(inference, progress.first_token_ns, progress.prefill_s)
            self._ledger.progress(followed, now_s, progress, scheduled_s=scheduled_s, first_token_s=first_token_s)
        if inference.outcome is Outcome.REJECTED:
            self._reject(followed, now_s)
        elif ended:
            end_ns = inference.end_ns or (record.end_ns if record is not None else 0)
            followed.ended_s = monotonic_s(inference, end_ns) if end_ns else now_s
            self._ledger.end(followed, followed.ended_s, final=False)

    def _reject(self, followed: _Followed, now_s: float) -> None:
        """The engine did no work for the request."""
        followed.ended_s = now_s
        followed.worked, followed.final, followed.settled = False, True, True
        self._ledger.drop(followed)

    def _take(self, record: RequestRecord, now_s: float) -> _Deferred:
        found = (self._followed.get(id(inference)) for inference in record.inferences)
        inferences = [each for each in found if each is not None]
        for followed in inferences:
            followed.deferred = True
            if not followed.final:
                self._end(followed, now_s)
        return _Deferred(record, now_s, inferences)

    def _end(self, followed: _Followed, now_s: float) -> None:
        """End an inference with the times of its record, which are more exact than those of collections."""
        inference = followed.inference
        followed.final = True
        timing = timing_of(inference, followed.ended_s if followed.ended_s is not None else now_s)
        followed.ended_s = timing.end_s
        self._ledger.end(
            followed,
            timing.end_s,
            scheduled_s=timing.scheduled_s,
            first_token_s=timing.first_token_s,
            tokens=tokens_of(inference.choices),
        )

    def _wait(self, followed: _Followed, now_s: float) -> None:
        """End an inference without its record, which may be dropped or late, and forget it when it is settled."""
        inference, ended_s = followed.inference, followed.ended_s
        if ended_s is None:
            return
        if not followed.final and now_s - ended_s > GRACE_S:
            followed.final = True
            self._ledger.end(followed, ended_s)
        record = inference.record
        gone = record is None or (record.closed and now_s - ended_s > self._patience_s)
        if followed.settled and gone and not followed.deferred:
            self._followed.pop(id(inference), None)

    def _settle(self, now_s: float) -> None:
        for settled in self._ledger.settle(now_s):
            assert isinstance(settled.key, _Followed)  # noqa: S101 - the only keys of this ledger
            settled.key.settled, settled.key.energy, settled.key.absence = True, settled.energy, settled.absence

    # ---------------------------------------------------------------- records

    def _release(self, now_s: float) -> None:
        with self._lock:
            done = [each for each in self._waiting if self._is_done(each, now_s)]
            self._waiting = [each for each in self._waiting if not self._is_done(each, now_s)]
        for deferred in done:
            for followed in deferred.inferences:
                self._followed.pop(id(followed.inference), None)
            self._fill(deferred)
            self._resume(deferred.record)

    def _is_done(self, deferred: _Deferred, now_s: float) -> bool:
        waited_s = now_s - deferred.since_s
        return waited_s > 2 * self._patience_s or all(each.settled for each in deferred.inferences)

    def _fill(self, deferred: _Deferred) -> None:
        record = deferred.record
        worked = [each for each in deferred.inferences if each.worked]
        energies = [each.energy for each in worked if each.settled and each.energy is not None]
        record.gpu_ids, record.gpu_selection = self._gpu_ids, self.gpu_selection
        # A sum with an unknown term is unknown.
        if energies and len(energies) == len(worked):
            record.energy = sum_of(energies)
        elif worked or not deferred.inferences:
            reasons = (each.absence or TIMEOUT for each in worked if each.energy is None)
            record.energy_absence = next(reasons, OVERLOAD)
        record.device_events = tuple(self.device_events.during(record))
