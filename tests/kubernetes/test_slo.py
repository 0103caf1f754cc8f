"""The rules of an SLO: values by hand, alerts where they must fire and only there, and what stays absent."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ai_otel.cli import main
from ai_otel.cli.slo import template
from ai_otel.slo.objective import OBJECTIVES, parsed
from ai_otel.slo.rules import WINDOWS, groups, write
from harness.kubernetes.charts import HOME, Tree
from harness.telemetry.prometheus import promtool

SLO: Tree = yaml.safe_load(template().read_text())
CONTRACT: Tree = json.loads((HOME.parents[1] / "src/ai_otel/schema/contract.json").read_text())
LABELS = 'k8s_namespace_name="models", service_name="chat"'
DURATION = "gen_ai_server_request_duration_seconds"
FIRST = "gen_ai_server_time_to_first_token_seconds"
TOKEN = "gen_ai_server_time_per_output_token_seconds"
GAP = "ai_otel_token_interval_seconds"


def asked(**goodput: object) -> Tree:
    """The template, with another goodput."""
    return {**SLO, "objectives": {**SLO["objectives"], "goodput": {"objective": 95, **goodput}}}


def only(*names: str, **more: object) -> Tree:
    """The template with these objectives."""
    return {**SLO, "objectives": {name: SLO["objectives"][name] for name in names}, **more}


def prove(directory: Path, slo: Tree, *tests: Tree) -> None:
    """Let promtool evaluate the rules on series, once a minute."""
    (directory / "rules.yaml").write_text(write(parsed(slo), plain=True))
    tree = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", **t} for t in tests],
    }
    (directory / "test.yaml").write_text(yaml.safe_dump(tree))
    promtool("test", "rules", directory / "test.yaml")


def series(metric: str, values: str, *labels: str) -> Tree:
    return {"series": f"{metric}{{{', '.join((LABELS, *labels))}}}", "values": values}


def calls(values: str, error: str | None = None) -> Tree:
    return series(f"{DURATION}_count", values, *([] if error is None else [f'error_type="{error}"']))


def histogram(metric: str, bound: str, samples: int, within: int, minutes: int) -> list[Tree]:
    """So many samples a minute, so many of them within the bound."""
    count = series(f"{metric}_count", f"0+{samples}x{minutes}")
    return [count, series(f"{metric}_bucket", f"0+{within}x{minutes}", f'le="{bound}"')]


def holds(record: str, value: str, at: str, slo: str = "") -> Tree:
    """A recorded value is this one, but for the last digits."""
    selector = f'{{sloth_slo="{slo}"}}' if slo else ""
    expression = f"count(abs({record}{selector} - ({value})) < 1e-9)"
    return {"expr": expression, "eval_time": at, "exp_samples": [{"labels": "{}", "value": 1}]}


def absent(expression: str, at: str) -> Tree:
    return {"expr": expression, "eval_time": at, "exp_samples": []}


def firing(at: str, *alerts: tuple[str, str]) -> Tree:
    """Exactly these fire: name and objective."""
    labels = [{"alertname": name, **({"sloth_slo": slo} if slo else {})} for name, slo in alerts]
    listed = ["{" + ", ".join(f'{key}="{value}"' for key, value in each.items()) + "}" for each in labels]
    expression = 'count by (alertname, sloth_slo) (ALERTS{alertstate="firing"})'
    return {"expr": expression, "eval_time": at, "exp_samples": [{"labels": each, "value": 1} for each in listed]}


# ---------------------------------------------------------------- what is written


def test_the_committed_example_is_what_the_command_writes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slo", "render"]) == 0
    assert (HOME / "slo/generated/prometheusrule.yaml").read_text() == capsys.readouterr().out


@pytest.mark.requires(part="prometheus")
@pytest.mark.parametrize("single", [False, True])
def test_prometheus_takes_every_rule(single: bool, tmp_path: Path) -> None:
    slo = asked(single_choice=single)
    (file := tmp_path / "rules.yaml").write_text(write(parsed(slo), plain=True))
    listed = promtool("check", "rules", "--lint=all", "--lint-fatal", file)
    assert f"{len(rules(slo))} rules found" in listed


def rules(slo: Tree) -> list[Tree]:
    return [rule for group in groups(parsed(slo))["groups"] for rule in group["rules"]]


def expressions() -> str:
    return " ".join(rule["expr"] for rule in rules(asked(single_choice=True)))


def test_every_metric_is_in_the_contract() -> None:
    known = {metric["prometheus"] + end for metric in CONTRACT["metrics"] for end in ("_bucket", "_count")}
    found = set(re.findall(r"\b(?:ai_otel|gen_ai)_\w+(?=\{)", expressions()))
    assert len(found) == 7
    assert found - known == set()


def test_every_label_is_in_the_contract_or_sloths() -> None:
    inside = " ".join(re.findall(r"\{([^}]*)\}", expressions()))
    found = set(re.findall(r"(\w+)(?==|!~|!=)", re.sub(r'"[^"]*"', '""', inside)))
    attributes = {re.sub(r"[^a-zA-Z0-9]+", "_", key) for key in (*CONTRACT["attributes"], *CONTRACT["resource"])}
    assert found - attributes - {"le", "__name__", "sloth_id", "sloth_service", "sloth_slo"} == set()


def test_service_is_alive_by_its_own_series_and_not_by_its_gpus() -> None:
    (pattern,) = set(re.findall(r'__name__=~"([^"]+)"', expressions()))
    alive = {each["name"]: each["subject"] for each in CONTRACT["metrics"] if re.fullmatch(pattern, each["prometheus"])}
    assert {"ai_otel.request.running", "ai_otel.record.open", "gen_ai.server.request.duration"} <= set(alive)
    assert "hardware" not in alive.values()


# ---------------------------------------------------------------- values by hand

MINUTES = 260
# 98 valid calls a minute: 90 well, 5 turned away, 3 failed. Of the 90, 80 have a known first token, 76 of them in time.
# 60 answers have a time per token, 51 of them in time. And 50 calls that are not the server's failure.
MIXED = [
    calls(f"0+90x{MINUTES}"),
    calls(f"0+5x{MINUTES}", "queue_full"),
    calls(f"0+3x{MINUTES}", "503"),
    calls(f"0+20x{MINUTES}", "cancelled"),
    calls(f"0+29x{MINUTES}", "404"),
    calls(f"0+1x{MINUTES}", "499"),
    *histogram(FIRST, "1.0", 80, 76, MINUTES),
    *histogram(TOKEN, "0.1", 60, 51, MINUTES),
    *histogram(GAP, "0.5", 1000, 995, MINUTES),
]
BAD = {"first_token": "4/80", "output_token": "9/60", "token_interval": "5/1000", "errors": "8/98"}
BUDGET = {"first_token": "0.01", "output_token": "0.01", "token_interval": "0.01", "errors": "0.001", "goodput": "0.05"}
# The slow answers are of 9 of the 76 at most; of the 10 without a known first token it is unknown.
LOWER, UPPER, UPPER_OF_SINGLE = "67/98", "(76+10)/98", "(80-9+10)/98"


@pytest.mark.requires(part="prometheus")
@pytest.mark.parametrize(("single", "upper"), [(False, UPPER), (True, UPPER_OF_SINGLE)])
def test_each_recorded_value_is_the_one_had_by_hand(single: bool, upper: str, tmp_path: Path) -> None:
    at = "4h"
    bad = {**BAD, "goodput": f"1-{upper}"}
    checks = [
        holds(f"slo:sli_error:ratio_rate{w}", bad[name], at, name) for w in (*WINDOWS, "30d") for name in OBJECTIVES
    ]
    for window in WINDOWS:
        checks += [holds(f"slo:goodput:ratio_lower_rate{window}", LOWER, at)]
        checks += [holds(f"slo:goodput:ratio_upper_rate{window}", upper, at)]
    for name, events in {
        "first_token": 80,
        "output_token": 60,
        "token_interval": 1000,
        "errors": 98,
        "goodput": 98,
    }.items():
        burn = f"({bad[name]}) / {BUDGET[name]}"
        checks += [
            holds("slo:sli_events:rate5m", f"{events} / 60", at, name),
            holds("slo:sli_error_events:rate5m", f"{events} / 60 * ({bad[name]})", at, name),
            holds("slo:objective:ratio", f"1 - {BUDGET[name]}", at, name),
            holds("slo:error_budget:ratio", BUDGET[name], at, name),
            holds("slo:time_period:days", "30", at, name),
            holds("slo:current_burn_rate:ratio", burn, at, name),
            holds("slo:period_burn_rate:ratio", burn, at, name),
            holds("slo:period_error_budget_remaining:ratio", f"1 - {burn}", at, name),
            holds("sloth_slo_info", "1", at, name),
        ]
    prove(tmp_path, asked(single_choice=single), {"input_series": MIXED, "promql_expr_test": checks})
    checked = {re.split(r"[ {]", check["expr"].removeprefix("count(abs("))[0] for check in checks}
    assert checked == {rule["record"] for rule in rules(SLO) if "record" in rule}


@pytest.mark.requires(part="prometheus")
def test_each_window_sees_its_own_time(tmp_path: Path) -> None:
    """Ten failures a minute for the last ten minutes, beside 100 good calls a minute."""
    given = [calls("0+100x400"), calls("1000x350 1010+10x9", "500")]
    # A window holds one sample a minute, and so one rise less.
    expected = {"5m": "40/440", "30m": "100/3000", "1h": "100/6000", "2h": "100/12000"}
    checks = [holds(f"slo:sli_error:ratio_rate{w}", value, "360m", "errors") for w, value in expected.items()]
    prove(tmp_path, only("errors"), {"input_series": given, "promql_expr_test": checks})


@pytest.mark.requires(part="prometheus")
def test_over_the_period_a_quiet_night_does_not_weigh_as_a_busy_day(tmp_path: Path) -> None:
    """Three hours of 10 good calls a minute, then one of 100 of which half fail: 3000 of 7800, not 1/8."""
    given = [calls("0+10x180 1850+50x60"), calls("1000x180 1050+50x60", "500")]
    near = 'count(abs(slo:sli_error:ratio_rate30d{sloth_slo="errors"} - 3000/7800) < 0.01)'
    check = {"expr": near, "eval_time": "240m", "exp_samples": [{"labels": "{}", "value": 1}]}
    prove(tmp_path, only("errors"), {"input_series": given, "promql_expr_test": [check]})


@pytest.mark.requires(part="prometheus")
def test_a_histogram_without_the_bound_is_not_taken_for_slow(tmp_path: Path) -> None:
    """An engine's endpoint may have other bounds than ai-otel: its samples give no ratio."""
    other = [f'k8s_pod_name="other", le="{bound}"' for bound in ("0.8", "3.0")]
    given = [
        calls("0+120x30"),
        *histogram(FIRST, "1", 80, 76, 30),
        series(f"{FIRST}_count", "0+40x30", 'k8s_pod_name="other"'),
        *(series(f"{FIRST}_bucket", "0+40x30", labels) for labels in other),
        series(f"{TOKEN}_count", "0+40x30", 'k8s_pod_name="other"'),
    ]
    checks = [
        holds("slo:sli_error:ratio_rate5m", "4/80", "20m", "first_token"),
        holds("slo:goodput:ratio_upper_rate5m", "(76+40)/120", "20m"),
        absent('{__name__=~"slo:sli_error:.+", sloth_slo="output_token"}', "20m"),
        absent('{__name__=~"slo:goodput:ratio_lower_.+"}', "20m"),
    ]
    prove(tmp_path, SLO, {"input_series": given, "promql_expr_test": checks})


# ---------------------------------------------------------------- alerts


@pytest.mark.requires(part="prometheus")
def test_each_objective_fires_at_its_own_burn_rate(tmp_path: Path) -> None:
    """5 and 0.5 times the budget, 15 times, 82 times; goodput surely 2.4 times: each where it must, and else not."""
    slow = [("AiOtelSloBurnsSlowly", name) for name in ("first_token", "output_token", "errors", "goodput")]
    fast = [("AiOtelSloBurnsFast", name) for name in ("output_token", "errors")]
    prove(tmp_path, SLO, {"input_series": MIXED, "promql_expr_test": [firing("4h", *slow, *fast)]})


@pytest.mark.requires(part="prometheus")
def test_first_token_and_goodput_fire_fast_too_and_gaps_both(tmp_path: Path) -> None:
    """100 calls a minute, of which 80 had no first token in time, 40 % of the gaps too long."""
    given = [calls("0+100x260"), *histogram(FIRST, "1", 100, 20, 260), *histogram(GAP, "0.5", 100, 60, 260)]
    names = ("first_token", "token_interval", "goodput")
    both = [(alert, name) for alert in ("AiOtelSloBurnsFast", "AiOtelSloBurnsSlowly") for name in names]
    prove(tmp_path, SLO, {"input_series": given, "promql_expr_test": [firing("4h", *both)]})


@pytest.mark.requires(part="prometheus")
@pytest.mark.parametrize("single", [False, True])
def test_goodput_fires_only_on_what_is_certain(single: bool, tmp_path: Path) -> None:
    """10 slow answers a minute of 100 calls: of one choice each, they are 10 calls; else perhaps of a single call."""
    given = [calls("0+100x260"), *histogram(FIRST, "1", 100, 100, 260), *histogram(TOKEN, "0.1", 100, 90, 260)]
    alerts = [("AiOtelSloBurnsFast", "output_token"), ("AiOtelSloBurnsSlowly", "output_token")]
    certain = [("AiOtelSloBurnsSlowly", "goodput")] if single else []
    checks = [holds("slo:goodput:ratio_lower_rate5m", "0.9", "4h"), firing("4h", *alerts, *certain)]
    prove(tmp_path, asked(single_choice=single), {"input_series": given, "promql_expr_test": checks})


# Failures beside 1000 good calls a minute over seven hours → which alert fires, and the short window of its pair.
# An hour of 2 % is 0.33 % of six hours and 0.28 % of all; the budget is 0.1 %.
BURNS = [
    ("1000x360 1020+20x60", {"AiOtelSloBurnsFast": "5m", "AiOtelSloBurnsSlowly": "6h"}),
    ("1000+10x420", {"AiOtelSloBurnsFast": "30m", "AiOtelSloBurnsSlowly": "2h"}),
    ("1000+2x420", {"AiOtelSloBurnsSlowly": "6h"}),
    ("1000+0.9x420", {}),
]


@pytest.mark.requires(part="prometheus")
def test_each_pair_of_windows_fires_at_its_burn_rate(tmp_path: Path) -> None:
    def case(values: str, alerts: dict[str, str]) -> Tree:
        listed = [f'{{alertname="{name}", sloth_window="{window}"}}' for name, window in alerts.items()]
        expression = 'count by (alertname, sloth_window) (ALERTS{alertstate="firing"})'
        check = {
            "expr": expression,
            "eval_time": "420m",
            "exp_samples": [{"labels": each, "value": 1} for each in listed],
        }
        return {"input_series": [calls("0+1000x420"), calls(values, "500")], "promql_expr_test": [check]}

    prove(tmp_path, only("errors"), *(case(*burn) for burn in BURNS))


@pytest.mark.requires(part="prometheus")
def test_a_short_burst_and_an_ended_one_fire_no_alert(tmp_path: Path) -> None:
    """One bad minute is too short for the hour; an hour ago is too long for the five minutes."""
    burst = [calls("0+100x400"), calls("1000x237 1020+20x3", "500")]
    over = [calls("0+100x400"), calls("1000x100 1050+50x29 2500x300", "500")]
    fast = 'ALERTS{alertname="AiOtelSloBurnsFast"}'
    prove(
        tmp_path,
        only("errors"),
        {"input_series": burst, "promql_expr_test": [absent(fast, "240m")]},
        {"input_series": over, "promql_expr_test": [absent(fast, "240m")]},
    )


@pytest.mark.requires(part="prometheus")
def test_an_alert_says_what_is_bad_and_where(tmp_path: Path) -> None:
    labels = {"sloth_id": "chat-errors", "sloth_service": "chat", "sloth_slo": "errors", "sloth_window": "5m"}
    alert = {
        "exp_labels": {"severity": "critical", "sloth_severity": "page", "team": "inference", **labels},
        "exp_annotations": {
            "summary": "chat-errors: the error budget of 99.9 % in 30 days will be spent within days",
            "description": "8.163% of the valid calls failed, and for hours too many were.",
            "runbook": "See error_type of gen_ai_server_request_duration_seconds_count: it says why.",
            "runbook_url": "https://runbooks.example.com/chat",
        },
    }
    more = {"alert_labels": {"team": "inference"}, "runbook_url": "https://runbooks.example.com/chat"}
    check = {"eval_time": "4h", "alertname": "AiOtelSloBurnsFast", "exp_alerts": [alert]}
    prove(tmp_path, only("errors", **more), {"input_series": MIXED, "alert_rule_test": [check]})


# ---------------------------------------------------------------- what is absent


@pytest.mark.requires(part="prometheus")
def test_no_telemetry_is_an_alert_and_no_requests_are_none(tmp_path: Path) -> None:
    no_shares = absent('{__name__=~"slo:(sli_error|goodput):.+"}', "40m")
    silent = firing("40m", ("AiOtelSloNoTelemetry", ""))
    still = [calls("500x60"), series(f"{FIRST}_count", "500x60"), series(f"{FIRST}_bucket", "400x60", 'le="1"')]
    idle = series("ai_otel_request_running", "0x60")
    gpu = series("ai_otel_gpu_energy_joules_total", "0+9x60")
    other = {"series": 'ai_otel_request_running{k8s_namespace_name="models", service_name="other"}', "values": "1x60"}
    ended = series("ai_otel_request_running", "1x15 stale")
    restarted = series("ai_otel_request_running", "1x15 stale _x5 1x40")

    def case(given: list[Tree], alert: Tree) -> Tree:
        return {"input_series": given, "promql_expr_test": [alert, no_shares]}

    prove(
        tmp_path,
        SLO,
        *(case(given, silent) for given in ([], [gpu], [other], [ended])),
        *(case(given, firing("40m")) for given in ([idle], still, [restarted])),
    )


@pytest.mark.requires(part="prometheus")
def test_calls_without_a_failure_are_a_share_of_zero(tmp_path: Path) -> None:
    """Also before the first failure, when there is no series with an error.type; cancelled ones alone are no calls."""
    measured = [holds("slo:sli_error:ratio_rate5m", "0", "20m", "errors")]
    nothing = [absent('{__name__=~"slo:sli_error:.+"}', "20m")]
    prove(
        tmp_path,
        SLO,
        {"input_series": [calls("0+7x30")], "promql_expr_test": measured},
        {"input_series": [calls("0+7x30", "cancelled")], "promql_expr_test": nothing},
    )


@pytest.mark.requires(part="prometheus")
def test_what_has_no_samples_has_no_share(tmp_path: Path) -> None:
    """Only failed calls: no first token is late, for there is none; and no good call is certain."""
    checks = [
        absent('{__name__=~"slo:sli_error:.+", sloth_slo=~"first_token|output_token|token_interval"}', "20m"),
        absent('{__name__=~"slo:goodput:ratio_lower.+"}', "20m"),
        holds("slo:sli_error:ratio_rate5m", "1", "20m", "errors"),
        holds("slo:goodput:ratio_upper_rate5m", "0", "20m"),
    ]
    prove(tmp_path, SLO, {"input_series": [calls("0+7x30", "500")], "promql_expr_test": checks})


# ---------------------------------------------------------------- goodput lies between its bounds


@dataclass
class Call:
    """One call of one inference. `met` says what is true of its first token, also where it was not recorded."""

    error: str | None
    met: bool
    recorded: bool
    slow: tuple[bool | None, ...]  # each choice; None: of one token, so it has no time per token

    @property
    def good(self) -> bool:
        return self.error is None and self.met and not any(self.slow)


def some_call(chance: random.Random, most: int, known: float) -> Call:
    error = chance.choice([None, None, None, None, "500", "queue_full", "cancelled", "404"])
    slow = tuple(chance.choice([None, True, False, False]) for _ in range(chance.randint(1, most)))
    return Call(error, chance.random() < 0.7, chance.random() < known, slow)


def series_of(population: list[Call]) -> list[Tree]:
    """What the histograms say of as many such calls each minute: a series that counted nothing is not there."""
    errors = [call.error for call in population]
    given = [calls(f"0+{errors.count(error)}x7", error) for error in dict.fromkeys(errors)]
    seen = [call for call in population if call.error is None and call.recorded]
    if seen:
        given += histogram(FIRST, "1", len(seen), sum(call.met for call in seen), 7)
    slow = [each for call in seen for each in call.slow if each is not None]
    if slow:
        given += histogram(TOKEN, "0.1", len(slow), slow.count(False), 7)
    return given


@pytest.mark.requires(part="prometheus")
@pytest.mark.parametrize(("single", "most"), [(True, 1), (False, 3)])
def test_true_goodput_is_never_outside_its_bounds(single: bool, most: int, tmp_path: Path) -> None:
    """Random small populations, evaluated by Prometheus itself; each call's truth is known here only."""
    chance = random.Random(f"goodput of {most}")
    tests: list[Tree] = []
    for number in range(50):
        known = 1.0 if number % 2 else 0.8
        population = [some_call(chance, most, known) for _ in range(chance.randint(1, 12))]
        valid = [call for call in population if call.error not in ("cancelled", "404")]
        if not valid:
            continue
        truth = f"{sum(call.good for call in valid)}/{len(valid)}"
        outside = f"slo:goodput:ratio_lower_rate5m > {truth} + 1e-9 or slo:goodput:ratio_upper_rate5m < {truth} - 1e-9"
        there = {"expr": "count(slo:goodput:ratio_upper_rate5m)", "eval_time": "6m"}
        checks = [absent(outside, "6m"), {**there, "exp_samples": [{"labels": "{}", "value": 1}]}]
        tests.append({"input_series": series_of(population), "promql_expr_test": checks})
    assert len(tests) > 40
    slo = only("first_token", "output_token")
    slo["objectives"]["goodput"] = {"objective": 95, "single_choice": single}
    prove(tmp_path, slo, *tests)
