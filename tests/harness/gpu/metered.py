"""
Feeds a simulated load (`batching.py`) to the ledger as sampler and engine would, and computes the errors.

Everything is simulated. The device's counter is sampled ten times a second and updated every 100 ms, with a phase.
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
"""Idle seconds before the first request and after the last."""


@dataclass(frozen=True, slots=True)
class Reporting:
    """What the engine reports, and how the counter is updated and sampled."""

    tokens: bool = True
    """Whether time of the first token and token counts are reported at the end of a request."""
    steps: bool = False
    """Whether the requests of each step are reported."""
    progress: bool = False
    """Whether the progress of each request is reported at each sample."""
    sample_interval_s: float = 0.1
    quantum_s: float = 0.1
    phase_s: float = 0.037
    """Delay from an update of the counter to the next sample, if both have one interval."""
    exact: bool = False
    """Whether the counter is exact and sampled at the start and end of each step, as in the reference simulation."""
    patience_s: float = 60.0
    devices: int = 1
    """Number of devices, each with an equal part of the energy and a counter of its own (tensor parallelism)."""


@dataclass(slots=True)
class Metered:
    """Result of a run."""

    load: Load
    ledger: Ledger
    settled: dict[int, Settled] = field(default_factory=dict)
    first_sample_s: float = 0.0
    latest_settled_s: float = 0.0
    """Maximum seconds from the end of a request until its energy was settled."""

    @property
    def account(self) -> Account:
        """The device's account."""
        (account,) = self.ledger.accounts()
        return account

    def joules(self, bucket: str) -> float:
        """Return the joules of a bucket."""
        return sum(joules for (name, _), joules in self.account.energy_j.items() if name == bucket)

    def errors(self, truth: Sequence[float] | None = None) -> list[float]:
        """Return each request's relative error of energy, sorted. Requests without energy are left out."""
        true = truth if truth is not None else [job.true_j for job in self.load.jobs]
        pairs = ((self.settled[number].energy, true_j) for number, true_j in enumerate(true))
        return sorted(abs(energy.gpu_j / true_j - 1) for energy, true_j in pairs if energy is not None)


def sample_times(load: Load, reporting: Reporting) -> Iterator[float]:
    """Yield the sample times in seconds."""
    if reporting.exact:
        edges = {moment for step in load.steps for moment in (step.start_s, step.end_s)}
        yield from sorted({*edges, *(load.end_s + 0.1 * number for number in range(1, 30)), -LEAD_IN_S, -LEAD_IN_S / 2})
        return
    count = math.ceil((load.end_s + 2 * LEAD_IN_S) / reporting.sample_interval_s)
    yield from (reporting.phase_s - LEAD_IN_S + number * reporting.sample_interval_s for number in range(count))


def meter(load: Load, reporting: Reporting, cost: StepCost | None = None) -> Metered:
    """Run the ledger on a load. `cost` is the cost model of an earlier run."""
    devices = [DEVICE, *(Device(f"GPU-{number}", "nvidia") for number in range(1, reporting.devices))]
    ledger = Ledger(devices, patience_s=reporting.patience_s)
    if cost is not None:
        ledger.cost = cost
    metered = Metered(load, ledger, first_sample_s=next(sample_times(load, reporting)))
    energy = load.energy()
    begun = ended = stepped = 0
    by_end = sorted(range(len(load.jobs)), key=lambda number: load.jobs[number].end_s)
    live: set[int] = set()
    for now_s in sample_times(load, reporting):
        while begun < len(load.jobs) and load.jobs[begun].arrival_s <= now_s:
            ledger.begin(begun, load.jobs[begun].arrival_s, "simulated")
            live.add(begun)
            begun += 1
        while reporting.steps and stepped < len(load.steps) and load.steps[stepped].end_s <= now_s:
            step = load.steps[stepped]
            members = [StepMember(number, *part) for number, part in step.parts]
            ledger.step(step.start_s, step.end_s, members)
            stepped += 1
        while ended < len(by_end) and load.jobs[by_end[ended]].end_s <= now_s:
            live.discard(by_end[ended])
            _end(ledger, by_end[ended], load.jobs[by_end[ended]], reporting)
            ended += 1
        if reporting.progress:
            for number in live:
                _report_progress(ledger, number, load.jobs[number], now_s)
        for number, device in enumerate(devices):
            phase_s = reporting.quantum_s * number / len(devices)
            counter_j = energy.counter(now_s, quantum_s=reporting.quantum_s, phase_s=phase_s)
            counter_j = energy.until(now_s) if reporting.exact else counter_j
            ledger.add_energy(device.key, now_s + 1e-4 * number, counter_j / len(devices))
        for settled in ledger.settle(now_s + 1e-4 * len(devices)):
            assert isinstance(settled.key, int)
            metered.settled[settled.key] = settled
            metered.latest_settled_s = max(metered.latest_settled_s, now_s - load.jobs[settled.key].end_s)
    return metered


def _report_progress(ledger: Ledger, number: int, job: Job, now_s: float) -> None:
    if now_s < job.first_token_s:
        ledger.progress(number, now_s, Progress(job.prompt, None, 0, prefilling=True))
        return
    progress = Progress(job.prompt, 0, job.tokens_at(now_s), prefilling=False)
    ledger.progress(number, now_s, progress, scheduled_s=job.scheduled_s, first_token_s=job.first_token_s)


def _end(ledger: Ledger, number: int, job: Job, reporting: Reporting) -> None:
    if not reporting.tokens:
        ledger.end(number, job.end_s, scheduled_s=job.scheduled_s)
        return
    tokens = Progress(job.prompt, 0, job.answer, prefilling=False)
    ledger.end(number, job.end_s, scheduled_s=job.scheduled_s, first_token_s=job.first_token_s, tokens=tokens)


def median_and_p90(errors: Sequence[float]) -> tuple[float, float]:
    """Return median and 90th percentile, as in the simulation's table."""
    return statistics.median(errors), errors[int(0.9 * len(errors)) - 1]
