"""GPU-hours, energy and cost by namespace: values worked by hand, and nothing where nothing is known."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from harness.kubernetes.charts import CHART, Tree
from harness.telemetry.prometheus import promtool

RULE = CHART.parent / "cost/prometheusrule.yaml"
SPEC: Tree = yaml.safe_load(RULE.read_text())["spec"]
CONTRACT: Tree = json.loads((CHART.parents[2] / "src/ai_otel/schema/contract.json").read_text())


def held(namespace: str, pod: str, device: str, sharing: str = "exclusive", more: str = "") -> str:
    text = f'k8s_namespace_name="{namespace}", k8s_pod_name="{pod}", k8s_container_name="server"'
    return f'ai_otel_gpu_allocation{{{text}, hw_id="{device}", ai_otel_gpu_sharing="{sharing}"{more}}}'


ALWAYS = "1x120"
MIG = ', ai_otel_gpu_instance_id="1", ai_otel_gpu_instance_profile="1g.10gb"'
SERIES = [
    {"series": held("chat", "a", "gpu-0"), "values": ALWAYS},
    # The same, reported by the agent before and after its restart.
    {"series": held("chat", "a", "gpu-0", more=', service_instance_id="2"'), "values": ALWAYS},
    # The same PCI address on two nodes: two devices.
    {"series": held("chat", "b", "0000:1b:00.0"), "values": ALWAYS},
    {"series": held("chat", "c", "0000:1b:00.0"), "values": ALWAYS},
    # Half an hour, from minute 91 to 120 of 120.
    {"series": held("search", "d", "gpu-3"), "values": "_x91 1x29"},
    # One device that two namespaces share: of neither.
    {"series": held("chat", "e", "gpu-4", "time_slicing"), "values": ALWAYS},
    {"series": held("lab", "f", "gpu-4", "time_slicing"), "values": ALWAYS},
    {"series": held("lab", "g", "gpu-5", "mig", MIG), "values": ALWAYS},
    # 6000 J a minute is 100 W; 60 J is 1 W. Of a namespace that is no label nothing is said.
    {
        "series": 'ai_otel_gpu_energy_joules_total{k8s_namespace_name="chat", hw_id="0"}',
        "values": "0+6000x120",
    },
    {
        "series": 'ai_otel_gpu_energy_joules_total{k8s_namespace_name="chat", hw_id="1"}',
        "values": "0+60x120",
    },
    {"series": 'ai_otel_gpu_energy_joules_total{hw_id="9"}', "values": "0+60x120"},
]
PRICE = {"series": "ai_otel:price_per_gpu_hour", "values": "2.5x120"}
#: At minute 120, by hand. Three GPUs for 60 minutes: 3 GPU-hours, 7.50. One for 30 minutes: 0.5 GPU-hours, 1.25.
EXPECTED = {
    "ai_otel:gpus_held:sum": {("chat",): 3, ("search",): 1},
    "ai_otel:gpu_instances_held:sum": {("lab", "1g.10gb"): 1},
    "ai_otel:gpu_hours:sum1h": {("chat",): 3, ("search",): 0.5},
    "ai_otel:gpu_energy_joules:increase1h": {("chat",): 60 * 6060},
}
COST = {"ai_otel:gpu_cost:sum1h": {("chat",): 7.5, ("search",): 1.25}}
NO_COST: dict[str, Tree] = {"ai_otel:gpu_cost:sum1h": {}}
LABELS = ("k8s_namespace_name", "ai_otel_gpu_instance_profile")


def expectation(name: str, values: Tree) -> Tree:
    samples = []
    for key, value in values.items():
        labels = ", ".join(f'{label}="{each}"' for label, each in zip(LABELS, key, strict=False))
        samples.append({"labels": f"{name}{{{labels}}}", "value": value})
    return {"expr": name, "eval_time": "120m", "exp_samples": samples}


@pytest.mark.requires(part="prometheus")
@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ([*SERIES, PRICE], EXPECTED | COST),
        (SERIES, EXPECTED | NO_COST),
        ([PRICE], {name: {} for name in EXPECTED | COST}),
    ],
    ids=["priced", "without a price nothing costs", "without a GPU nothing is said"],
)
def test_values_by_hand(series: list[Tree], expected: Tree, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(SPEC))
    asked = [expectation(name, values) for name, values in expected.items()]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": asked}
    text = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(text))
    promtool("test", "rules", tmp_path / "test.yaml")


@pytest.mark.requires(part="prometheus")
def test_prometheus_takes_every_rule(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(SPEC))
    text = promtool("check", "rules", "--lint=all", "--lint-fatal", tmp_path / "rules.yaml")
    assert f"{len(SPEC['groups'][0]['rules'])} rules found" in text


def test_metrics_and_labels_are_in_the_contract() -> None:
    expressions = " ".join(rule["expr"] for rule in SPEC["groups"][0]["rules"])
    names = set(re.findall(r"\b(?:ai_otel|hw|k8s)_\w+\b(?!:)", expressions))
    metrics = {metric["prometheus"] for metric in CONTRACT["metrics"]}
    attributes = {re.sub(r"[^a-zA-Z0-9]+", "_", key) for key in (*CONTRACT["attributes"], *CONTRACT["resource"])}
    assert {"ai_otel_gpu_allocation", "ai_otel_gpu_energy_joules_total"} <= names
    assert names - metrics - attributes == set()
