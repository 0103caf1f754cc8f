"""
Requests and devices, brought together: what the recorder saw, told to the ledger, and what the ledger found, told back.

`look` runs on the sampler's thread, after the energy counters were read. `hold` runs on the recorder's thread, with a
record that is closed and complete; it comes back through `deliver`, on the sampler's thread, once its energy is
settled. Records are stamped with `time.perf_counter_ns` beside the wall clock, so both sides share one time line.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ai_otel.energy.device_events import Spells
from ai_otel.energy.ledger import Ledger
from ai_otel.energy.timing import moments_of, monotonic_s, sum_of, tokens_of, told_moments
from ai_otel.hooks.guard import Guard
from ai_otel.record import Energy, Inference, Outcome, RequestRecord

GRACE_S = 1.0
"""How long an inference that is over waits for its record, which tells its times exactly."""


@dataclass(slots=True, eq=False)
class _Followed:
    """One inference that we follow; it is its own key in the ledger."""

    inference: Inference
    begun: bool = False
    named: bool = False
    placed: bool = False
    over_s: float | None = None
    final: bool = False
    held: bool = False
    settled: bool = False
    worked: bool = True
    energy: Energy | None = None


@dataclass(slots=True)
class _Held:
    """One record that waits."""

    record: RequestRecord
    since_s: float
    parts: Sequence[_Followed] = field(default_factory=tuple)


class EnergyJoin:
    """
    Follows inferences while they run, and fills `energy`, `gpu_ids` and `device_events` of their records.

    Of a record that is held, whoever delivers must not let go (`RequestRecord.release`) before it comes back. Beyond
    `limit` held records, more are not held, and counted in `unheld`. `others_serving` tells whether somebody else
    works on the devices, such as another front end of the engine: then no request is given energy.
    """

    def __init__(
        self,
        ledger: Ledger,
        deliver: Callable[[RequestRecord], None],
        *,
        gpu_ids: Sequence[str] = (),
        others_serving: Callable[[], bool] = lambda: False,
        patience_s: float = 10.0,
        limit: int = 2048,
        begun_limit: int = 8192,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._ledger = ledger
        self._deliver = deliver
        self._gpu_ids = tuple(dict.fromkeys(gpu_ids))
        self._others_serving = others_serving
        self._patience_s = patience_s
        self._limit = limit
        self._clock = clock
        self._looked_s = clock()
        self.begun: deque[Inference] = deque(maxlen=begun_limit)
        """For `Recorder.begun`. When it overflows the energy of that time is nobody's."""
        self.unheld = 0
        self.spells = Spells()
        self._followed: dict[int, _Followed] = {}
        self._arrived: deque[RequestRecord] = deque()
        self._held: list[_Held] = []
        self._ended = False
        # Between the recorder's thread and ours, never on a request's path.
        self._door = threading.Lock()
        self._guard = Guard("progress", alone=True)

    @property
    def held(self) -> int:
        """How many records wait."""
        return len(self._arrived) + len(self._held)

    def hold(self, record: RequestRecord) -> bool:
        """
        Keep a record until its energy is settled; `False` where it is not kept, and is to be delivered at once.

        When nobody has looked for longer than `patience_s`, as inside a driver that hangs, nothing is kept, and what
        was comes back here.
        """
        if not record.inferences:
            return False
        stuck: list[RequestRecord] = []
        with self._door:
            if self._clock() - self._looked_s > self._patience_s:
                stuck = self._give_up()
            elif not self._ended and self.held < self._limit:
                self._arrived.append(record)
                return True
            self.unheld += not self._ended
        for each in stuck:
            each.gpu_ids = self._gpu_ids
            self._deliver(each)
        return False

    def _give_up(self) -> list[RequestRecord]:
        stuck = [*(held.record for held in self._held), *self._arrived]
        for held in self._held:
            for part in held.parts:
                part.held = False
        self._held, self._arrived = [], deque()
        return stuck

    def look(self, now_s: float) -> None:
        """Take one look at everything that runs, settle, and deliver what is settled."""
        self._looked_s = now_s
        overflown = len(self.begun) == self.begun.maxlen
        self._ledger.others = overflown or self._others_serving()
        while self.begun:
            inference = self.begun.popleft()
            self._followed[id(inference)] = _Followed(inference)
        for followed in self._followed.values():
            if followed.over_s is None:
                self._follow(followed, now_s)
        with self._door:
            arrived, self._arrived = self._arrived, deque()
            self._held += [self._take(record, now_s) for record in arrived]
        for followed in list(self._followed.values()):
            self._wait(followed, now_s)
        self._settle(now_s)
        self._release(now_s)

    def release_all(self, now_s: float) -> None:
        """Deliver everything that is held, with what is known. From now on nothing is held."""
        with self._door:
            self._ended = True
        self.look(now_s)
        self._settle(now_s + 10 * self._patience_s)
        self._release(float("inf"))

    # ---------------------------------------------------------------- the ledger

    def _follow(self, followed: _Followed, now_s: float) -> None:
        inference = followed.inference
        record = inference.record
        over = inference.outcome is not None or record is None or record.closed
        read = inference.progress
        told = self._guard(read) if read is not None else None
        if not followed.begun:
            followed.begun = True
            self._ledger.begin(followed, monotonic_s(inference, inference.start_ns))
        if not followed.named and inference.model is not None:
            followed.named = True
            self._ledger.name(followed, inference.model)
        if told is not None:
            scheduled_s = first_token_s = None
            if told.first_token_ns is not None and not followed.placed:
                followed.placed = True
                scheduled_s, first_token_s = told_moments(inference, told.first_token_ns, told.prefill_s)
            self._ledger.progress(followed, now_s, told, scheduled_s=scheduled_s, first_token_s=first_token_s)
        if inference.outcome is Outcome.REJECTED:
            self._reject(followed, now_s)
        elif over:
            end_ns = inference.end_ns or (record.end_ns if record is not None else 0)
            followed.over_s = monotonic_s(inference, end_ns) if end_ns else now_s
            self._ledger.end(followed, followed.over_s, final=False)

    def _reject(self, followed: _Followed, now_s: float) -> None:
        """The engine did no work for it."""
        followed.over_s = now_s
        followed.worked, followed.final, followed.settled = False, True, True
        self._ledger.drop(followed)

    def _take(self, record: RequestRecord, now_s: float) -> _Held:
        followed = (self._followed.get(id(inference)) for inference in record.inferences)
        parts = [each for each in followed if each is not None]
        for part in parts:
            part.held = True
            if not part.final:
                self._complete(part, now_s)
        return _Held(record, now_s, parts)

    def _complete(self, followed: _Followed, now_s: float) -> None:
        """Its record is here: what it tells of its times is better than what we saw."""
        inference = followed.inference
        followed.final = True
        moments = moments_of(inference, followed.over_s if followed.over_s is not None else now_s)
        followed.over_s = moments.end_s
        self._ledger.end(
            followed,
            moments.end_s,
            scheduled_s=moments.scheduled_s,
            first_token_s=moments.first_token_s,
            tokens=tokens_of(inference.choices),
        )

    def _wait(self, followed: _Followed, now_s: float) -> None:
        """Its record may be dropped, or wait for others: then what we saw has to do. Forget it when nobody asks."""
        inference, over_s = followed.inference, followed.over_s
        if over_s is None:
            return
        if not followed.final and now_s - over_s > GRACE_S:
            followed.final = True
            self._ledger.end(followed, over_s)
        record = inference.record
        gone = record is None or (record.closed and now_s - over_s > self._patience_s)
        if followed.settled and gone and not followed.held:
            self._followed.pop(id(inference), None)

    def _settle(self, now_s: float) -> None:
        for settled in self._ledger.settle(now_s):
            assert isinstance(settled.key, _Followed)  # noqa: S101 - nobody else begins anything here
            settled.key.settled, settled.key.energy = True, settled.energy

    # ---------------------------------------------------------------- records

    def _release(self, now_s: float) -> None:
        with self._door:
            done = [held for held in self._held if self._is_done(held, now_s)]
            self._held = [held for held in self._held if not self._is_done(held, now_s)]
        for held in done:
            for part in held.parts:
                self._followed.pop(id(part.inference), None)
            self._fill(held)
            self._deliver(held.record)

    def _is_done(self, held: _Held, now_s: float) -> bool:
        return now_s - held.since_s > 2 * self._patience_s or all(part.settled for part in held.parts)

    def _fill(self, held: _Held) -> None:
        record = held.record
        worked = [part for part in held.parts if part.worked]
        energies = [part.energy for part in worked if part.settled and part.energy is not None]
        record.gpu_ids = self._gpu_ids
        # Of a sum of which a part is unknown, nothing is known.
        if energies and len(energies) == len(worked):
            record.energy = sum_of(energies)
        record.device_events = tuple(self.spells.during(record))
