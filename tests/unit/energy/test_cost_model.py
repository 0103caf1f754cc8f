"""The cost of a step, learned from the energy of bins; and how a bin is divided by it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st

from ai_otel.energy.apportionment import Step, StepMember, divide, union_s, works_of
from ai_otel.energy.cost_model import PRIOR, StepCost, Work, non_negative
from ai_otel.energy.timeline import AFFINE, BIN_TOKENS, EXCLUSIVE, TIME_SHARE, Activity, RequestTimeline

TRUE = Work(steps=1.9, prefill=0.02, decoding=0.011, context=3e-5)


def bins(count: int, seed: int = 1) -> Iterator[Work]:
    """Bins of 100 ms with a few steps each."""
    rng = random.Random(seed)
    for _ in range(count):
        steps, batch = rng.randint(2, 18), rng.randint(1, 30)
        yield Work(
            float(steps), float(rng.randint(0, 3000)), float(steps * batch), steps * batch * rng.uniform(200, 4000)
        )


def learned(true: Work, count: int = 400, noise: float = 0.0) -> StepCost:
    cost, rng = StepCost(), random.Random(2)
    for work in bins(count):
        cost.learn(work, true.times(work) * (1 + rng.gauss(0, noise)))
    return cost


def near(cost: StepCost, true: Work, share: float) -> bool:
    assert cost.fitted is not None
    return list(cost.fitted) == pytest.approx(list(true), rel=share)


def test_a_cost_is_found() -> None:
    cost = learned(TRUE)
    assert cost.trusted
    assert near(cost, TRUE, 0.02)
    assert cost.r2 == pytest.approx(1, abs=0.01)


def test_noise_in_the_energy_does_not_hurt() -> None:
    assert near(learned(TRUE, count=1000, noise=0.05), TRUE, 0.15)


def test_before_enough_is_known_the_prior_is_used() -> None:
    cost = learned(TRUE, count=StepCost.ENOUGH)
    assert cost.r2 is None
    assert cost.cost == PRIOR


def test_energy_that_has_nothing_to_do_with_the_work_is_not_trusted() -> None:
    cost, rng = StepCost(), random.Random(3)
    for work in bins(400):
        cost.learn(work, rng.choice([2.0, 60.0]))
    assert cost.r2 is not None
    assert cost.r2 < StepCost.GOOD
    assert cost.cost == PRIOR


def test_what_the_load_cannot_separate_keeps_the_priors_ratios() -> None:
    """Only decoding: nothing is known of what a prompt costs, but how it compares."""
    cost = StepCost()
    for work in bins(200):
        only = work._replace(prefill=0.0)
        cost.learn(only, 400 * PRIOR.times(only))
    assert cost.fitted is not None
    assert cost.fitted.prefill == pytest.approx(400 * PRIOR.prefill, rel=0.05)


def test_what_nearly_always_comes_together_keeps_them_too() -> None:
    """The same eight requests in every step: noise must not be taken for what their tokens cost."""
    cost, rng = StepCost(), random.Random(4)
    for steps in (3.0, 7.0, 11.0, 16.0) * 100:
        together = Work(steps, 0.0, 8 * steps + rng.random(), 4000 * steps * rng.uniform(0.999, 1.001))
        cost.learn(together, 2.0 * steps * rng.gauss(1, 0.05))
    assert cost.fitted is not None
    assert cost.fitted.decoding / cost.fitted.steps == pytest.approx(PRIOR.decoding, rel=0.5)
    assert cost.fitted.context / cost.fitted.steps == pytest.approx(PRIOR.context, rel=0.5)


def test_a_single_wild_bin_does_not_hurt() -> None:
    """One sample just before the counter is written puts half of a bin's energy into the next."""
    cost = learned(TRUE)
    work = Work(15.0, 0.0, 15.0, 15000.0)
    cost.learn(work, 20 * TRUE.times(work))
    for each in bins(20, seed=5):
        cost.learn(each, TRUE.times(each))
    assert near(cost, TRUE, 0.05)


def test_another_model_is_learned_after_a_while() -> None:
    cost = learned(TRUE)
    other = Work(0.4, 0.03, 0.03, 1e-5)
    for work in bins(6000, seed=7):
        cost.learn(work, other.times(work))
    assert near(cost, other, 0.1)


@given(
    rows=st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=4, max_size=8),
    right=st.lists(st.floats(-5, 5), min_size=8, max_size=8),
)
def test_the_solution_is_the_best_without_a_negative(rows: list[list[float]], right: list[float]) -> None:
    """Karush, Kuhn and Tucker: nothing can be gained by growing what is zero, nor by moving what is not."""
    normal = [[sum(row[i] * row[j] for row in rows) + (0.1 if i == j else 0) for j in range(4)] for i in range(4)]
    moment = [sum(row[i] * value for row, value in zip(rows, right, strict=False)) for i in range(4)]
    solution = non_negative(normal, moment)
    gradient = [sum(normal[i][j] * solution[j] for j in range(4)) - moment[i] for i in range(4)]
    scale = 1e-6 * (1 + max(abs(value) for value in moment))
    for value, slope in zip(solution, gradient, strict=True):
        assert value >= 0
        assert abs(slope) < scale if value > 0 else slope > -scale


# ---------------------------------------------------------------- the division of a bin


def part(
    key: int,
    *,
    start_s: float = 0.0,
    end_s: float = 0.1,
    prefill: float = 0.0,
    decoding: float = 0.0,
    context: float = 0.0,
    known: bool = True,
    seen: bool = True,
) -> Activity:
    decoding_s = end_s - start_s if decoding else 0.0
    return Activity(
        RequestTimeline(key, 0.0, None), start_s, end_s, prefill, decoding, context, decoding_s, known, seen
    )


def trusted_cost() -> StepCost:
    return learned(TRUE)


def test_who_is_alone_gets_all() -> None:
    division = divide([part(1)], 0.1, [], StepCost())
    assert (division.shares, division.method) == ((1.0,), EXCLUSIVE)


def test_who_runs_after_another_gets_its_time() -> None:
    parts = [part(1, end_s=0.025, decoding=2), part(2, start_s=0.025, prefill=5000)]
    division = divide(parts, 0.1, [], StepCost())
    assert division.shares == pytest.approx([0.25, 0.75])
    assert division.method == EXCLUSIVE


def test_alike_are_given_alike() -> None:
    parts = [part(key, decoding=10, context=500) for key in range(5)]
    division = divide(parts, 0.1, [], StepCost())
    assert division.shares == pytest.approx([0.2] * 5)
    assert division.method == BIN_TOKENS


def test_one_part_without_counts_makes_it_a_matter_of_time() -> None:
    parts = [part(1, decoding=10), part(2, start_s=0.05, known=False)]
    division = divide(parts, 0.1, [], trusted_cost())
    assert division.shares == pytest.approx([2 / 3, 1 / 3])
    assert division.method == TIME_SHARE
    assert division.work is None


def test_a_fit_is_used_where_it_can_be_trusted_and_tokens_were_counted() -> None:
    parts = [part(1, decoding=10, context=100), part(2, decoding=10, context=100)]
    spread = [each._replace(seen=False) for each in parts]
    assert divide(parts, 0.1, [], trusted_cost()).method == AFFINE
    assert divide(parts, 0.1, [], StepCost()).method == BIN_TOKENS
    assert divide(spread, 0.1, [], trusted_cost()).method == BIN_TOKENS
    assert divide(spread, 0.1, [], trusted_cost()).work is None


def test_shares_are_the_closed_form_of_the_shapley_value() -> None:
    """Two steps, known members: an equal part of what a step costs, and what is one's own."""
    cost = trusted_cost()
    steps = [
        (Step(0.0, 0.05, [StepMember(1, 0, 100), StepMember(2, 1000, 0)]), 1.0),
        (Step(0.05, 0.06, [StepMember(1, 0, 101)]), 1.0),
    ]
    division = divide([part(1), part(2)], 0.1, steps, cost)
    a, b, c, d = cost.cost
    first = a / 2 + c + 100 * d + a + c + 101 * d
    second = a / 2 + 1000 * b
    assert division.shares == pytest.approx([first / (first + second), second / (first + second)])
    assert division.method == AFFINE


def test_a_step_with_others_leaves_their_share_unclaimed() -> None:
    steps = [(Step(0.0, 0.1, [StepMember(1, 0, 100), StepMember("warm-up", 0, 100)]), 1.0)]
    division = divide([part(1)], 0.1, steps, trusted_cost())
    assert division.shares == pytest.approx([0.5])


def test_a_prompt_alone_takes_steps_too() -> None:
    (work,) = works_of([part(1, prefill=4096)])
    assert work.steps == pytest.approx(2)


def test_several_answers_of_one_request_do_not_make_more_steps() -> None:
    """With n = 4 one request gains four tokens a step: most of the others say how many steps there were."""
    works = works_of([part(1, decoding=40), part(2, decoding=10), part(3, decoding=10)])
    assert sum(work.steps for work in works) == pytest.approx(10)


@given(
    spans=st.lists(st.tuples(st.floats(0, 0.1), st.floats(0, 0.1)), min_size=1, max_size=6),
    tokens=st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 500), st.floats(0, 1e5)), min_size=6, max_size=6),
    known=st.booleans(),
)
def test_a_bin_is_given_away_whole(
    spans: list[tuple[float, float]], tokens: list[tuple[float, float, float]], known: bool
) -> None:
    parts = [
        part(number, start_s=min(span), end_s=max(span), prefill=p, decoding=d, context=c, known=known)
        for number, (span, (p, d, c)) in enumerate(zip(spans, tokens, strict=False))
        if max(span) > min(span)
    ]
    if parts:
        division = divide(parts, union_s(parts, 0.1), [], StepCost())
        assert sum(division.shares) == pytest.approx(1, rel=1e-12)
        assert min(division.shares) >= 0


def test_time_in_which_any_ran_counts_once() -> None:
    parts = [part(1, start_s=0.0, end_s=0.03), part(2, start_s=0.02, end_s=0.05), part(3, start_s=0.09)]
    assert union_s(parts, 0.1) == pytest.approx(0.06)
