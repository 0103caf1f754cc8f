"""From records to the ledger and back: moments on the monotonic clock, computed tokens, the sum of energies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ai_otel.energy.timeline import ERROR
from ai_otel.record import Choice, Energy, Inference, Progress


class Moments(NamedTuple):
    """When an inference was worked on, in seconds of the monotonic clock."""

    scheduled_s: float | None
    first_token_s: float | None
    end_s: float


def monotonic_s(inference: Inference, wall_ns: int) -> float:
    """A moment on the inference's time line, in seconds of the monotonic clock."""
    return (inference._started + wall_ns - inference.start_ns) / 1e9  # noqa: SLF001 - the clock that `begin_clock` set


def told_moments(inference: Inference, first_token_ns: int, prefill_s: float | None) -> tuple[float | None, float]:
    """When it was scheduled and when its first token came, by what the engine tells while it runs."""
    first_token_s = monotonic_s(inference, first_token_ns)
    return None if prefill_s is None else first_token_s - prefill_s, first_token_s


def moments_of(inference: Inference, over_s: float) -> Moments:
    """
    When an inference that is complete was worked on: from the first of its choices that was, to the last token.

    The end of its stream may come later, when the client is slow to read.
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
    last_s = max(ends) if ends and len(ends) == len(inference.choices) else over_s
    return Moments(min(starts, default=None), min(firsts, default=None), min(last_s, over_s))


def tokens_of(choices: Sequence[Choice]) -> Progress | None:
    """The tokens that were computed for all choices together; `None` where one does not tell."""
    inputs = [choice.counted_input_tokens for choice in choices]
    outputs = [choice.output_tokens for choice in choices]
    if not choices or None in outputs:
        return None
    told = sum(each for each in inputs if each is not None) if None not in inputs else None
    cached = [choice.cached_tokens for choice in choices]
    found = sum(each for each in cached if each is not None) if None not in cached else None
    # What an aborted choice had not prefilled is 0 here: the prompt that progress told is better.
    return Progress(told or None, found, sum(each for each in outputs if each is not None), prefilling=False)


def sum_of(energies: Sequence[Energy]) -> Energy:
    """The energy of a record: its inferences' together. Means are weighted with what each had of the devices' time."""
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
