"""The feature `names` on the real Collector: what others call an attribute becomes what the conventions call it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ai_otel.contract import load
from harness.collector.process import Tree, composed, exports, running, validate
from harness.polling import eventually
from harness.telemetry.dialects import DIALECTS, OLDER, OPENLLMETRY, OVERRULED, PRESENT, UNTOUCHED
from harness.telemetry.otlp_json import attributes, plain_attributes, send, span

pytestmark = pytest.mark.requires(part="collector")

SCHEMA = Path(__file__).parents[2] / "src" / "ai_otel" / "schema"


def tree(role: str = "gateway_stateful") -> Tree:
    return composed(role=role, features=("names", "local"), without=("persistence",), backends=("file",))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree]:
    """What the attributes of each span had become, by its name, and of an event and a log with the older names."""
    directory = tmp_path_factory.mktemp("names")
    sent = {name: before for name, (before, _) in DIALECTS.items()} | dict(UNTOUCHED)
    sent["present"] = {**PRESENT, **OVERRULED}
    spans = [span(values, name=name) for name, values in sent.items()]
    spans.append(span({}, name="with an event", events=[{"name": "e", "attributes": attributes(OLDER)}]))
    log = {"timeUnixNano": "1", "body": {"stringValue": "x"}, "attributes": attributes(OPENLLMETRY)}
    out = directory / "out.jsonl"
    with running(tree(), directory) as collector:
        port = collector.ports["http"]
        send(port, "traces", {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]})
        send(port, "logs", {"resourceLogs": [{"scopeLogs": [{"logRecords": [log]}]}]})
        eventually(lambda: len(exports(out)) == 2, 20, lambda: collector.output()[-4000:])
    found: dict[str, Tree] = {}
    for export in exports(out):
        for each in export.get("resourceSpans", [{}])[0].get("scopeSpans", [{}])[0].get("spans", []):
            holder = each["events"][0] if each["name"] == "with an event" else each
            found[each["name"]] = plain_attributes(holder)
        for each in export.get("resourceLogs", [{}])[0].get("scopeLogs", [{}])[0].get("logRecords", []):
            found["a log"] = plain_attributes(each)
    return found


@pytest.mark.parametrize("name", DIALECTS)
def test_a_span_of_a_dialect_gets_the_current_names_only(name: str, outcome: dict[str, Tree]) -> None:
    _, expected = DIALECTS[name]
    assert typed(outcome[name]) == typed(expected)


@pytest.mark.parametrize("name", UNTOUCHED)
def test_what_has_no_current_name_stays_as_it_is(name: str, outcome: dict[str, Tree]) -> None:
    assert typed(outcome[name]) == typed(UNTOUCHED[name])


def test_a_name_that_is_there_is_not_overwritten(outcome: dict[str, Tree]) -> None:
    assert typed(outcome["present"]) == typed(PRESENT)


def test_events_and_logs_have_the_current_names_too(outcome: dict[str, Tree]) -> None:
    assert typed(outcome["with an event"]) == typed(DIALECTS["older names"][1])
    assert typed(outcome["a log"]) == typed(DIALECTS["OpenLLMetry 0.4"][1])


def test_every_current_name_is_one_of_the_pinned_conventions() -> None:
    pinned = yaml.safe_load((SCHEMA / "upstream" / "gen-ai-newest.yaml").read_text())["attributes"]
    known = {*pinned, *load().attributes}
    groups = yaml.safe_load((SCHEMA / "dialects.yaml").read_text())["groups"]
    rows = [row for group in groups for row in group.get("attributes", [])]
    targets = {target for row in rows for target in ([row["to"]] if "to" in row else row["json"].values())}
    renames = yaml.safe_load((SCHEMA / "renames.yaml").read_text())["groups"][1]["attributes"]
    targets |= {target for row in renames for target in row["to"]}
    assert not targets - known
    old = {row["from"] for row in rows} | {row["from"] for row in renames}
    # Renamed by the conventions since, but still in the pinned list.
    assert old & known <= {"gen_ai.workflow.name"}


@pytest.mark.parametrize("role", ["sidecar", "agent", "gateway", "gateway_stateful"])
def test_the_collector_accepts_names_in_every_role_that_takes_otlp(role: str) -> None:
    assert not validate(composed(role=role, features=("names", "redaction")))


def typed(values: Mapping[str, Any]) -> dict[str, str]:
    """With their types: 1 is not 1.0 and not true."""
    return {key: repr(value) for key, value in values.items()}
