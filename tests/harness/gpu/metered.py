"""
A simulated load (`batching.py`) told to the shipped ledger as a sampler and an engine would tell it, and the errors.

Everything is simulated. The device's counter is looked at ten times a second and written every 100 ms, out of step.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ai_otel.energy.accounts import Account
from ai_otel.energy.apportionment import StepMember
from ai_otel.energy.cost_model import StepCost
from ai_otel.energy.ledger import Ledger, Settled
from ai_otel.gpu.source import Device
from ai_otel.record import Progress
from harness.gpu.batching import Job, Load

DEVICE = Device("GPU-0", "nvidia")
LEAD_IN_S = 3.0
"""Idle before the first request and after the last."""


@dataclass(frozen=True, slots=True)
class Telling:
    """What the engine tells, and how the counter is written and read."""

    tokens: bool = True
    """When the first token came and how many there were, when a request is over."""
    steps: bool = False
    """Who was in which step."""
    progress: bool = False
    """How far each request is, at each sample."""
    look_s: float = 0.1
    quantum_s: float = 0.1
    phase_s: float = 0.037
    """How long after a write we sample, where the two have one pace."""
    exact: bool = False
    """The counter is exact and looked at when each step begins and ends, as in the reference simulation."""
    patience_s: float = 60.0


@dataclass(slots=True)
class Metered:
    """What came of it."""

    load: Load
    ledger: Ledger
    settled: dict[int, Settled] = field(default_factory=dict)
    first_look_s: float = 0.0
    latest_settled_s: float = 0.0
    """How long after its end a request was settled, at most."""

    @property
    def account(self) -> Account:
        """The device's books."""
        (account,) = self.ledger.accounts()
        return account

    def joules(self, bucket: str) -> float:
        """What is booked to this bucket."""
        return sum(joules for (name, _), joules in self.account.energy_j.items() if name == bucket)

    def errors(self, truth: Sequence[float] | None = None) -> list[float]:
        """How far each request's energy is from its truth, as a share of it; what was withheld has none."""
        true = truth if truth is not None else [job.true_j for job in self.load.jobs]
        told = ((self.settled[number].energy, true_j) for number, true_j in enumerate(true))
        return sorted(abs(energy.gpu_j / true_j - 1) for energy, true_j in told if energy is not None)


def looks(load: Load, telling: Telling) -> Iterator[float]:
    """When we sample."""
    if telling.exact:
        edges = {moment for step in load.steps for moment in (step.start_s, step.end_s)}
        yield from sorted({*edges, *(load.end_s + 0.1 * number for number in range(1, 30)), -LEAD_IN_S, -LEAD_IN_S / 2})
        return
    count = math.ceil((load.end_s + 2 * LEAD_IN_S) / telling.look_s)
    yield from (telling.phase_s - LEAD_IN_S + number * telling.look_s for number in range(count))


def meter(load: Load, telling: Telling, cost: StepCost | None = None) -> Metered:
    """Run the ledger over the load; `cost` is what an earlier run has learned, without it learns from nothing."""
    ledger = Ledger([DEVICE], patience_s=telling.patience_s)
    if cost is not None:
        ledger.cost = cost
    metered = Metered(load, ledger, first_look_s=next(looks(load, telling)))
    energy = load.energy()
    begun = ended = stepped = 0
    by_end = sorted(range(len(load.jobs)), key=lambda number: load.jobs[number].end_s)
    live: set[int] = set()
    for now_s in looks(load, telling):
        while begun < len(load.jobs) and load.jobs[begun].arrival_s <= now_s:
            ledger.begin(begun, load.jobs[begun].arrival_s, "simulated")
            live.add(begun)
            begun += 1
        while telling.steps and stepped < len(load.steps) and load.steps[stepped].end_s <= now_s:
            step = load.steps[stepped]
            members = [StepMember(number, *part) for number, part in step.parts]
            ledger.step(step.start_s, step.end_s, members)
            stepped += 1
        while ended < len(by_end) and load.jobs[by_end[ended]].end_s <= now_s:
            live.discard(by_end[ended])
            _end(ledger, by_end[ended], load.jobs[by_end[ended]], telling)
            ended += 1
        if telling.progress:
            for number in live:
                _tell(ledger, number, load.jobs[number], now_s)
        counter_j = energy.until(now_s) if telling.exact else energy.counter(now_s, quantum_s=telling.quantum_s)
        ledger.add_energy(DEVICE.key, now_s, counter_j)
        for settled in ledger.settle(now_s):
            assert isinstance(settled.key, int)
            metered.settled[settled.key] = settled
            metered.latest_settled_s = max(metered.latest_settled_s, now_s - load.jobs[settled.key].end_s)
    return metered


def _tell(ledger: Ledger, number: int, job: Job, now_s: float) -> None:
    if now_s < job.first_token_s:
        ledger.progress(number, now_s, Progress(job.prompt, None, 0, prefilling=True))
        return
    told = Progress(job.prompt, 0, job.tokens_at(now_s), prefilling=False)
    ledger.progress(number, now_s, told, scheduled_s=job.scheduled_s, first_token_s=job.first_token_s)


def _end(ledger: Ledger, number: int, job: Job, telling: Telling) -> None:
    if not telling.tokens:
        ledger.end(number, job.end_s, scheduled_s=job.scheduled_s)
        return
    tokens = Progress(job.prompt, 0, job.answer, prefilling=False)
    ledger.end(number, job.end_s, scheduled_s=job.scheduled_s, first_token_s=job.first_token_s, tokens=tokens)


def median_and_p90(errors: Sequence[float]) -> tuple[float, float]:
    """As the table of the simulation has them."""
    return statistics.median(errors), errors[int(0.9 * len(errors)) - 1]
