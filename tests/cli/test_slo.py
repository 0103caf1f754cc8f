"""`ai-otel slo`, as a person types it, and what it says of a file that asks for what cannot be measured."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ai_otel.cli import main
from ai_otel.cli.slo import template
from ai_otel.slo.objective import SloError, bounds, parsed
from ai_otel.slo.rules import groups, remarks

Tree = dict[str, Any]
SLO: Tree = yaml.safe_load(template().read_text())


def changed(path: str, value: Any) -> Tree:
    """The template with another value at a dotted path."""
    tree = copy.deepcopy(SLO)
    *above, last = path.split(".")
    place = tree
    for key in above:
        place = place[key]
    place[last] = value
    return tree


def test_render_prints_a_prometheusrule(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slo", "render"]) == 0
    tree = yaml.safe_load(capsys.readouterr().out)
    assert (tree["kind"], tree["metadata"]["name"]) == ("PrometheusRule", "chat-slo")


def test_plain_is_what_the_prometheusrule_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["slo", "render"])
    spec = yaml.safe_load(capsys.readouterr().out)["spec"]
    assert main(["slo", "render", "--plain", "--out", str(tmp_path / "rules.yaml")]) == 0
    assert capsys.readouterr().out == ""
    assert yaml.safe_load((tmp_path / "rules.yaml").read_text()) == spec


def test_the_template_renders_as_it_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slo", "template"]) == 0
    (file := tmp_path / "slo.yaml").write_text(capsys.readouterr().out)
    assert main(["slo", "render", str(file)]) == 0
    printed = capsys.readouterr().out
    main(["slo", "render"])
    assert printed == capsys.readouterr().out


def test_what_cannot_be_read_is_reported_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slo", "render", str(tmp_path / "none.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err
    (file := tmp_path / "slo.yaml").write_text("name: [")
    assert main(["slo", "render", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"ai-otel slo: {file}: ")
    file.write_text("- one\n")
    assert main(["slo", "render", str(file), "--out", str(tmp_path / "rules.yaml")]) == 2
    assert "the file is no mapping" in capsys.readouterr().err
    assert not (tmp_path / "rules.yaml").exists()


REFUSED = [
    ("windows", "7d", "the file has no key windows; known are name, selector, window, objectives, labels"),
    (
        "objectives.latency",
        {},
        "objectives has no key latency; known are first_token, output_token, token_interval",
    ),
    ("objectives.errors.threshold", "1s", "objectives.errors has no key threshold; known are objective"),
    ("objectives.first_token", {"objective": 9}, "first_token has no threshold; it needs threshold and objective"),
    ("objectives.first_token", 99, "objectives.first_token is no mapping"),
    ("objectives", {}, "objectives is missing; needed are name, selector, objectives"),
    ("selector", {}, "selector is missing"),
    ("name", "Chat!", "name: 'Chat!' is no name"),
    ("window", "7d", "window: '7d' is not between 28d and 92d; 30d is usual"),
    ("window", 30, "window: 30 is not between"),
    ("selector", {"service.name": "chat"}, "'service.name' is no label of Prometheus; there it is called service_name"),
    ("selector", {"error_type": "500"}, "error_type is set by the rules themselves; leave it out"),
    ("selector", {"service_name": 5}, "selector.service_name: 5 is no text; put it in quotes"),
    ("labels", {"release": None}, "labels.release: None is no text"),
    ("alert_labels", {"sloth_slo": "x"}, "alert_labels: sloth_slo is set by the rules"),
    ("runbook_url", 1, "runbook_url: 1 is no text"),
    ("objectives.goodput.single_choice", "yes", "single_choice: 'yes' is neither true nor false"),
    *(
        ("objectives.errors.objective", share, "is no share in percent, above 0 and below 100, such as 99.5")
        for share in (0, 100, -1, 100.1, "99", True, None, float("nan"))
    ),
    *(
        ("objectives.first_token.threshold", threshold, "is no duration; write one such as 250ms or 1s")
        for threshold in (1, 0.5, "1", "1m", "1 s", "-1s", None)
    ),
    (
        "objectives.first_token.threshold",
        "2s",
        "2s is no bucket bound of gen_ai.server.time_to_first_token; the nearest bounds are 1s and 2.5s",
    ),
    ("objectives.output_token.threshold", "60ms", "the nearest bounds are 50ms and 75ms"),
    ("objectives.token_interval.threshold", "3ms", "the nearest bounds are 2.5ms and 5ms"),
    ("objectives.first_token.threshold", "30s", "the nearest bound is 10s"),
    ("objectives.output_token.threshold", "5ms", "the nearest bound is 10ms"),
]


@pytest.mark.parametrize(("path", "value", "sentence"), REFUSED)
def test_what_cannot_be_measured_is_refused_with_what_can(path: str, value: Any, sentence: str) -> None:
    with pytest.raises(SloError) as caught:
        parsed(changed(path, value))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_goodput_needs_both_thresholds() -> None:
    tree = copy.deepcopy(SLO)
    del tree["objectives"]["output_token"]
    with pytest.raises(SloError, match="thresholds of first_token and output_token; add output_token$"):
        parsed(tree)


@pytest.mark.parametrize("name", ["first_token", "output_token", "token_interval"])
def test_every_bound_of_the_histogram_is_taken_in_both_units(name: str) -> None:
    for bound in bounds(name):
        for text in (f"{bound:f}s", f"{bound * 1000:f}ms"):
            assert parsed(changed(f"objectives.{name}.threshold", text)).objectives[name].threshold_s == bound


def test_burn_rate_factors_follow_the_window() -> None:
    """Over 30 days 14.4 times the budget is 2 % of it in an hour; over 60 days 28.8 times."""
    factors_of = {
        "30d": ("14.4", "6", "3", "1"),
        "60d": ("28.8", "12", "6", "2"),
        "28d": ("13.44", "5.6", "2.8", "0.9333"),
    }
    for window, factors in factors_of.items():
        rules = [rule for group in groups(parsed(changed("window", window)))["groups"] for rule in group["rules"]]
        alerts = {(rule["alert"], rule["labels"].get("sloth_slo")): rule["expr"] for rule in rules if "alert" in rule}
        both = alerts["AiOtelSloBurnsFast", "errors"] + alerts["AiOtelSloBurnsSlowly", "errors"]
        assert re.findall(r"> \((\S+) \* 0\.001\)", both) == [factor for factor in factors for _ in range(2)]
        assert f"slo:sli_error:ratio_rate{window}" in {rule.get("record") for rule in rules}


def test_an_alert_that_can_never_fire_is_reported() -> None:
    assert list(remarks(parsed(SLO))) == []
    (remark,) = remarks(parsed(changed("objectives.errors.objective", 90)))
    assert remark == (
        "errors: the alert on 5m and 1h cannot fire, for 14.4 times a budget of 10 % is more than everything"
    )
