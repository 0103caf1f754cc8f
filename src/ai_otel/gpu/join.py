"""
Requests and devices, brought together: what the recorder saw, told to the ledger, and what the ledger found, told back.

`look` runs on the sampler's thread, after the energy counters were read. `hold` runs on the recorder's thread, with a
record that is closed and complete; it comes back through `deliver`, on the sampler's thread, once its energy is
settled. Records are stamped with `time.perf_counter_ns` beside the wall clock, so both sides share one time line.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ai_otel.gpu.flight import ERROR
from ai_otel.gpu.ledger import Ledger
from ai_otel.gpu.spells import Spells
from ai_otel.hooks.guard import Guard
from ai_otel.record import Choice, Energy, Inference, Outcome, Progress, RequestRecord

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


class Moments(NamedTuple):
    """When an inference was worked on, in seconds of the monotonic clock."""

    scheduled_s: float | None
    first_token_s: float | None
    end_s: float


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
    ) -> None:
        self._ledger = ledger
        self._deliver = deliver
        self._gpu_ids = tuple(dict.fromkeys(gpu_ids))
        self._others_serving = others_serving
        self._patience_s = patience_s
        self._limit = limit
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
        """Keep a record until its energy is settled; `False` where it is not kept, and is to be delivered at once."""
        if not record.inferences:
            return False
        with self._door:
            if self._ended:
                return False
            if self.held >= self._limit:
                self.unheld += 1
                return False
            self._arrived.append(record)
            return True

    def look(self, now_s: float) -> None:
        """Take one look at everything that runs, settle, and deliver what is settled."""
        overflown = len(self.begun) == self.begun.maxlen
        self._ledger.others = overflown or self._others_serving()
        while self.begun:
            inference = self.begun.popleft()
            self._followed[id(inference)] = _Followed(inference)
        for followed in self._followed.values():
            if followed.over_s is None:
                self._follow(followed, now_s)
        while self._arrived:
            self._take(self._arrived.popleft(), now_s)
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

    def _take(self, record: RequestRecord, now_s: float) -> None:
        followed = (self._followed.get(id(inference)) for inference in record.inferences)
        parts = [each for each in followed if each is not None]
        for part in parts:
            part.held = True
            if not part.final:
                self._complete(part, now_s)
        self._held.append(_Held(record, now_s, parts))

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
        waiting: list[_Held] = []
        for held in self._held:
            late = now_s - held.since_s > 2 * self._patience_s
            if not late and not all(part.settled for part in held.parts):
                waiting.append(held)
                continue
            for part in held.parts:
                self._followed.pop(id(part.inference), None)
            self._fill(held)
            self._deliver(held.record)
        self._held = waiting

    def _fill(self, held: _Held) -> None:
        record = held.record
        worked = [part for part in held.parts if part.worked]
        energies = [part.energy for part in worked if part.settled and part.energy is not None]
        record.gpu_ids = self._gpu_ids
        # Of a sum of which a part is unknown, nothing is known.
        if energies and len(energies) == len(worked):
            record.energy = sum_of(energies)
        record.device_events = tuple(self.spells.during(record))


def monotonic_s(inference: Inference, wall_ns: int) -> float:
    """A moment on the inference's time line, in seconds of the monotonic clock."""
    return (inference._started + wall_ns - inference.start_ns) / 1e9  # noqa: SLF001 - the clock that `begin_clock` set


def told_moments(inference: Inference, first_token_ns: int, prefill_s: float | None) -> tuple[float | None, float]:
    """When it was scheduled and when its first token came, by what the engine tells while it runs."""
    first_token_s = monotonic_s(inference, first_token_ns)
    return None if prefill_s is None else first_token_s - prefill_s, first_token_s


def moments_of(inference: Inference, over_s: float) -> Moments:
    """
    When an inference that is complete was worked on: from the first of its choices that was, to the last token.

    The end of its stream may come later, when the client is slow to read.
    """
    arrival_ns = inference.arrival_ns if inference.arrival_ns is not None else inference.start_ns
    arrival_s = monotonic_s(inference, arrival_ns)
    firsts, starts, ends = [], [], []
    for choice in inference.choices:
        if choice.first_token_s is not None:
            first_s = arrival_s + choice.first_token_s
            firsts.append(first_s)
            if choice.prefill_s is not None:
                starts.append(first_s - choice.prefill_s)
            if choice.decode_s is not None:
                ends.append(first_s + choice.decode_s)
        elif choice.queue_s is not None:
            starts.append(arrival_s + choice.queue_s)
    last_s = max(ends) if ends and len(ends) == len(inference.choices) else over_s
    return Moments(min(starts, default=None), min(firsts, default=None), min(last_s, over_s))


def tokens_of(choices: Sequence[Choice]) -> Progress | None:
    """The tokens that were computed for all choices together; `None` where one does not tell."""
    inputs = [choice.counted_input_tokens for choice in choices]
    outputs = [choice.output_tokens for choice in choices]
    if not choices or None in outputs:
        return None
    told = sum(each for each in inputs if each is not None) if None not in inputs else None
    cached = [choice.cached_tokens for choice in choices]
    found = sum(each for each in cached if each is not None) if None not in cached else None
    # What an aborted choice had not prefilled is 0 here: the prompt that progress told is better.
    return Progress(told or None, found, sum(each for each in outputs if each is not None), prefilling=False)


def sum_of(energies: Sequence[Energy]) -> Energy:
    """The energy of a record: its inferences' together. Means are weighted with what each had of the devices' time."""
    total_j = sum(energy.gpu_j for energy in energies)
    time_s = sum(energy.gpu_time_s for energy in energies)
    idle_j = [None if each.idle_share is None else each.idle_share * each.gpu_j for each in energies]

    def mean(values: Sequence[float | None]) -> float | None:
        if time_s <= 0 or None in values:
            return values[0] if len(values) == 1 else None
        pairs = zip(values, energies, strict=True)
        return sum(value * each.gpu_time_s for value, each in pairs if value is not None) / time_s

    return Energy(
        gpu_j=total_j,
        idle_share=None if None in idle_j else sum(each for each in idle_j if each is not None) / total_j,
        method=max((energy.method for energy in energies), key=lambda method: ERROR[method]),
        uncertainty=sum(energy.uncertainty * energy.gpu_j for energy in energies) / total_j,
        gpu_time_s=time_s,
        power_mean_w=mean([energy.power_mean_w for energy in energies]),
        batch_mean=mean([energy.batch_mean for energy in energies]),
    )
