"""The alerts fire when they should and not else, and query only metrics that exist."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from ai_otel.collector.compose import Selection, compose
from harness.collector.process import Collector, running
from harness.kubernetes.charts import BACKEND, CHART, Tree, merged, one, rendered
from harness.polling import wait_until
from harness.telemetry.prometheus import promtool

ALERTS = CHART / "files/alerts.yaml"
RULES: list[Tree] = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
TESTS: Tree = yaml.safe_load(Path(__file__).with_name("alerts_test.yaml").read_text())
CONTRACT: Tree = json.loads((CHART.parents[2] / "src/ai_otel/schema/contract.json").read_text())


@pytest.mark.requires(part="prometheus")
def test_prometheus_takes_every_rule() -> None:
    said = promtool("check", "rules", "--lint=all", "--lint-fatal", ALERTS)
    assert f"{len(RULES)} rules found" in said


@pytest.mark.requires(part="prometheus")
def test_every_alert_fires_where_it_must_and_only_there(tmp_path: Path) -> None:
    shutil.copy(ALERTS, tmp_path)
    shutil.copy(Path(__file__).with_name("alerts_test.yaml"), tmp_path)
    promtool("test", "rules", tmp_path / "alerts_test.yaml")


def test_no_alert_is_without_a_test() -> None:
    tested = {each["alertname"] for test in TESTS["tests"] for each in test["alert_rule_test"]}
    assert tested == {rule["alert"] for rule in RULES}


# ---------------------------------------------------------------- names


def series() -> set[str]:
    """Every series that an alert asks for."""
    expressions = " ".join(rule["expr"] for rule in RULES)
    return set(re.findall(r"\b(?:otelcol|ai_otel|gen_ai|hw)_\w+(?=[{\[\s)])", expressions)) - labels()


def labels() -> set[str]:
    """Names inside `by (…)` and `{…}`."""
    expressions = " ".join(rule["expr"] for rule in RULES)
    inside = re.findall(r"by \(([^)]*)\)|\{([^}]*)\}", expressions)
    return {name for pair in inside for text in pair for name in re.findall(r"[a-z]\w+(?=\s*(?:[,=!]|$))", text)}


def test_our_metrics_and_their_labels_are_in_the_contract() -> None:
    known = {metric["prometheus"] + end for metric in CONTRACT["metrics"] for end in ("", "_bucket", "_count")}
    assert {name for name in series() if not name.startswith("otelcol_")} - known == set()
    attributes = {re.sub(r"[^a-zA-Z0-9]+", "_", key) for key in (*CONTRACT["attributes"], *CONTRACT["resource"])}
    collectors = {"namespace", "pod", "exporter", "receiver", "le"}
    assert labels() - attributes - collectors == set()


class Refusing(http.server.BaseHTTPRequestHandler):
    """A backend that refuses for good, so that what is sent to it is lost."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(400)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def refusing() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


SPAN = {"traceId": "0" * 31 + "1", "spanId": "0" * 15 + "1", "name": "x", "kind": 2}
POINT = {"asInt": "1", "timeUnixNano": "2"}
SENT: dict[str, Tree] = {
    "traces": {
        "resourceSpans": [{"scopeSpans": [{"spans": [{**SPAN, "startTimeUnixNano": "1", "endTimeUnixNano": "2"}]}]}]
    },
    "metrics": {
        "resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "x", "gauge": {"dataPoints": [POINT]}}]}]}]
    },
    "logs": {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "x"}}]}]}]},
}


def send(collector: Collector) -> None:
    for signal, body in SENT.items():
        request = urllib.request.Request(
            f"http://127.0.0.1:{collector.ports['http']}/v1/{signal}", json.dumps(body).encode()
        )
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request, timeout=10).close()


@pytest.mark.requires(part="collector")
def test_the_collector_emits_what_alerts_about_it_ask_for(tmp_path: Path) -> None:
    """By these names: those of other releases, with _total, would never fire."""
    wanted = {name for name in series() if name.startswith("otelcol_")}
    assert len(wanted) == 9
    tree = compose(Selection("gateway_stateful", features=("local", "tail_sampling"), backends=("otlp_http",))).tree
    variables = {
        "AI_OTEL_DECISION_WAIT": "1s",
        "AI_OTEL_DECISION_WAIT_AFTER_ROOT": "1s",
        "AI_OTEL_BASELINE_PERCENT": "100",
    }
    with refusing() as url, running(tree, tmp_path, {"AI_OTEL_BACKEND_URL": url, **variables}) as collector:
        send(collector)

        def missing() -> set[str]:
            return wanted - set(re.findall(r"^(\w+)(?=[{ ])", collector.own_metrics(), flags=re.MULTILINE))

        wait_until(lambda: not missing(), 30)
        assert missing() == set()


# ---------------------------------------------------------------- in the chart


@pytest.mark.requires(part="kubernetes")
def test_an_alert_can_be_left_out_and_labels_added() -> None:
    rule = {"enabled": True, "without": ["AiOtelGpuErrors"], "alertLabels": {"team": "inference"}}
    objects = rendered(merged(BACKEND, {"monitoring": {"prometheusRule": rule}}))
    groups = one(objects, "PrometheusRule", "ai-otel-alerts")["spec"]["groups"]
    found = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    kept = {rule["alert"]: rule for rule in RULES if rule["alert"] != "AiOtelGpuErrors"}
    assert found == {name: {**rule, "labels": {**rule["labels"], "team": "inference"}} for name, rule in kept.items()}
