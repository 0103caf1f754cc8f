"""How one bin of energy is divided among those who ran in it: pure functions."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from ai_otel.energy.cost_model import StepCost, Work
from ai_otel.energy.timeline import AFFINE, BIN_TOKENS, EXCLUSIVE, TIME_SHARE, Part

TOKENS_PER_STEP = 2048
"""How many tokens of prompts an engine computes in one step, where it does not tell."""
_SAME_S = 1e-9


class StepMember(NamedTuple):
    """What one inference has done in one step of an engine."""

    key: Hashable
    prefill_tokens: int
    """Tokens of its prompt; with 0 it has decoded one token."""
    context_tokens: int
    """Tokens in its cache before the step."""


class Step(NamedTuple):
    """One step of an engine."""

    start_s: float
    end_s: float
    members: Sequence[StepMember]


class Division(NamedTuple):
    """The parts' shares of a bin, in the order of the parts, and how they were found. Less than 1 in all: overhead."""

    shares: Sequence[float]
    method: str
    work: Work | None = None
    """What was done in the bin, where it was counted and can be learned from."""


def union_s(parts: Sequence[Part], whole_s: float) -> float:
    """For how long of a bin at least one of them ran."""
    if any(part.run_s >= whole_s for part in parts):
        return whole_s
    total_s, reached_s = 0.0, float("-inf")
    for part in sorted(parts, key=lambda each: each.start_s):
        total_s += max(0.0, part.end_s - max(part.start_s, reached_s))
        reached_s = max(reached_s, part.end_s)
    return min(total_s, whole_s)


def divide(parts: Sequence[Part], busy_s: float, steps: Sequence[tuple[Step, float]], cost: StepCost) -> Division:
    """Divide a bin by the best that is known of it. `steps` come with the share of each that fell into the bin."""
    counted = len(parts) == 1 and parts[0].known and parts[0].seen
    if len(parts) == 1 and not steps:
        return Division((1.0,), EXCLUSIVE, _total(works_of(parts)) if counted else None)
    if not steps and sum(part.run_s for part in parts) <= busy_s + _SAME_S:
        return Division(_by_time(parts), EXCLUSIVE)
    if steps:
        return _by_steps(parts, steps, cost)
    if not all(part.known for part in parts):
        return Division(_by_time(parts), TIME_SHARE)
    works = works_of(parts)
    costs = [cost.cost.times(work) for work in works]
    if sum(costs) <= 0:
        return Division(_by_time(parts), TIME_SHARE)
    seen = all(part.seen for part in parts)
    method = AFFINE if seen and cost.trusted else BIN_TOKENS
    return Division(_normalised(costs), method, _total(works) if seen else None)


def works_of(parts: Sequence[Part]) -> list[Work]:
    """
    Each part's work, with its share of the steps: an engine that does not tell its steps decodes a token in each.

    So the steps of a bin are the tokens of those who decoded all the time, the median of them: some take part in fewer
    steps, and those with several answers or drafts gain several tokens in one.
    """
    longest_s = max(part.decoding_s for part in parts)
    rates = [part.decoding / part.decoding_s for part in parts if part.decoding_s >= 0.99 * longest_s > 0]
    prefill = sum(part.prefill for part in parts) / TOKENS_PER_STEP
    steps = max(median(rates) * longest_s if rates else 0.0, prefill)
    presences = [part.decoding + part.prefill / TOKENS_PER_STEP for part in parts]
    scale = steps / sum(presences) if sum(presences) > 0 else 0.0
    return [
        Work(presence * scale, part.prefill, part.decoding, part.decoding * part.context)
        for presence, part in zip(presences, parts, strict=True)
    ]


def _by_steps(parts: Sequence[Part], steps: Sequence[tuple[Step, float]], cost: StepCost) -> Division:
    works = _works_by_key(steps)
    costs = {key: cost.cost.times(work) for key, work in works.items()}
    total = sum(costs.values())
    if total <= 0:
        return Division(_by_time(parts), EXCLUSIVE if len(parts) == 1 else TIME_SHARE)
    shares = [costs.get(part.flight.key, 0.0) / total for part in parts]
    if len(works) == 1 and shares == [1.0]:
        return Division((1.0,), EXCLUSIVE, _total(works.values()))
    return Division(shares, AFFINE if cost.trusted else BIN_TOKENS, _total(works.values()))


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


def _by_time(parts: Sequence[Part]) -> list[float]:
    return _normalised([part.run_s for part in parts])


def _normalised(amounts: Sequence[float]) -> list[float]:
    total = sum(amounts)
    return [amount / total for amount in amounts]


def _total(works: Iterable[Work]) -> Work:
    return Work(*(sum(column) for column in zip(*works, strict=True)))
