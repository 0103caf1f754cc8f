"""The timeline of one inference: its progress, its activity in a bin, the energy attributed to it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable
from typing import NamedTuple

from ai_otel.energy.absence import NO_COUNTER, SHORT, UNCERTAIN, UNOBSERVED
from ai_otel.record import Energy, Progress

EXCLUSIVE, AFFINE, BIN_TOKENS, TIME_SHARE = "exclusive", "affine", "bin_tokens", "time_share"

SMALL_BATCH = 4.0
SMALL_ERROR = {EXCLUSIVE: 0.0, AFFINE: 0.15, BIN_TOKENS: 0.35, TIME_SHARE: 0.50}
ERROR = {EXCLUSIVE: 0.0, AFFINE: 0.30, BIN_TOKENS: 0.65, TIME_SHARE: 1.50}
"""
Relative error below which nine of ten requests stay on the worst of the simulated machines and loads
(`tests/gpu/test_uncertainty.py`), in batches of up to `SMALL_BATCH` requests on average and in larger ones.
"""
MOST_UNCERTAIN = 1.0
"""A figure that may be wrong by all of itself says nothing: it is absent."""
SENSOR_ERROR = 0.05
"""Accuracy class of the boards' power sensors."""
MATTERS = 0.1
"""A weaker method names the result if at least this share of the energy was found by it."""
LEAST_QUANTA = 2
LATE_QUANTA = 3
"""Quanta above which a bin is long: the sampler's thread had no turn, or the driver was slow to answer."""
BRIEF_S = 0.2
"""Seconds of decoding below which interpolated tokens are as good as counted ones."""


class Activity(NamedTuple):
    """One inference's work in one bin."""

    timeline: RequestTimeline
    start_s: float
    end_s: float
    prefill: float
    decoding: float
    context: float
    """Tokens of context read for one token of the answer."""
    decoding_s: float
    known: bool
    """Whether the tokens are known."""
    seen: bool
    """Whether the tokens were counted while they were produced, not interpolated."""

    @property
    def run_s(self) -> float:
        """Seconds that it ran in this bin."""
        return self.end_s - self.start_s


class RequestTimeline:
    """
    One inference from its start to the time when its energy is settled.

    `scheduled_s` is when the engine started to work on it; if unknown, it is taken to have started at once.
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

        self.attributed_j: dict[str, float] = {}
        self.idle_j = 0.0
        self.idle_known = True
        self.gpu_time_s = 0.0
        self.run_s = 0.0
        self.batch_s = 0.0
        self.device_j = 0.0
        self.least_w = float("inf")
        self.most_w = 0.0
        self.unobserved_s = 0.0
        self.mixed_s = 0.0
        """The longest bin that it shared with other requests or with none: who used the energy when is unknown."""
        self.absence: str | None = None
        """Why it has no energy: some of its time fell into unattributed energy."""

    def progress(
        self, time_s: float, progress: Progress, scheduled_s: float | None = None, first_token_s: float | None = None
    ) -> None:
        """Set the progress that the engine reported at `time_s`. Its times replace those of samples."""
        self.input_tokens = progress.input_tokens if progress.input_tokens is not None else self.input_tokens
        if progress.prefilling:
            self._waited_s = max(self._waited_s, time_s)
            return
        self.cached_tokens = progress.cached_tokens
        if scheduled_s is not None or first_token_s is not None:
            self._place(scheduled_s, first_token_s)
        if self.first_token_s is None:
            self.first_token_s = (self._waited_s + time_s) / 2
        if not self._times or time_s > self._times[-1]:
            self._times.append(time_s)
            self._counts.append(progress.output_tokens)

    def end(
        self,
        end_s: float,
        scheduled_s: float | None = None,
        first_token_s: float | None = None,
        tokens: Progress | None = None,
        *,
        final: bool = True,
    ) -> None:
        """Mark as ended. May be called again until `final`."""
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
        """Whether no later report can change its activity so far."""
        return self.final or (self.end_s is None and self.first_token_s is not None and bool(self._times))

    @property
    def waiting(self) -> bool:
        """Whether it may not have started."""
        return self.end_s is None and self.first_token_s is None and self.scheduled_s is None

    @property
    def runs_from_s(self) -> float:
        """When the engine started to work on it."""
        return self.scheduled_s if self.scheduled_s is not None else self.start_s

    def activity(self, since_s: float, until_s: float) -> Activity | None:
        """Return its work in this time; `None` if it did not run."""
        from_s, first_s = self.runs_from_s, self.first_token_s
        to_s = self.end_s if self.end_s is not None else float("inf")
        start_s, end_s = max(since_s, from_s), min(until_s, to_s)
        if start_s >= end_s:
            return None
        # Without a first token, the prompt was computed until the request ended.
        prefilled_s = first_s if first_s is not None else to_s
        prefilling_s = min(end_s, prefilled_s) - start_s
        prefill = decoding = context = decoding_s = 0.0
        known = seen = True
        if prefilling_s > 0:
            known = self.input_tokens is not None and prefilled_s != float("inf")
            if first_s is None and self.output_tokens:
                known = False  # there were tokens, at unknown times
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
        return Activity(self, start_s, end_s, prefill, decoding, context, decoding_s, known, seen)

    def _tokens_until(self, time_s: float) -> float | None:
        """Tokens of the answer so far: the first with the first token, then evenly between what was progress."""
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
        """Delete progress before `before_s`."""
        place = bisect_right(self._times, before_s) - 1
        if place > 0:
            del self._times[:place], self._counts[:place]

    def attribute(self, method: str, energy_j: float, idle_j: float | None, gpu_time_s: float) -> None:
        """Add its share of one bin; `idle_j` is the part of the idle floor in it, `None` if unknown."""
        self.attributed_j[method] = self.attributed_j.get(method, 0.0) + energy_j
        self.gpu_time_s += gpu_time_s
        if idle_j is None:
            self.idle_known = False
        else:
            self.idle_j += min(idle_j, energy_j)

    def ran(self, run_s: float, power_w: float, least_w: float, most_w: float, batch: float, mixed_s: float) -> None:
        """
        Add a bin's power, its range over this and the previous bins, and the batch size.

        `mixed_s` is the bin's length, or 0 if the same requests ran in all of it.
        """
        self.mixed_s = max(self.mixed_s, mixed_s)
        self.run_s += run_s
        self.batch_s += batch * run_s
        self.device_j += power_w * run_s
        self.least_w = min(self.least_w, least_w)
        self.most_w = max(self.most_w, most_w)

    def unattribute(self, absence: str) -> None:
        """Leave it without energy. The first reason is kept."""
        if self.absence is None:
            self.absence = absence

    def energy(self, quantum_s: float | None) -> Energy | None:
        """
        Return the attributed energy; `None` where it would be a guess, with the reason in `absence`.

        That is so if too much of its time is unobserved, or if it is too short: below two quanta of the counter, a
        request's energy is mostly that of its neighbours. A bin that is long because no sample was taken counts as a
        quantum if not the same requests ran in all of it. A figure with an uncertainty of all of itself is absent, too.
        """
        attributed_j = sum(self.attributed_j.values())
        if quantum_s is not None and self.mixed_s > LATE_QUANTA * quantum_s:
            quantum_s = self.mixed_s
        if self.unobserved_s > MATTERS * (self.run_s + self.unobserved_s):
            self.unattribute(UNOBSERVED)
        if quantum_s is None:
            self.unattribute(NO_COUNTER)
        elif self.run_s < LEAST_QUANTA * quantum_s or attributed_j <= 0:
            self.unattribute(SHORT)
        if self.absence is not None or quantum_s is None:
            return None
        shares = {method: method_j / attributed_j for method, method_j in self.attributed_j.items()}
        mattering = [method for method in shares if method != EXCLUSIVE and shares[method] >= MATTERS]
        others = [method for method in shares if method != EXCLUSIVE]
        method = max(mattering or others, key=lambda each: ERROR[each], default=EXCLUSIVE)
        edges = quantum_s * (self.most_w - self.least_w) / self.device_j
        batch_mean = self.batch_s / self.run_s
        errors = SMALL_ERROR if batch_mean <= SMALL_BATCH else ERROR
        estimate = sum(share * errors[each] for each, share in shares.items())
        uncertainty = max(SENSOR_ERROR, edges, estimate)
        if uncertainty >= MOST_UNCERTAIN:
            self.unattribute(UNCERTAIN)
            return None
        return Energy(
            gpu_j=attributed_j,
            idle_share=min(1.0, self.idle_j / attributed_j) if self.idle_known else None,
            method=method,
            uncertainty=uncertainty,
            gpu_time_s=self.gpu_time_s,
            power_mean_w=self.device_j / self.run_s,
            batch_mean=batch_mean,
        )
