"""Conversions between records and the ledger: times on the monotonic clock, computed tokens, sums of energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ai_otel.energy.timeline import ERROR
from ai_otel.record import Choice, Energy, Inference, Progress


class Timing(NamedTuple):
    """When an inference was computed, in seconds of the monotonic clock; `None` is unknown."""

    scheduled_s: float | None
    first_token_s: float | None
    end_s: float


def monotonic_s(inference: Inference, wall_ns: int) -> float:
    """Return a wall-clock time of the inference, in nanoseconds, as seconds of the monotonic clock."""
    return (inference._started + wall_ns - inference.start_ns) / 1e9  # noqa: SLF001 - the clock that `begin_clock` set


def first_token_timing(
    inference: Inference, first_token_ns: int, prefill_s: float | None
) -> tuple[float | None, float]:
    """Return when a running inference was scheduled, if known, and when its first token came."""
    first_token_s = monotonic_s(inference, first_token_ns)
    return None if prefill_s is None else first_token_s - prefill_s, first_token_s


def timing_of(inference: Inference, ended_s: float) -> Timing:
    """
    Return when an ended inference was computed: from its first scheduled choice to its last token.

    The end of its stream, `ended_s`, is later if the client is slow to read.
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
    last_s = max(ends) if ends and len(ends) == len(inference.choices) else ended_s
    return Timing(min(starts, default=None), min(firsts, default=None), min(last_s, ended_s))


def tokens_of(choices: Sequence[Choice]) -> Progress | None:
    """Return the tokens computed for all choices together; `None` if one of them is unknown."""
    inputs = [choice.counted_input_tokens for choice in choices]
    outputs = [choice.output_tokens for choice in choices]
    if not choices or None in outputs:
        return None
    prompt = sum(each for each in inputs if each is not None) if None not in inputs else None
    cached = [choice.cached_tokens for choice in choices]
    found = sum(each for each in cached if each is not None) if None not in cached else None
    # An aborted choice has 0 here for what was not prefilled: the prompt of its last progress is better.
    return Progress(prompt or None, found, sum(each for each in outputs if each is not None), prefilling=False)


def sum_of(energies: Sequence[Energy]) -> Energy:
    """Return the energy of a record, the sum of its inferences'. Means are weighted by GPU time."""
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
