"""
Loads on which the stated uncertainty is judged: power that grows with the batch, bursts, tensor parallelism, long gaps.

SIMULATED, like `batching.py`, whose engine runs them. The truth is each request's Shapley value of the steps' energy,
over sampled orders of the batch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.gpu.batching import Job, Listed, Load, Machine, Part, simulate


@dataclass(frozen=True, slots=True)
class PowerLaw(Machine):
    """A device whose power above idle grows with a power of the tokens in a step, up to a limit."""

    exponent: float = 0.5
    most_w: float = 580.0
    full_tokens: int = 256
    """Tokens in a step from which on power grows no more."""

    def cost(self, prefill: int, decoding: int, context: int) -> tuple[float, float]:
        took_s, _ = Machine.cost(self, prefill, decoding, context)
        return took_s, self._power_w(prefill + decoding) * took_s

    def _power_w(self, tokens: int) -> float:
        return 0.0 if tokens == 0 else self.idle_w + self.most_w * min(1.0, tokens / self.full_tokens) ** self.exponent

    @property
    def weights_s(self) -> float:
        """Seconds in which the weights are read once."""
        return self.weights_bytes / self.bandwidth

    def is_bound_by_memory(self, parts: Sequence[tuple[int, Part]]) -> bool:
        """Whether memory sets the time of a step that decodes, and so of any average part of its batch."""
        context = sum(part.context_tokens for _, part in parts)
        memory_s = self.weights_s + context * self.cache_bytes_per_token / self.bandwidth
        return self.flop_per_token * len(parts) / self.peak_flops <= memory_s

    def shares(self, count: int) -> tuple[float, float, float]:
        """Return what a request of a batch pays for its own time, for the constant time, and for the others' time."""
        powers = [self._power_w(size) for size in range(count + 1)]
        steps = [powers[k + 1] - powers[k] for k in range(count)]
        of_others = sum(step * k for k, step in enumerate(steps)) / count / (count - 1) if count > 1 else 0.0
        return sum(powers[1:]) / count, powers[count] / count, of_others


def truth_of(load: Load, samples: int = 60) -> list[float]:
    """
    Return each job's Shapley value of the steps' energy.

    It is exact for steps that decode only, of which memory sets the time; others are sampled, each order of the batch
    in both directions.
    """
    rng, machine = random.Random(7), load.machine
    true = [0.0] * len(load.jobs)
    for step in load.steps:
        parts = list(step.parts)
        decoding = all(part.prefill_tokens == 0 for _, part in parts)
        if decoding and machine.is_bound_by_memory(parts):
            _add_exact(true, parts, machine)
        else:
            _add_sampled(true, parts, machine, rng, samples)
    return true


def _add_exact(true: list[float], parts: Sequence[tuple[int, Part]], machine: PowerLaw) -> None:
    """
    Add the shares of a step whose time is `c0` and a term for each request, and whose power depends on its size.

    A request that is the `k`-th to join finds `k` of the others, whose terms are the mean of all others' on average.
    """
    count = len(parts)
    c0 = machine.weights_s + machine.launch_s
    terms = [part.context_tokens * machine.cache_bytes_per_token / machine.bandwidth for _, part in parts]
    others, means = sum(terms), machine.shares(count)
    for (number, _), own in zip(parts, terms, strict=True):
        true[number] += means[0] * own + means[1] * c0 + means[2] * (others - own)


def _add_sampled(
    true: list[float], parts: list[tuple[int, Part]], machine: PowerLaw, rng: random.Random, samples: int
) -> None:
    for sample in range(samples if len(parts) > 1 else 1):
        if sample % 2 == 0:
            rng.shuffle(parts)
        prefill = decoding = context = 0
        before_j = 0.0
        for number, part in parts if sample % 2 == 0 else reversed(parts):
            prefill, context = prefill + part.prefill_tokens, context + part.context_tokens
            decoding += part.prefill_tokens == 0
            energy_j = machine.cost(prefill, decoding, context)[1]
            true[number] += (energy_j - before_j) / (samples if len(parts) > 1 else 1)
            before_j = energy_j


def jobs_at(rng: random.Random, arrivals: Sequence[float]) -> list[Job]:
    """Return requests of random lengths, as those of `batching.Drawn`."""
    return [
        Job(
            at_s,
            int(min(8000, max(16, rng.lognormvariate(6.2, 1.0)))),
            int(min(2000, max(4, rng.lognormvariate(5.0, 0.8)))),
        )
        for at_s in sorted(arrivals)
    ]


def steady(rate: float, seconds: float = 40.0) -> Callable[[random.Random], list[float]]:
    """Return the arrival times of a constant load."""

    def arrivals(rng: random.Random) -> list[float]:
        times, at_s = [], rng.expovariate(rate)
        while at_s < seconds:
            times.append(at_s)
            at_s += rng.expovariate(rate)
        return times

    return arrivals


def burst(count: int) -> Callable[[random.Random], list[float]]:
    """Return the arrival times of requests that come within a tenth of a second."""
    return lambda rng: [0.01 + 0.1 * rng.random() for _ in range(count)]


def bursts(count: int, each_s: float, times: int) -> Callable[[random.Random], list[float]]:
    """Return the arrival times of several bursts with long gaps."""
    return lambda rng: [number * each_s + 0.01 + rng.random() for number in range(times) for _ in range(count)]


ARRIVALS: Mapping[str, Callable[[random.Random], list[float]]] = {
    "2 requests/s": steady(2.0),
    "8 requests/s": steady(8.0),
    "12 requests/s": steady(12.0),
    "burst of 200": burst(200),
    "burst of 1000": burst(1000),
    "burst of 400, batch 256": burst(400),
    "30 requests/s, batch 256": steady(30.0, 12.0),
    "20 requests every 20 s": bursts(20, 20.0, 5),
}
LARGE = frozenset({"burst of 400, batch 256", "30 requests/s, batch 256"})
"""Loads whose engine runs 256 requests at once, not 64."""
MACHINES: Mapping[str, PowerLaw] = {
    "constant power": PowerLaw(exponent=0.0),
    "batch^0.5": PowerLaw(exponent=0.5),
    "batch^1": PowerLaw(exponent=1.0),
}


def load_of(arrivals: str, machine: str, seed: int = 1) -> Load:
    """Return a load of the tables above."""
    rng = random.Random(f"{seed} {arrivals}")
    jobs = jobs_at(rng, ARRIVALS[arrivals](rng))
    return simulate(Listed(jobs), machine=MACHINES[machine], batch_limit=256 if arrivals in LARGE else 64)
