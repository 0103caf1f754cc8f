"""The rules: shares of bad events per window, what is left of the budget, and alerts on how fast it is spent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from ai_otel.slo.expressions import Expressions
from ai_otel.slo.objective import ERRORS, GOODPUT, Objective, Slo

Tree = dict[str, Any]

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
# Short window, long window, share of the budget that the long one may spend, hours of the long one.
FAST = (("5m", "1h", Decimal("0.02"), 1), ("30m", "6h", Decimal("0.05"), 6))
SLOW = (("2h", "1d", Decimal("0.10"), 24), ("6h", "3d", Decimal("0.10"), 72))

_MEANING = {
    "first_token": "of the successful requests had their first token later than {threshold} s",
    "output_token": "of the answers took longer than {threshold} s on average for each token after the first",
    "token_interval": "of the gaps between two emissions were longer than {threshold} s",
    ERRORS: "of the valid calls failed",
    GOODPUT: "of the valid calls, at the very least, failed or missed a threshold (the true share is not lower)",
}
_RUNBOOK = {
    "first_token": "See whether requests wait (ai_otel_request_waiting) or prefill is slow "
    "(ai_otel_request_prefill_duration_seconds).",
    "output_token": "See how large the batches are (ai_otel_request_running) and whether requests are preempted.",
    "token_interval": "See whether long prefills stand between decode steps, and whether emissions hold many tokens.",
    ERRORS: "See error_type of gen_ai_server_request_duration_seconds_count: it says why.",
    GOODPUT: "See which of errors, first_token and output_token burns; slo:goodput:ratio_lower_rate1h says how bad "
    "it can be.",
}


def write(slo: Slo, *, plain: bool = False) -> str:
    """The text: a PrometheusRule, or the groups alone."""
    import yaml

    class Blocks(yaml.SafeDumper):
        """Expressions of several lines as blocks, and no anchors: each rule reads by itself."""

        def ignore_aliases(self, _data: object) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Blocks.add_representer(str, text)
    body = groups(slo) if plain else _resource(slo)
    head = f"# Made by `ai-otel slo render` for {slo.name}. Change slo.yaml, not this file.\n"
    return head + str(yaml.dump(body, Dumper=Blocks, sort_keys=False, allow_unicode=True, width=10_000))


def groups(slo: Slo) -> Tree:
    """The groups of rules, as Prometheus reads them."""
    found: list[Tree] = []
    for objective in slo.objectives.values():
        rules = _Rules(slo, objective)
        found += [
            {"name": f"ai-otel-slo-sli-{rules.id}", "rules": list(rules.sli())},
            {"name": f"ai-otel-slo-meta-{rules.id}", "rules": list(rules.meta())},
            {"name": f"ai-otel-slo-alerts-{rules.id}", "rules": list(rules.alerts())},
        ]
    found.append({"name": f"ai-otel-slo-telemetry-{slo.name}", "rules": [_no_telemetry(slo)]})
    return {"groups": found}


def remarks(slo: Slo) -> Iterator[str]:
    """What the rules cannot do, a sentence each."""
    for objective in slo.objectives.values():
        for short, long, share, hours in (*FAST, *SLOW):
            factor = _factor(slo, share, hours)
            if factor * objective.budget >= 1:
                yield (
                    f"{objective.name}: the alert on {short} and {long} cannot fire, for {_plain(factor)} times a "
                    f"budget of {_plain(objective.budget * 100)} % is more than everything"
                )


def _resource(slo: Slo) -> Tree:
    labels = {
        "app.kubernetes.io/name": slo.name,
        "app.kubernetes.io/component": "slo",
        "app.kubernetes.io/part-of": "ai-otel",
    }
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": f"{slo.name}-slo", "labels": {**labels, **slo.labels}},
        "spec": groups(slo),
    }


def _no_telemetry(slo: Slo) -> Tree:
    return {
        "alert": "AiOtelSloNoTelemetry",
        "expr": f"absent_over_time({Expressions(slo).alive}[10m])",
        "for": "5m",
        "labels": {"severity": "critical", "sloth_service": slo.name, **slo.alert_labels},
        "annotations": {
            "summary": f"{slo.name}: nothing reports, so no objective is measured",
            "description": "For ten minutes there has been no series of the service: it is down, or its telemetry "
            "does not arrive. A service without requests does report, and is no alert.",
            "runbook": "Run `ai-otel doctor` beside the server; see whether the Collector loses or refuses telemetry.",
            **_url(slo),
        },
    }


def _url(slo: Slo) -> Tree:
    return {"runbook_url": slo.runbook_url} if slo.runbook_url else {}


def _factor(slo: Slo, share: Decimal, hours: int) -> Decimal:
    """How many times faster than allowed the budget is spent, if `share` of it goes in so many hours."""
    return (share * 24 * slo.window_days / hours).quantize(Decimal("0.0001"))


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"


class _Rules:
    """The rules of one objective."""

    def __init__(self, slo: Slo, objective: Objective) -> None:
        self.slo, self.objective = slo, objective
        self.id = f"{slo.name}-{objective.name}"
        self.labels = {"sloth_id": self.id, "sloth_service": slo.name, "sloth_slo": objective.name}
        self.selector = "{" + ", ".join(f"{key}={json.dumps(value)}" for key, value in self.labels.items()) + "}"
        self.period = f"{slo.window_days}d"

    def sli(self) -> Iterator[Tree]:
        """The share of bad events per window, and over the whole period."""
        expressions = Expressions(self.slo)
        for window in WINDOWS:
            labels = {**self.labels, "sloth_window": window}
            if self.objective.name != GOODPUT:
                expression = expressions.error_ratio(self.objective, window)
            else:
                for side, bound in expressions.goodput(self.objective, window).items():
                    yield {"record": f"slo:goodput:ratio_{side}_rate{window}", "expr": bound, "labels": labels}
                expression = f"1 - {self._series(f'slo:goodput:ratio_upper_rate{window}')}"
            yield {"record": f"slo:sli_error:ratio_rate{window}", "expr": expression, "labels": labels}
        # A mean of shares would weigh a quiet night as a busy day: so events are summed, not shares.
        events = expressions.events(self.objective, "5m")
        yield {"record": "slo:sli_events:rate5m", "expr": events, "labels": self.labels}
        share, all_events = self._series("slo:sli_error:ratio_rate5m"), self._series("slo:sli_events:rate5m")
        bad = f"{share}\n* ignoring (sloth_window)\n{all_events}"
        yield {"record": "slo:sli_error_events:rate5m", "expr": bad, "labels": {**self.labels, "sloth_window": "5m"}}
        whole = (
            f"sum_over_time({self._series('slo:sli_error_events:rate5m')}[{self.period}])\n/ ignoring (sloth_window)\n"
            f"(sum_over_time({all_events}[{self.period}]) > 0)"
        )
        yield {
            "record": f"slo:sli_error:ratio_rate{self.period}",
            "expr": whole,
            "labels": {**self.labels, "sloth_window": self.period},
        }

    def meta(self) -> Iterator[Tree]:
        """The objective, and the rest of its error budget."""
        budget = self._series("slo:error_budget:ratio")
        by = "/ on (sloth_id, sloth_service, sloth_slo) group_left ()"
        current = f"{self._series('slo:sli_error:ratio_rate5m')}\n{by}\n{budget}"
        period = f"{self._series(f'slo:sli_error:ratio_rate{self.period}')}\n{by}\n{budget}"
        for record, expression in {
            "slo:objective:ratio": f"vector({_plain(self.objective.target)})",
            "slo:error_budget:ratio": f"vector({_plain(self.objective.budget)})",
            "slo:time_period:days": f"vector({self.slo.window_days})",
            "slo:current_burn_rate:ratio": current,
            "slo:period_burn_rate:ratio": period,
            "slo:period_error_budget_remaining:ratio": f"1 - {self._series('slo:period_burn_rate:ratio')}",
        }.items():
            yield {"record": record, "expr": expression, "labels": self.labels}
        info = {
            "sloth_mode": "ai-otel",
            "sloth_objective": _plain(self.objective.target * 100),
            "sloth_spec": "ai-otel",
        }
        yield {"record": "sloth_slo_info", "expr": "vector(1)", "labels": {**self.labels, **info}}

    def alerts(self) -> Iterator[Tree]:
        """One alert to page, and one for a ticket."""
        yield self._alert("AiOtelSloBurnsFast", FAST, "critical", "page")
        yield self._alert("AiOtelSloBurnsSlowly", SLOW, "warning", "ticket")

    def _alert(self, name: str, pairs: tuple[Any, ...], severity: str, sloth: str) -> Tree:
        either = "\nor ignoring (sloth_window)\n".join(self._both(*pair) for pair in pairs)
        hours, end = ("hours", "within days") if sloth == "page" else ("days", "before its period ends")
        meaning = _MEANING[self.objective.name].format(threshold=f"{self.objective.threshold_s or 0:g}")
        objective = f"{_plain(self.objective.target * 100)} % in {self.slo.window_days} days"
        return {
            "alert": name,
            "expr": either,
            "labels": {"severity": severity, "sloth_severity": sloth, **self.labels, **self.slo.alert_labels},
            "annotations": {
                "summary": f"{self.id}: the error budget of {objective} will be spent {end}",
                "description": "{{ $value | humanizePercentage }} " + meaning + f", and for {hours} too many were.",
                "runbook": _RUNBOOK[self.objective.name],
                **_url(self.slo),
            },
        }

    def _both(self, short: str, long: str, share: Decimal, hours: int) -> str:
        limit = f"({_plain(_factor(self.slo, share, hours))} * {_plain(self.objective.budget)})"
        sides = (f"({self._series(f'slo:sli_error:ratio_rate{window}')} > {limit})" for window in (short, long))
        return "(\n  " + "\n  and ignoring (sloth_window)\n  ".join(sides) + "\n)"

    def _series(self, record: str) -> str:
        return record + self.selector
