"""The chart by itself: what it refuses and says then, what its examples render to, and that upgrades are clean."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ai_otel.collector import fragments as parts
from harness.collector.golden import WRITE
from harness.kubernetes.charts import (
    BACKEND,
    CHART,
    EXAMPLES,
    NAMESPACE,
    WORKLOADS,
    Refused,
    Tree,
    merged,
    of_kind,
    one,
    parsed,
    rendered,
    run,
    sentence,
    template,
)

pytestmark = pytest.mark.requires(part="kubernetes")

SCHEMA: Tree = json.loads((CHART / "values.schema.json").read_text())
VALUES: Tree = yaml.safe_load((CHART / "values.yaml").read_text())
RELEASED = sorted((CHART / "ci").glob("*-values.yaml"))


def test_lint_finds_nothing_but_the_missing_icon() -> None:
    said = run("helm", "lint", "--strict", CHART, "--set", "backends.otlp.endpoint=a.example.com:4317")
    remarks = [line for line in said.splitlines() if line.startswith("[")]
    assert remarks == ["[INFO] Chart.yaml: icon is recommended"]


# ---------------------------------------------------------------- what is refused

REFUSALS: list[Tree] = yaml.safe_load(Path(__file__).with_name("refusals.yaml").read_text())


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal["what"])
def test_what_cannot_work_is_refused_with_what_to_write(refusal: Tree) -> None:
    with pytest.raises(Refused) as error:
        template(merged(BACKEND, refusal["values"]))
    assert sentence(error.value).startswith(refusal["said"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"agents": {}}, "value must be one of 'global', 'nameOverride', 'fullnameOverride', "),
        ({"agent": {"featurs": []}}, "value must be one of 'enabled', 'engines', 'features', "),
        ({"agent": {"engines": ["vlm"]}}, "at '/agent/engines/0': value must be one of 'amd_device_metrics', "),
        ({"agent": {"engines": "vllm"}}, "at '/agent/engines': got string, want array"),
        ({"tls": {"mode": False}}, "at '/tls/mode': value must be one of 'tls', 'mtls', 'off'"),
        ({"gateway": {"replicas": 0}}, "at '/gateway/replicas': minimum: got 0, want 1"),
        ({"image": {"digest": "1234"}}, "at '/image/digest': '1234' does not match pattern '^(sha256:"),
        ({"backends": {"jaeger": {}}}, "value must be one of 'debug', 'file', 'kafka', 'otlp', "),
    ],
)
def test_unknown_key_or_value_is_refused_with_the_known_ones(values: Tree, said: str) -> None:
    with pytest.raises(Refused) as error:
        template(merged(BACKEND, values))
    assert said in str(error.value)


# ---------------------------------------------------------------- the schema

# Objects whose keys the chart does not name.
OPEN = {"global", "affinity", "annotations", "commonLabels", "config", "labels", "alertLabels", "limits"}
OPEN |= {"nodeSelector", "podAnnotations", "podLabels", "requests", "serviceAccountAnnotations", "settings"}


def nodes(node: Tree, path: str = "") -> Iterator[tuple[str, Tree]]:
    """Every key of the schema, with where it is."""
    for key, below in node.get("properties", {}).items():
        where = f"{path}.{key}" if path else key
        yield where, below
        yield from nodes(below, where)


def test_every_key_is_described_and_every_object_closed() -> None:
    undescribed = [where for where, node in nodes(SCHEMA) if not node.get("description")]
    assert undescribed == []
    open_ones = {
        where.rpartition(".")[2]
        for where, node in nodes(SCHEMA)
        if "object" in node.get("type", ()) and node.get("additionalProperties") is not False
    }
    assert open_ones - OPEN == set()


def test_the_schema_and_the_values_have_the_same_keys() -> None:
    def keys(values: Any, path: str = "") -> Iterator[str]:
        for key, value in values.items() if isinstance(values, dict) else ():
            where = f"{path}.{key}" if path else key
            yield where
            if key not in OPEN | {"backends"}:
                yield from keys(value, where)

    described = {where for where, _ in nodes(SCHEMA) if not where.startswith("backends.")}
    optional = {"global"}  # Helm's own
    optional |= {f"{key}.podDisruptionBudget.minAvailable" for key in ("gateway", "gatewayStateful")}
    optional |= {f"{key}.updateStrategy.rollingUpdate.maxSurge" for key in ("agent", "gpuAgent")}
    assert described - optional == set(keys(VALUES))


def test_the_schema_knows_every_part() -> None:
    keys = dict(nodes(SCHEMA))
    assert keys["agent.engines"]["items"]["enum"] == list(parts.names("engines"))
    assert keys["gateway.features"]["items"]["enum"] == list(parts.names("features"))
    assert {*keys["backends"]["properties"], "gateway"} == set(parts.names("backends"))


# ---------------------------------------------------------------- examples and upgrades


def shortened(text: str) -> str:
    """Without what other tests prove: the configurations, which are those of `ai-otel collector render`."""
    return re.sub(
        r"(^  (collector\.yaml|\S+\.json): \|\n)(    .*\n|\s*\n)*", r"  \2: (left out here)\n", text, flags=re.MULTILINE
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_renders_to_what_is_committed(example: Path) -> None:
    """To write them again: AI_OTEL_WRITE_GOLDENS=1 pytest tests/kubernetes/test_chart.py; then read the difference."""
    golden, text = example / "rendered.yaml", shortened(template(example / "values.yaml"))
    text = re.sub(r"(checksum/config: )\S+", r"\1(left out here)", text)
    if os.environ.get(WRITE):
        golden.write_text(text)
    assert golden.read_text() == text


def test_every_example_says_in_its_first_line_what_it_is_for() -> None:
    assert len(EXAMPLES) >= 5
    assert [path.name for path in EXAMPLES if not (path / "values.yaml").read_text().startswith("# ")] == []


def unchangeable(objects: list[Tree]) -> Tree:
    """What Kubernetes does not let an upgrade change."""
    kept: Tree = {}
    for each in of_kind(objects, *WORKLOADS):
        spec, name = each["spec"], f"{each['kind']}/{each['metadata']['name']}"
        kept[name] = {"selector": spec["selector"]}
        if each["kind"] == "StatefulSet":
            kept[name] |= {key: spec[key] for key in ("serviceName", "podManagementPolicy", "volumeClaimTemplates")}
    for each in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        kept[f"{each['kind']}/{each['metadata']['name']}"] = {"roleRef": each["roleRef"]}
    for each in of_kind(objects, "Service"):
        kept[f"Service/{each['metadata']['name']}"] = {"clusterIP": each["spec"].get("clusterIP")}
    return kept


def test_there_is_a_values_file_of_each_release() -> None:
    """When the version moves, copy values.yaml to `ci/<version>-values.yaml` with one backend; the old ones stay."""
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    assert f"{version}-values.yaml" in {path.name for path in RELEASED}


@pytest.mark.parametrize("values", RELEASED, ids=lambda path: path.stem)
def test_upgrade_takes_old_values_and_keeps_immutable_fields(values: Path) -> None:
    golden = values.with_name(values.name.replace("-values", "-unchangeable"))
    kept = unchangeable(rendered(values))
    if os.environ.get(WRITE) and not golden.exists():
        golden.write_text(yaml.safe_dump(kept))
    assert kept == yaml.safe_load(golden.read_text())


def test_a_release_fits_into_the_secret_that_helm_keeps_it_in(tmp_path: Path) -> None:
    """A Secret holds 1 MiB; Helm puts the chart's files and all that was rendered into one, compressed."""
    run("helm", "package", CHART, "--destination", tmp_path)
    (archive,) = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as packed:
        files = [packed.extractfile(member) for member in packed.getmembers() if member.isfile()]
        chart = b"".join(base64.b64encode(file.read()) for file in files if file)
    for example in EXAMPLES:
        release = chart + json.dumps(template(example / "values.yaml")).encode()
        size_bytes = len(base64.b64encode(base64.b64encode(gzip.compress(release, 9))))
        print(f"{example.name}: {size_bytes} bytes")
        assert size_bytes < 700_000


def test_no_config_map_is_larger_than_kubernetes_takes() -> None:
    """1 MiB, with every engine and every feature of an agent."""
    features = [
        name for name in parts.names("features") if name not in ("local", "mtls", "tail_sampling", "span_to_metric")
    ]
    objects = rendered(
        merged(BACKEND, {"agent": {"features": features}, "sidecar": {"enabled": True, "features": features}})
    )
    sizes = {each["metadata"]["name"]: sum(map(len, each["data"].values())) for each in of_kind(objects, "ConfigMap")}
    print(sizes)
    assert max(sizes.values()) < 1_000_000


def test_older_clusters_get_what_they_understand() -> None:
    """The sleep of a preStop hook came with 1.30."""
    old, new = (
        one(parsed(template(BACKEND, kube=kube)), "Deployment", "ai-otel-gateway") for kube in ("1.29.0", "1.30.0")
    )
    (before,), (after,) = (each["spec"]["template"]["spec"]["containers"] for each in (old, new))
    assert "lifecycle" not in before
    assert after["lifecycle"] == {"preStop": {"sleep": {"seconds": 15}}}
    with pytest.raises(Refused, match="incompatible with Kubernetes"):
        template(BACKEND, kube="1.28.0")


def test_the_notes_say_the_next_step() -> None:
    said = run(
        "helm", "install", "ai-otel", CHART, "--dry-run=client", "--namespace", NAMESPACE,
        "--set", "backends.otlp.endpoint=a.example.com:4317",
    )  # fmt: skip
    notes = said.partition("NOTES:")[2]
    for step in ("create secret generic ai-otel-token", "ai-otel.io/engine: vllm", "logs daemonset/ai-otel-agent"):
        assert step in notes
