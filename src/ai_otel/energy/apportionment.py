"""Divides the energy of one bin among the requests that ran in it: pure functions."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from ai_otel.energy.cost_model import PRIOR, StepCost, Work
from ai_otel.energy.timeline import AFFINE, BIN_TOKENS, EXCLUSIVE, TIME_SHARE, Activity

TOKENS_PER_STEP = 2048
"""Prompt tokens per step of an engine that does not report its steps."""
MOST_FITTED = 64
"""
Requests in a bin up to which the fitted cost is used. In larger batches most steps also compute a full chunk of
prompts, so that bins do not distinguish what a step costs from what its prompts cost.
"""
_SAME_S = 1e-9


class StepMember(NamedTuple):
    """One inference's work in one step of an engine."""

    key: Hashable
    prefill_tokens: int
    """Prompt tokens computed; 0 means one token was decoded."""
    context_tokens: int
    """Tokens in its cache before the step."""


class Step(NamedTuple):
    """One step of an engine."""

    start_s: float
    end_s: float
    members: Sequence[StepMember]


class Division(NamedTuple):
    """Shares of a bin in the order of the activities, and the method. A sum below 1 leaves the rest as overhead."""

    shares: Sequence[float]
    method: str
    work: Work | None = None
    """Work of the bin, if it was counted and the cost model can be fitted to it."""


def union_s(activities: Sequence[Activity], whole_s: float) -> float:
    """Return the seconds of a bin in which at least one activity ran."""
    if any(activity.run_s >= whole_s for activity in activities):
        return whole_s
    total_s, reached_s = 0.0, float("-inf")
    for activity in sorted(activities, key=lambda each: each.start_s):
        total_s += max(0.0, activity.end_s - max(activity.start_s, reached_s))
        reached_s = max(reached_s, activity.end_s)
    return min(total_s, whole_s)


def divide(
    activities: Sequence[Activity], busy_s: float, steps: Sequence[tuple[Step, float]], cost: StepCost
) -> Division:
    """Divide a bin by the best known method. `steps` come with the share of each that falls into the bin."""
    counted = len(activities) == 1 and activities[0].known and activities[0].seen
    if len(activities) == 1 and not steps:
        return Division((1.0,), EXCLUSIVE, _total(works_of(activities)) if counted else None)
    if not steps and sum(activity.run_s for activity in activities) <= busy_s + _SAME_S:
        return Division(_by_time(activities), EXCLUSIVE)
    if steps:
        return _by_steps(activities, steps, cost)
    if not all(activity.known for activity in activities):
        return Division(_by_time(activities), TIME_SHARE)
    works = works_of(activities)
    fitted = cost.trusted and len(activities) <= MOST_FITTED
    costs = [(cost.cost if fitted else PRIOR).times(work) for work in works]
    if sum(costs) <= 0:
        return Division(_by_time(activities), TIME_SHARE)
    seen = all(activity.seen for activity in activities)
    method = AFFINE if seen and fitted else BIN_TOKENS
    return Division(_normalised(costs), method, _total(works) if seen else None)


def works_of(activities: Sequence[Activity]) -> list[Work]:
    """
    Return each activity's work with its share of the steps, for an engine that does not report its steps.

    One step decodes one token of each request. So the number of steps is the median number of tokens of the requests
    that decoded all the time: some join fewer steps, and several choices or drafts gain several tokens in one step.
    """
    longest_s = max(activity.decoding_s for activity in activities)
    rates = [
        activity.decoding / activity.decoding_s
        for activity in activities
        if activity.decoding_s >= 0.99 * longest_s > 0
    ]
    prefill = sum(activity.prefill for activity in activities) / TOKENS_PER_STEP
    steps = max(median(rates) * longest_s if rates else 0.0, prefill)
    presences = [activity.decoding + activity.prefill / TOKENS_PER_STEP for activity in activities]
    scale = steps / sum(presences) if sum(presences) > 0 else 0.0
    return [
        Work(presence * scale, activity.prefill, activity.decoding, activity.decoding * activity.context)
        for presence, activity in zip(presences, activities, strict=True)
    ]


def _by_steps(activities: Sequence[Activity], steps: Sequence[tuple[Step, float]], cost: StepCost) -> Division:
    works = _works_by_key(steps)
    fitted = cost.trusted and len(activities) <= MOST_FITTED
    costs = {key: (cost.cost if fitted else PRIOR).times(work) for key, work in works.items()}
    total = sum(costs.values())
    if total <= 0:
        return Division(_by_time(activities), EXCLUSIVE if len(activities) == 1 else TIME_SHARE)
    shares = [costs.get(activity.timeline.key, 0.0) / total for activity in activities]
    if len(works) == 1 and shares == [1.0]:
        return Division((1.0,), EXCLUSIVE, _total(works.values()))
    return Division(shares, AFFINE if fitted else BIN_TOKENS, _total(works.values()))


def _works_by_key(steps: Sequence[tuple[Step, float]]) -> Mapping[Hashable, Work]:
    sums: dict[Hashable, list[float]] = {}
    for step, share in steps:
        presence = share / len(step.members) if step.members else 0.0
        for key, prefill, context in step.members:
            mine = sums.setdefault(key, [0.0] * 4)
            mine[0] += presence
            mine[1] += share * prefill
            mine[2] += share if prefill == 0 else 0.0
            mine[3] += share * context
    return {key: Work(*mine) for key, mine in sums.items()}


def _by_time(activities: Sequence[Activity]) -> list[float]:
    return _normalised([activity.run_s for activity in activities])


def _normalised(amounts: Sequence[float]) -> list[float]:
    total = sum(amounts)
    return [amount / total for amount in amounts]


def _total(works: Iterable[Work]) -> Work:
    return Work(*(sum(column) for column in zip(*works, strict=True)))
