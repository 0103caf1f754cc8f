"""
How near a request's energy comes to the truth, and that none is lost: on simulated loads, through the shipped ledger.

Nothing here was measured on hardware. The device's counter is read ten times a second and written every 100 ms, out of
step; the loads and their truth are `tests/harness/gpu/batching.py`. `pytest tests/gpu/test_attribution.py -s -k table`
prints the errors of every method on every load.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from functools import cache

import pytest

from ai_otel.energy.timeline import AFFINE, BIN_TOKENS, ERROR, EXCLUSIVE, TIME_SHARE
from harness.gpu.batching import (
    RECORDED,
    RECORDED_LOADS,
    Job,
    Listed,
    Load,
    Machine,
    drawn,
    recorded,
    refined_truth,
    simulate,
)
from harness.gpu.metered import Metered, Reporting, median_and_p90, meter

REPORTINGS = {
    "time_share": Reporting(tokens=False),
    "bin_tokens": Reporting(),
    "affine by progress": Reporting(progress=True),
    "affine by steps": Reporting(steps=True),
}

# Median and 90th percentile of the reference simulation, which shared exact energies of bins and steps, by load: the
# worst of its three seeds. Its truth is sampled, and for the affine method that noise is nearly all of the error.
REFERENCE = {
    ("time_share", 4.0): (0.076, 0.275),
    ("time_share", 12.0): (0.237, 0.513),
    ("bin_tokens", 4.0): (0.068, 0.141),
    ("bin_tokens", 12.0): (0.136, 0.283),
    ("affine", 4.0): (0.011, 0.033),
    ("affine", 12.0): (0.023, 0.071),
}
REFERENCE_SEED_1 = {("bin_tokens", 4.0): (0.046, 0.123), ("bin_tokens", 12.0): (0.108, 0.249)}

LOADS = [pytest.param(seed, rate, id=f"seed {seed}, {rate:g} a second") for seed, rate in RECORDED_LOADS]
MACHINES = {
    "half the arithmetic": Machine(peak_flops=300e12),
    "twice the arithmetic": Machine(peak_flops=1200e12),
    "32B parameters": Machine(weights_bytes=64e9, flop_per_token=64e9, cache_bytes_per_token=2 * 64 * 8 * 128 * 2.0),
    "weights of 4 bits": Machine(weights_bytes=4e9),
    "power that hardly varies": Machine(idle_w=300, memory_w=100, compute_w=80),
}
"""Others than the prior was made for."""
OUT_OF_STEP = {
    "just after a write": {"phase_s": 0.001},
    "just before a write": {"phase_s": 0.099},
    "a slower counter": {"quantum_s": 0.1003},
    "a faster counter": {"quantum_s": 0.0994},
    "written every 20 ms": {"quantum_s": 0.0203},
}


METHODS = {
    "time_share": TIME_SHARE,
    "bin_tokens": BIN_TOKENS,
    "affine by progress": AFFINE,
    "affine by steps": AFFINE,
}


def as_new(load: Load) -> list[Job]:
    """The same requests, before anything became of them."""
    return [Job(job.arrival_s, job.prompt, job.answer) for job in load.jobs]


@cache
def load_of(seed: int, rate: float) -> Load:
    return recorded(seed, rate)


@cache
def truth_of(seed: int, rate: float) -> tuple[float, ...]:
    return tuple(refined_truth(load_of(seed, rate)))


@cache
def metered(seed: int, rate: float, reporting: Reporting) -> Metered:
    return meter(load_of(seed, rate), reporting)


def counted(run: Metered, method: str) -> int:
    """How many requests have an energy by this method."""
    return sum(each.energy is not None and each.energy.method == method for each in run.settled.values())


# ---------------------------------------------------------------- the simulation


def test_a_recorded_load_is_what_is_drawn() -> None:
    """Arrivals and truth in the file are what the seed gives; those of the other seeds were made in the same way."""
    kept = json.loads(RECORDED.read_text())["1/4"]
    load = drawn(1, 4.0)
    assert [(job.prompt, job.answer) for job in load.jobs] == [(prompt, answer) for _, prompt, answer, _ in kept]
    assert [job.arrival_s for job in load.jobs] == pytest.approx([row[0] for row in kept], rel=1e-9)
    assert [job.true_j for job in load.jobs] == pytest.approx([row[3] for row in kept], rel=1e-9)


def test_the_loads_are_those_of_the_reference() -> None:
    """Requests, mean batch, and joules with those of the time without a request, as the reference prints them."""
    assert set(json.loads(RECORDED.read_text())) == {f"{seed}/{rate:g}" for seed, rate in RECORDED_LOADS}
    for rate, count, batch, energy_j in ((4.0, 107, 3.8, 11249), (12.0, 357, 14.5, 13118)):
        load = load_of(1, rate)
        until_last_j = load.energy().until(max(load.end_s, 30.0))
        assert (len(load.jobs), round(load.mean_batch, 1), round(until_last_j)) == (count, batch, energy_j)


@pytest.mark.parametrize(("seed", "rate"), LOADS)
def test_the_truth_shares_all_energy_of_the_steps(seed: int, rate: float) -> None:
    load = load_of(seed, rate)
    steps_j = sum(step.energy_j for step in load.steps)
    assert sum(truth_of(seed, rate)) == pytest.approx(steps_j, rel=1e-9)
    assert sum(job.true_j for job in load.jobs) == pytest.approx(steps_j, rel=1e-9)


# ---------------------------------------------------------------- the errors


@pytest.mark.parametrize(("seed", "rate"), LOADS)
def test_times_and_counts_alone_come_as_near_as_the_reference(seed: int, rate: float) -> None:
    run = metered(seed, rate, REPORTINGS["bin_tokens"])
    median, p90 = median_and_p90(run.errors())
    allowed = REFERENCE_SEED_1.get(("bin_tokens", rate)) if seed == 1 else None
    limits = allowed or REFERENCE["bin_tokens", rate]
    assert median <= limits[0]
    assert p90 <= limits[1]
    assert counted(run, AFFINE) == 0


@pytest.mark.parametrize(("seed", "rate"), LOADS)
def test_steps_come_as_near_as_the_noise_of_the_reference_allows(seed: int, rate: float) -> None:
    """Against the sampled truth the reference's own figures and half a percent; against the refined one, far less."""
    run = metered(seed, rate, REPORTINGS["affine by steps"])
    median, p90 = median_and_p90(run.errors())
    assert median <= REFERENCE["affine", rate][0] + 0.005
    assert p90 <= REFERENCE["affine", rate][1] + 0.005
    median, p90 = median_and_p90(run.errors(truth_of(seed, rate)))
    assert median <= 0.01
    assert p90 <= 0.03
    assert counted(run, AFFINE) > 0.8 * len(run.load.jobs)


@pytest.mark.parametrize("rate", [4.0, 12.0])
def test_with_exact_energies_only_the_noise_of_the_reference_is_left(rate: float) -> None:
    """As the reference has it: energies of single steps, and a cost that was fitted to the whole load before."""
    reporting = Reporting(steps=True, exact=True)
    run = meter(load_of(1, rate), reporting, meter(load_of(1, rate), reporting).ledger.cost)
    median, p90 = median_and_p90(run.errors())
    assert median <= REFERENCE["affine", rate][0]
    assert p90 <= REFERENCE["affine", rate][1] + 0.002
    median, p90 = median_and_p90(run.errors(truth_of(1, rate)))
    print(f"affine, exact energies, {rate:g}/s: {median:.2%} and {p90:.2%} of the refined truth")
    assert median <= 0.004
    assert p90 <= 0.01


@pytest.mark.parametrize(("seed", "rate"), LOADS)
def test_progress_comes_nearly_as_near_as_steps(seed: int, rate: float) -> None:
    run = metered(seed, rate, REPORTINGS["affine by progress"])
    median, p90 = median_and_p90(run.errors(truth_of(seed, rate)))
    assert median <= 0.015
    assert p90 <= 0.045
    assert counted(run, AFFINE) > 0.8 * len(run.load.jobs)


@pytest.mark.parametrize(("seed", "rate"), LOADS)
def test_the_intervals_alone_say_little(seed: int, rate: float) -> None:
    """What a test of this kind must be able to see: a method that knows less errs more."""
    run = metered(seed, rate, REPORTINGS["time_share"])
    median, p90 = median_and_p90(run.errors())
    assert median <= REFERENCE["time_share", rate][0] + 0.01
    assert p90 <= REFERENCE["time_share", rate][1] + 0.01
    figures = [each.energy for each in run.settled.values() if each.energy is not None]
    assert len(figures) < (0.7 if rate == 4 else 0.1) * len(run.load.jobs), "in small batches only"
    assert all(energy.uncertainty < 1 for energy in figures)
    absences = [each.absence for each in run.settled.values() if each.energy is None]
    assert absences.count("uncertain") > 0.9 * len(absences)
    posted = zip((each.posted_j for _, each in sorted(run.settled.items())), run.load.jobs, strict=True)
    median = statistics.median(abs(posted_j / job.true_j - 1) for posted_j, job in posted)
    assert median > 2 * median_and_p90(metered(seed, rate, REPORTINGS["bin_tokens"]).errors())[0]


@pytest.mark.parametrize("how", OUT_OF_STEP.values(), ids=OUT_OF_STEP)
@pytest.mark.parametrize("rate", [4.0, 12.0])
def test_it_does_not_matter_when_the_counter_is_written(rate: float, how: dict[str, float]) -> None:
    for reporting in (REPORTINGS["affine by progress"], REPORTINGS["affine by steps"]):
        run = metered(1, rate, replace(reporting, **how))
        median, p90 = median_and_p90(run.errors(truth_of(1, rate)))
        assert median <= 0.02
        assert p90 <= 0.05


@pytest.mark.parametrize(("seed", "rate"), LOADS)
@pytest.mark.parametrize("reporting", REPORTINGS.values(), ids=REPORTINGS)
def test_nine_of_ten_are_within_their_uncertainty(seed: int, rate: float, reporting: Reporting) -> None:
    run = metered(seed, rate, reporting)
    pairs = [(run.settled[number].energy, true_j) for number, true_j in enumerate(truth_of(seed, rate))]
    within = [abs(energy.gpu_j / true_j - 1) <= energy.uncertainty for energy, true_j in pairs if energy is not None]
    assert statistics.mean(within) >= 0.9


@pytest.mark.parametrize("rate", [4.0, 12.0])
@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_other_machines_are_within_what_is_claimed(machine: Machine, rate: float) -> None:
    """The same requests where the prior is off by up to three times: what is fitted does not stay there."""
    load = simulate(Listed(as_new(load_of(1, rate))), machine=machine)
    truth = refined_truth(load)
    for name, reporting in REPORTINGS.items():
        median, p90 = median_and_p90(meter(load, reporting).errors(truth))
        print(f"{rate:g}/s, mean batch {load.mean_batch:.1f}, {name}: {100 * median:.1f} % and {100 * p90:.1f} %")
        assert p90 <= ERROR[METHODS[name]]


# ---------------------------------------------------------------- the accounts


@pytest.mark.parametrize(("seed", "rate"), LOADS)
@pytest.mark.parametrize("reporting", REPORTINGS.values(), ids=REPORTINGS)
def test_requests_and_buckets_come_to_the_energy_of_the_device(seed: int, rate: float, reporting: Reporting) -> None:
    """The sum over the requests one by one, with idle and overhead: 0.1 % is asked for, rounding is what there is."""
    run = metered(seed, rate, reporting)
    assert set(run.settled) == set(range(len(run.load.jobs)))
    requests_j = sum(each.posted_j for each in run.settled.values())
    sum_j = requests_j + run.joules("idle") + run.joules("overhead") + run.joules("other")
    account = run.account
    assert sum_j == pytest.approx(account.device_energy_j, rel=1e-9)
    assert abs(account.conservation_error) < 1e-9
    # And that is the device's: all of it but the ends, at which the counter's last write is not known yet.
    truly_j = run.load.energy().until(account.device_time_s + run.first_sample_s) - run.load.energy().until(
        run.first_sample_s
    )
    assert account.device_energy_j == pytest.approx(truly_j, rel=0.002)
    assert account.idle_power_w == pytest.approx(120, rel=0.01)
    assert sum(account.time_s.values()) == pytest.approx(account.device_time_s, rel=1e-9)


@pytest.mark.parametrize(("seed", "rate"), LOADS)
def test_little_is_withheld(seed: int, rate: float) -> None:
    """Only requests of less than two quanta of the counter have no energy of their own."""
    run = metered(seed, rate, REPORTINGS["affine by progress"])
    jobs = run.load.jobs
    short = {number for number, job in enumerate(jobs) if job.end_s - job.scheduled_s < 0.2}
    assert {number for number, each in run.settled.items() if each.energy is None} == short
    assert len(short) < 0.03 * len(jobs)


def test_progress_settles_a_request_at_once() -> None:
    """A request has its energy within half a second of its end: what runs with it need not end first."""
    for rate in (4.0, 12.0):
        assert metered(1, rate, REPORTINGS["affine by progress"]).latest_settled_s < 0.6


def test_requests_one_after_another_are_measured() -> None:
    """No other request runs: nothing is shared, and a request's energy is the device's while it ran."""
    arrivals = [Job(1.5 * number, 200 * (number % 7 + 1), 40 + 20 * (number % 5)) for number in range(20)]
    load = simulate(Listed(arrivals))
    true = [0.0] * len(load.jobs)
    for step in load.steps:
        ((number, _),) = step.parts
        true[number] += step.energy_j
    for reporting in REPORTINGS.values():
        run = meter(load, reporting)
        assert counted(run, EXCLUSIVE) == len(load.jobs)
        median, p90 = median_and_p90(run.errors(true))
        assert median < 0.03
        assert p90 < 0.06


# ---------------------------------------------------------------- the table


def test_the_table_of_errors() -> None:
    """What the page claims: each method's own error is not below what nine of ten stay within, on any load."""
    rows = []
    for name, reporting in REPORTINGS.items():
        for seed, rate in RECORDED_LOADS:
            run = metered(seed, rate, reporting)
            sampled, refined = median_and_p90(run.errors()), median_and_p90(run.errors(truth_of(seed, rate)))
            rows.append(
                (
                    name,
                    f"{rate:g}/s",
                    f"{run.load.mean_batch:.1f}",
                    seed,
                    *(f"{100 * e:.1f}" for e in (*sampled, *refined)),
                )
            )
            assert refined[1] <= ERROR[METHODS[name]]
    print("\nmethod | load | mean batch | seed | median % | p90 % | median %, refined truth | p90 %, refined truth")
    for row in rows:
        print(" | ".join(str(cell) for cell in row))
