"""One inference while it runs on the devices: what is known of it, what it did in a bin, what it was given."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable
from typing import NamedTuple

from ai_otel.record import Energy, Progress

EXCLUSIVE, AFFINE, BIN_TOKENS, TIME_SHARE = "exclusive", "affine", "bin_tokens", "time_share"

ERROR = {EXCLUSIVE: 0.0, AFFINE: 0.10, BIN_TOKENS: 0.35, TIME_SHARE: 0.90}
"""
Below what nine of ten requests stay, as a share of their energy, on the worst of the simulated machines and loads
(`tests/gpu/test_attribution.py`): batches of up to 37, six models and devices.
"""
SENSOR_ERROR = 0.05
"""The class of the boards' power sensors."""
MATTERS = 0.1
"""A weaker method names the whole where at least this share of the energy was found by it."""
LEAST_QUANTA = 2
BRIEF_S = 0.2
"""Tokens of an answer no longer than this may be spread evenly, and tell as much as if they had been counted."""


class Part(NamedTuple):
    """What one inference did in one bin."""

    flight: Flight
    start_s: float
    end_s: float
    prefill: float
    decoding: float
    context: float
    """Tokens of context read for one token of the answer."""
    decoding_s: float
    known: bool
    """Whether the tokens are."""
    seen: bool
    """Whether they were counted on the way, not spread evenly afterwards."""

    @property
    def run_s(self) -> float:
        """For how long it ran in this bin."""
        return self.end_s - self.start_s


class Flight:
    """
    One inference from its begin to the time when its energy is settled.

    `scheduled_s` is when the engine began to work on it; without, it is taken to have begun at once.
    """

    def __init__(self, key: Hashable, start_s: float, model: str | None) -> None:
        self.key = key
        self.start_s = start_s
        self.model = model
        self.scheduled_s: float | None = None
        self.first_token_s: float | None = None
        self.end_s: float | None = None
        self.final = False
        self.input_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.output_tokens: int | None = None
        self._waited_s = start_s
        self._times: list[float] = []
        self._counts: list[int] = []

        self.given_j: dict[str, float] = {}
        self.idle_j = 0.0
        self.idle_known = True
        self.gpu_time_s = 0.0
        self.run_s = 0.0
        self.batch_s = 0.0
        self.device_j = 0.0
        self.least_w = float("inf")
        self.most_w = 0.0
        self.blind_s = 0.0
        self.torn = False
        """Some of its time fell where nobody's energy is known."""

    def progress(
        self, time_s: float, told: Progress, scheduled_s: float | None = None, first_token_s: float | None = None
    ) -> None:
        """Take what the engine told at `time_s`. A moment that it knows is better than ours."""
        self.input_tokens = told.input_tokens if told.input_tokens is not None else self.input_tokens
        if told.prefilling:
            self._waited_s = max(self._waited_s, time_s)
            return
        self.cached_tokens = told.cached_tokens
        if scheduled_s is not None or first_token_s is not None:
            self._place(scheduled_s, first_token_s)
        if self.first_token_s is None:
            self.first_token_s = (self._waited_s + time_s) / 2
        if not self._times or time_s > self._times[-1]:
            self._times.append(time_s)
            self._counts.append(told.output_tokens)

    def end(
        self,
        end_s: float,
        scheduled_s: float | None = None,
        first_token_s: float | None = None,
        tokens: Progress | None = None,
        *,
        final: bool = True,
    ) -> None:
        """It is over. May be told again with more, as long as it was not `final`."""
        self.end_s = max(self.start_s, end_s)
        self.final = self.final or final
        if tokens is not None:
            self.input_tokens = tokens.input_tokens if tokens.input_tokens is not None else self.input_tokens
            self.cached_tokens = tokens.cached_tokens if tokens.cached_tokens is not None else self.cached_tokens
            self.output_tokens = tokens.output_tokens
        elif self._counts:
            self.output_tokens = self._counts[-1]
        self._place(scheduled_s, first_token_s)

    def _place(self, scheduled_s: float | None, first_token_s: float | None) -> None:
        latest_s = self.end_s if self.end_s is not None else float("inf")
        if first_token_s is not None:
            self.first_token_s = min(max(first_token_s, self.start_s), latest_s)
        elif self.first_token_s is not None:
            self.first_token_s = min(self.first_token_s, latest_s)
        if self.first_token_s is not None:
            latest_s = self.first_token_s
        if scheduled_s is not None:
            self.scheduled_s = min(max(scheduled_s, self.start_s), latest_s)

    @property
    def resolved(self) -> bool:
        """Whether nothing that comes later can change what it did so far."""
        return self.final or (self.end_s is None and self.first_token_s is not None and bool(self._times))

    @property
    def waiting(self) -> bool:
        """Whether it may not have begun."""
        return self.end_s is None and self.first_token_s is None and self.scheduled_s is None

    @property
    def runs_from_s(self) -> float:
        """When the engine began to work on it."""
        return self.scheduled_s if self.scheduled_s is not None else self.start_s

    def part(self, since_s: float, until_s: float) -> Part | None:
        """What it did in this stretch; `None` where it did not run."""
        from_s, first_s = self.runs_from_s, self.first_token_s
        to_s = self.end_s if self.end_s is not None else float("inf")
        start_s, end_s = max(since_s, from_s), min(until_s, to_s)
        if start_s >= end_s:
            return None
        # A prompt of which no token came: it was worked on until it was given up.
        prefilled_s = first_s if first_s is not None else to_s
        prefilling_s = min(end_s, prefilled_s) - start_s
        prefill = decoding = context = decoding_s = 0.0
        known = seen = True
        if prefilling_s > 0:
            known = self.input_tokens is not None and prefilled_s != float("inf")
            if first_s is None and self.output_tokens:
                known = False  # there were tokens, nobody knows since when
            if self.input_tokens is not None and known:
                computed = max(0, self.input_tokens - (self.cached_tokens or 0))
                prefill = computed * prefilling_s / (prefilled_s - from_s)
        if first_s is not None and end_s > first_s:
            decoding_s = end_s - max(start_s, first_s)
            before, after = self._tokens_until(max(start_s, first_s)), self._tokens_until(end_s)
            if before is None or after is None:
                known = False
            else:
                decoding = after - before
                context = (self.input_tokens or 0) + (before + after) / 2
            seen = bool(self._times) or to_s - first_s <= BRIEF_S
        return Part(self, start_s, end_s, prefill, decoding, context, decoding_s, known, seen)

    def _tokens_until(self, time_s: float) -> float | None:
        """Tokens of the answer so far: the first with the first token, then evenly between what was told."""
        first_s = self.first_token_s
        if first_s is None:
            return None
        place = bisect_right(self._times, time_s)
        if place and self._times[place - 1] > first_s:
            from_s, count = self._times[place - 1], float(self._counts[place - 1])
        else:
            from_s, count = first_s, 1.0
        if place < len(self._times):
            to_s, reached = self._times[place], self._counts[place]
        elif self.end_s is not None and self.output_tokens is not None:
            to_s, reached = self.end_s, self.output_tokens
        else:
            return count if self._times else None
        if to_s <= from_s:
            return count
        return count + max(0.0, reached - count) * min(1.0, (time_s - from_s) / (to_s - from_s))

    def forget(self, before_s: float) -> None:
        """Nobody asks any more for what was before."""
        place = bisect_right(self._times, before_s) - 1
        if place > 0:
            del self._times[:place], self._counts[:place]

    def give(self, method: str, energy_j: float, idle_j: float | None, gpu_time_s: float) -> None:
        """Its share of one bin, with the part of it that is the idle floor's."""
        self.given_j[method] = self.given_j.get(method, 0.0) + energy_j
        self.gpu_time_s += gpu_time_s
        if idle_j is None:
            self.idle_known = False
        else:
            self.idle_j += min(idle_j, energy_j)

    def ran(self, run_s: float, power_w: float, least_w: float, most_w: float, batch: float) -> None:
        """Note what the devices drew while it ran, at least and at most then and shortly before, and how many ran."""
        self.run_s += run_s
        self.batch_s += batch * run_s
        self.device_j += power_w * run_s
        self.least_w = min(self.least_w, least_w)
        self.most_w = max(self.most_w, most_w)

    def energy(self, quantum_s: float) -> Energy | None:
        """
        What it was given; `None` where that would be a guess.

        So it is where its time is not all known, or is too short: below two quanta of the counter a request's energy is
        mostly its neighbours'.
        """
        given_j = sum(self.given_j.values())
        blind = self.blind_s > MATTERS * (self.run_s + self.blind_s)
        if self.torn or blind or self.run_s < LEAST_QUANTA * quantum_s or given_j <= 0:
            return None
        shares = {method: method_j / given_j for method, method_j in self.given_j.items()}
        mattering = [method for method in shares if method != EXCLUSIVE and shares[method] >= MATTERS]
        others = [method for method in shares if method != EXCLUSIVE]
        method = max(mattering or others, key=lambda each: ERROR[each], default=EXCLUSIVE)
        edges = quantum_s * (self.most_w - self.least_w) / self.device_j
        estimate = sum(share * ERROR[each] for each, share in shares.items())
        return Energy(
            gpu_j=given_j,
            idle_share=min(1.0, self.idle_j / given_j) if self.idle_known else None,
            method=method,
            uncertainty=max(SENSOR_ERROR, edges, estimate),
            gpu_time_s=self.gpu_time_s,
            power_mean_w=self.device_j / self.run_s,
            batch_mean=self.batch_s / self.run_s,
        )
