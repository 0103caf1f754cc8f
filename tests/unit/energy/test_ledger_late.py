"""Figures of requests of known power against their integral, with a sampler that sometimes gets no turn."""

from __future__ import annotations

import math
from random import Random

import pytest

from ai_otel.energy.absence import SHORT
from ai_otel.energy.ledger import Ledger, Settled
from ai_otel.gpu.source import Device
from ai_otel.record import Progress

GPU = Device("GPU-0", "nvidia")
IDLE_W, QUANTUM_S = 60.0, 0.1

Request = tuple[float, float, float]
"""Start and end in seconds, and watts beside the idle device's."""


def true_j(requests: list[Request], until_s: float) -> float:
    return IDLE_W * until_s + sum(
        power_w * (min(end_s, until_s) - start_s) for start_s, end_s, power_w in requests if start_s < until_s
    )


def settled(requests: list[Request], samples: list[float]) -> dict[int, Settled]:
    """Sample at these times a counter that is updated every `QUANTUM_S`."""
    ledger, found = Ledger([GPU]), {}
    begun = ended = 0
    for now_s in samples:
        ledger.add_energy(GPU.key, now_s, true_j(requests, math.floor(now_s / QUANTUM_S) * QUANTUM_S))
        while begun < len(requests) and requests[begun][0] <= now_s:
            ledger.begin(begun, requests[begun][0])
            begun += 1
        while ended < len(requests) and requests[ended][1] <= now_s:
            start_s, end_s, _ = requests[ended]
            ledger.end(ended, end_s, scheduled_s=start_s, first_token_s=start_s, tokens=Progress(9, 0, 50, False))
            ended += 1
        found.update({each.key: each for each in ledger.settle(now_s)})
    return found


def steady(until_s: float) -> list[float]:
    return [0.03 + 0.1 * number for number in range(round(until_s * 10))]


@pytest.mark.fault(
    "gpu",
    "the sampler gets no turn for two seconds, in which one request ends and the next one begins",
    "neither has a figure (`short`), because it is unknown which of them used the energy; the accounts still balance",
)
def test_requests_that_change_between_two_late_samples_have_no_energy() -> None:
    requests = [(5.0, 8.0, 50.0), (8.0, 9.5, 600.0), (12.0, 15.0, 300.0)]
    found = settled(requests, [time_s for time_s in steady(20) if not 7.0 < time_s < 9.0])
    assert [found[key].absence for key in range(3)] == [SHORT, SHORT, None]
    energy = found[2].energy
    assert energy is not None
    assert energy.gpu_j == pytest.approx(3 * 360.0, rel=0.05)


def test_a_late_sample_inside_of_a_request_costs_nothing() -> None:
    found = settled([(5.0, 9.0, 300.0)], [time_s for time_s in steady(20) if not 6.0 < time_s < 8.0])
    energy = found[0].energy
    assert energy is not None
    assert energy.gpu_j == pytest.approx(4 * 360.0, rel=0.05)
    assert energy.uncertainty < 0.1


def test_with_late_samples_figures_are_within_their_uncertainty() -> None:
    within = []
    for seed in range(10):
        random, now_s, requests = Random(seed), 4.0, []
        while now_s < 60:
            end_s = now_s + random.uniform(0.5, 6)
            requests.append((now_s, end_s, random.uniform(50, 600)))
            now_s = end_s + random.choice([0, random.uniform(0, 3)])
        late = [random.uniform(5, 60) for _ in range(4)]
        samples = [time_s for time_s in steady(75) if not any(since < time_s < since + 2 for since in late)]
        for key, each in settled(requests, samples).items():
            start_s, end_s, power_w = requests[key]
            if each.energy is not None:
                error = abs(each.energy.gpu_j / ((IDLE_W + power_w) * (end_s - start_s)) - 1)
                within.append(error <= each.energy.uncertainty)
    assert len(within) > 100
    assert sum(within) > 0.97 * len(within)
