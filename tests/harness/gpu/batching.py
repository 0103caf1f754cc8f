"""
A simulated engine with continuous batching on a simulated GPU, and the true energy of each request.

SIMULATED: no hardware was measured. Prefill is chunked, step times follow the roofline model, and power saturates with
the use of memory and compute. A request's true energy is the sum of its Shapley values: its contribution to a step's
energy, averaged over the orders of the batch. The orders are sampled with the random numbers of the arrivals, so a load
and its truth are generated together by `drawn`; `recorded` reads them (`batching.json`, written by
`python tests/harness/gpu/batching.py`).
"""

from __future__ import annotations

import json
import math
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Protocol

RECORDED = Path(__file__).with_suffix(".json")
RECORDED_LOADS = tuple((seed, rate) for rate in (4.0, 12.0) for seed in (1, 2, 3))
DURATION_S = 30.0
"""Seconds during which requests arrive."""

BATCH_LIMIT = 64
TOKENS_PER_STEP = 2048


@dataclass(frozen=True, slots=True)
class Machine:
    """Cost of a step of a model on a device. The defaults are 8B parameters in bf16 on an H200-class device."""

    weights_bytes: float = 16e9
    cache_bytes_per_token: float = 2 * 32 * 8 * 128 * 2.0
    bandwidth: float = 4.0e12
    flop_per_token: float = 2 * 8e9
    peak_flops: float = 600e12
    launch_s: float = 0.0015
    idle_w: float = 120.0
    memory_w: float = 300.0
    compute_w: float = 260.0

    def cost(self, prefill: int, decoding: int, context: int) -> tuple[float, float]:
        """Return seconds and joules of a step, from its prefill, decoded and context tokens."""
        memory_s = (self.weights_bytes + context * self.cache_bytes_per_token) / self.bandwidth
        compute_s = self.flop_per_token * (prefill + decoding) / self.peak_flops
        took_s = max(memory_s, compute_s) + self.launch_s
        power_w = self.idle_w + self.memory_w * memory_s / took_s + self.compute_w * compute_s / took_s
        return took_s, power_w * took_s


DEFAULT = Machine()


class Part(NamedTuple):
    """One request's share of a step: its prefill tokens, or 0 for one decoded token."""

    prefill_tokens: int
    context_tokens: int


@dataclass(slots=True)
class Job:
    """One request with its results. Times are seconds of the simulation."""

    arrival_s: float
    prompt: int
    answer: int
    true_j: float = 0.0
    scheduled_s: float = math.nan
    first_token_s: float = math.nan
    end_s: float = math.nan
    token_times_s: list[float] = field(default_factory=list)
    left: int = 0
    """Remaining prefill tokens."""

    def tokens_at(self, time_s: float) -> int:
        """Return the number of output tokens at a time."""
        return bisect_right(self.token_times_s, time_s)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the engine. `parts` are by index of `Load.jobs`."""

    start_s: float
    end_s: float
    energy_j: float
    parts: Sequence[tuple[int, Part]]


@dataclass(frozen=True, slots=True)
class Load:
    """One run of the engine."""

    jobs: Sequence[Job]
    steps: Sequence[Step]
    end_s: float
    machine: Machine = DEFAULT

    @property
    def mean_batch(self) -> float:
        """Mean number of requests in a step."""
        return sum(len(step.parts) for step in self.steps) / len(self.steps)

    def energy(self) -> Energy:
        """Return the device's energy over time."""
        return Energy(self)


class Arrivals(Protocol):
    """A source of requests. `next_s` is infinite after the last one."""

    next_s: float

    def take(self) -> Job:
        """Return the request that has arrived."""


class Drawn:
    """Random requests: exponential gaps, log-normal lengths. Numbers are drawn in the order of events."""

    def __init__(self, rng: random.Random, rate: float, duration_s: float) -> None:
        self._rng, self._rate, self._duration_s = rng, rate, duration_s
        self.next_s = 0.0
        self._advance()

    def _advance(self) -> None:
        self._at_s = self.next_s + self._rng.expovariate(self._rate)
        self.next_s = self._at_s if self._at_s < self._duration_s else math.inf

    def take(self) -> Job:
        prompt = int(min(8000, max(16, self._rng.lognormvariate(6.2, 1.0))))
        answer = int(min(2000, max(4, self._rng.lognormvariate(5.0, 0.8))))
        job = Job(self.next_s, prompt, answer)
        self._advance()
        return job


class Listed:
    """Recorded requests."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = deque(jobs)

    @property
    def next_s(self) -> float:
        return self._jobs[0].arrival_s if self._jobs else math.inf

    def take(self) -> Job:
        return self._jobs.popleft()


def sampled_shapley(parts: Sequence[Part], rng: random.Random) -> list[float]:
    """Return each part's share of the step's energy, over sampled orders."""
    samples = 30 if len(parts) > 12 else 60
    shares = [0.0] * len(parts)
    order = list(range(len(parts)))
    for _ in range(samples):
        rng.shuffle(order)
        prefill = decoding = context = 0
        before_j = 0.0
        for place in order:
            tokens, own_context = parts[place]
            prefill, context = prefill + tokens, context + own_context
            decoding += tokens == 0
            energy_j = DEFAULT.cost(prefill, decoding, context)[1]
            shares[place] += energy_j - before_j
            before_j = energy_j
    return [share / samples for share in shares]


def simulate(
    arrivals: Arrivals,
    truth: Callable[[Sequence[Part]], list[float]] | None = None,
    machine: Machine = DEFAULT,
    batch_limit: int = BATCH_LIMIT,
) -> Load:
    """Run the engine until all requests have ended; sums `truth` of each step."""
    jobs: list[Job] = []
    running: list[int] = []
    steps: list[Step] = []
    now_s, admitted = 0.0, 0
    while True:
        while arrivals.next_s <= now_s:
            jobs.append(arrivals.take())
            jobs[-1].left = jobs[-1].prompt
        joining = range(admitted, len(jobs))[: batch_limit - len(running)]
        running += joining
        admitted += len(joining)
        if not running:
            if arrivals.next_s == math.inf:
                return Load(jobs, steps, now_s, machine)
            now_s = arrivals.next_s
            continue
        parts = list(_planned(jobs, running))
        views = [part for _, part in parts]
        took_s, energy_j = machine.cost(
            sum(part.prefill_tokens for part in views),
            sum(part.prefill_tokens == 0 for part in views),
            sum(part.context_tokens for part in views),
        )
        if truth is not None:
            for (number, _), share_j in zip(parts, truth(views), strict=True):
                jobs[number].true_j += share_j
        steps.append(Step(now_s, now_s + took_s, energy_j, parts))
        _advance(jobs, steps[-1])
        now_s += took_s
        running = [number for number in running if len(jobs[number].token_times_s) < jobs[number].answer]


def _planned(jobs: Sequence[Job], running: Sequence[int]) -> Iterator[tuple[int, Part]]:
    """Yield the parts of the next step: all decoding requests, then prefill tokens up to the budget."""
    budget = TOKENS_PER_STEP
    for number in running:
        job = jobs[number]
        if job.left == 0:
            budget -= 1
            yield number, Part(0, job.prompt + len(job.token_times_s))
    for number in running:
        job = jobs[number]
        if job.left > 0 and budget > 0:
            tokens = min(budget, job.left)
            budget -= tokens
            yield number, Part(tokens, job.prompt - job.left)


def _advance(jobs: Sequence[Job], step: Step) -> None:
    for number, part in step.parts:
        job = jobs[number]
        if math.isnan(job.scheduled_s):
            job.scheduled_s = step.start_s
        job.left -= part.prefill_tokens
        if job.left == 0:
            job.token_times_s.append(step.end_s)
            if part.prefill_tokens:
                job.first_token_s = step.end_s
        job.end_s = step.end_s


def refined_truth(load: Load, samples: int = 300) -> list[float]:
    """
    Return each job's Shapley value with little sampling noise.

    All terms of a step's energy are exact except idle power during the longer of memory and compute time, which is
    sampled if a part of the batch can be compute-bound.
    """
    rng = random.Random(99)
    true = [0.0] * len(load.jobs)
    machine = load.machine
    weights_s = machine.weights_bytes / machine.bandwidth
    for step in load.steps:
        numbers = [number for number, _ in step.parts]
        memory = [part.context_tokens * machine.cache_bytes_per_token / machine.bandwidth for _, part in step.parts]
        compute = [machine.flop_per_token * (part.prefill_tokens or 1) / machine.peak_flops for _, part in step.parts]
        shared_j = (machine.idle_w * machine.launch_s + machine.memory_w * weights_s) / len(numbers)
        longer = _shares_of_longer(weights_s, memory, compute, rng, samples)
        for number, memory_s, compute_s, longer_s in zip(numbers, memory, compute, longer, strict=True):
            own_j = machine.memory_w * memory_s + machine.compute_w * compute_s
            true[number] += shared_j + own_j + machine.idle_w * longer_s
    return true


def _shares_of_longer(
    weights_s: float, memory: Sequence[float], compute: Sequence[float], rng: random.Random, samples: int
) -> list[float]:
    count = len(memory)
    if sum(compute) <= weights_s:
        return [weights_s / count + own_s for own_s in memory]
    shares = [0.0] * count
    order = list(range(count))
    for sample in range(samples):
        if sample % 2 == 0:
            rng.shuffle(order)
        memory_s, compute_s, before_s = weights_s, 0.0, 0.0
        for place in order if sample % 2 == 0 else reversed(order):
            memory_s, compute_s = memory_s + memory[place], compute_s + compute[place]
            longer_s = max(memory_s, compute_s)
            shares[place] += longer_s - before_s
            before_s = longer_s
    return [share / samples for share in shares]


class Energy:
    """The device's energy: that of the steps, and idle power between, before and after them."""

    def __init__(self, load: Load) -> None:
        self._starts = [step.start_s for step in load.steps]
        self._steps = load.steps
        self._idle_w = load.machine.idle_w
        self._used_j = [0.0, *accumulate(step.energy_j for step in load.steps)]
        self._busy_s = [0.0, *accumulate(step.end_s - step.start_s for step in load.steps)]

    def until(self, time_s: float) -> float:
        """Return joules since time 0; negative before it."""
        count = bisect_right(self._starts, time_s)
        if count == 0:
            return self._idle_w * time_s
        step = self._steps[count - 1]
        part = min(1.0, (time_s - step.start_s) / (step.end_s - step.start_s))
        busy_s = self._busy_s[count - 1] + part * (step.end_s - step.start_s)
        return self._used_j[count - 1] + part * step.energy_j + self._idle_w * (time_s - busy_s)

    def counter(
        self, time_s: float, *, quantum_s: float = 0.1, phase_s: float = 0.0, offset_j: float = 5000.0
    ) -> float:
        """Return the device's counter in joules: updated once in `quantum_s`, in whole millijoules."""
        written_s = math.floor((time_s - phase_s) / quantum_s + 1e-9) * quantum_s + phase_s
        return round(offset_j + self.until(written_s), 3)


def drawn(seed: int, rate: float, duration_s: float = DURATION_S) -> Load:
    """Generate a load with its truth, which takes seconds."""
    rng = random.Random(seed)
    return simulate(Drawn(rng, rate, duration_s), lambda parts: sampled_shapley(parts, rng))


def recorded(seed: int, rate: float) -> Load:
    """Return a recorded load: runs the engine on the recorded arrivals."""
    rows = json.loads(RECORDED.read_text())[f"{seed}/{rate:g}"]
    return simulate(Listed([Job(arrival, prompt, answer, true_j) for arrival, prompt, answer, true_j in rows]))


def rows_of(load: Load) -> list[tuple[float, int, int, float]]:
    """Return the rows of a load that are recorded."""
    return [(job.arrival_s, job.prompt, job.answer, job.true_j) for job in load.jobs]


def main() -> None:
    """Write `batching.json`."""
    loads = {f"{seed}/{rate:g}": rows_of(drawn(seed, rate)) for seed, rate in RECORDED_LOADS}
    lines = (f"  {json.dumps(name)}: {json.dumps(rows)}" for name, rows in loads.items())
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
