"""What is counted, in PromQL: events and bad events of each objective, and the two bounds of goodput."""

from __future__ import annotations

import json

from ai_otel.contract import load
from ai_otel.slo.objective import ERRORS, LATENCIES, Objective, Slo

# As AiOtelRequestsFail: who hangs up, and who asks for what cannot be, are no failures of the server. A full queue is.
NOT_VALID = 'error_type!~"cancelled|4[0-9][0-9]"'
ERROR, NO_ERROR = 'error_type!=""', 'error_type=""'
# Series that the library or the engine's endpoint exposes while the server lives, with or without requests. The GPU
# agent's series are excluded.
ALIVE = "(gen_ai_server|ai_otel_(request|token|engine|kv_cache|record))_.+"


def series_of(metric: str) -> str:
    """The name of a metric in Prometheus."""
    return next(each.prometheus for each in load().metrics if each.name == metric)


class Expressions:
    """Everything in the labels of one service; each rate is a number of events a second."""

    def __init__(self, slo: Slo) -> None:
        self.labels = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in slo.selector.items()]
        self.slo = slo
        self.duration = series_of("gen_ai.server.request.duration") + "_count"

    @property
    def alive(self) -> str:
        """Any series of the server itself."""
        return self._selected("", f"__name__=~{json.dumps(ALIVE)}")

    def error_ratio(self, objective: Objective, window: str) -> str:
        """The share of bad events; absent where there are no events."""
        events = self.events(objective, window)
        if objective.name == ERRORS:
            failed = self._rate(self.duration, window, ERROR, NOT_VALID)
            return f"(\n  sum({failed})\n  or 0 * {events}\n)\n/ ({events} > 0)"
        return f"1 - {self._within(objective, window)}\n/ ({events} > 0)"

    def events(self, objective: Objective, window: str) -> str:
        """Events a second: valid calls, or samples of the histogram."""
        if objective.name not in LATENCIES:
            return f"sum({self._rate(self.duration, window, NOT_VALID)})"
        return self._samples(objective, window)

    def goodput(self, objective: Objective, window: str) -> dict[str, str]:
        """
        Bounds of the share of valid calls that did not fail and met both thresholds.

        The histograms do not say which request a sample is of. Each call is taken to be one inference.
        lower: each slow answer spoils at most one inference that was in time for its first token.
        upper: the inferences with a first token in time, and every success whose first token is unknown. With one
        choice a call, each slow answer also is one inference that is not good.
        """
        first, token = (self.slo.objectives[name] for name in ("first_token", "output_token"))
        calls = self.events(objective, window)
        succeeded = f"sum({self._rate(self.duration, window, NO_ERROR)})"
        within, known = self._within(first, window), self._samples(first, window)
        none = f"0 * {calls}"
        # Where a histogram lacks the bound, its answers count as slow for the lower bound and as fast for the upper.
        tokens = series_of(LATENCIES[token.name])
        perhaps_slow = f"sum({self._rate(tokens + '_count', window)})\n      - {self._within(token, window)}"
        surely_slow = f"{self._samples(token, window)}\n      - {self._within(token, window)}"
        good = f"(\n    {within}\n    or {none}\n  )"
        if objective.single_choice:
            rest = f"{known}\n    - (\n      {surely_slow}\n    )"
            good = f"(\n    (\n    {rest}\n    ) < {within}\n    or {within}\n    or {none}\n  )"
        unknown = f"clamp_min(\n    ({succeeded} or {none})\n    - ({known} or {none}),\n    0\n  )"
        return {
            "lower": f"clamp_min(\n  {within}\n  - (\n      {perhaps_slow}\n  ),\n  0\n)\n/ ({calls} > 0)",
            "upper": f"clamp_max(\n  (\n  {good}\n  + {unknown}\n  )\n  / ({calls} > 0),\n  1\n)",
        }

    def _within(self, objective: Objective, window: str) -> str:
        return f"sum({self._bucket(objective, window)})"

    def _samples(self, objective: Objective, window: str) -> str:
        """Samples a second, of those series only that have the bound: an engine's own endpoint may have others."""
        count = self._rate(series_of(LATENCIES[objective.name]) + "_count", window)
        return f"sum({count} and ignoring (le) {self._bucket(objective, window)})"

    def _bucket(self, objective: Objective, window: str) -> str:
        # 1 is `1` where OTLP brought it and `1.0` where a page was read.
        bound = f"{objective.threshold_s:g}"
        whole = "." not in bound
        matcher = f'le=~"{bound}([.]0)?"' if whole else f'le="{bound}"'
        return self._rate(series_of(LATENCIES[objective.name]) + "_bucket", window, matcher)

    def _rate(self, metric: str, window: str, *matchers: str) -> str:
        return f"rate({self._selected(metric, *matchers)}[{window}])"

    def _selected(self, metric: str, *matchers: str) -> str:
        return f"{metric}{{{', '.join((*self.labels, *matchers))}}}"
