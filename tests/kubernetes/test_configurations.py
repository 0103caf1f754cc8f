"""What the chart makes of parts is what `ai-otel collector render` makes of them."""

from __future__ import annotations

import copy
import functools
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ai_otel.collector import fragments
from ai_otel.collector.compose import LEAVES, Selection, compose
from ai_otel.collector.fragments import FragmentError
from harness.collector.process import validate
from harness.kubernetes.charts import (
    BACKEND,
    CHART,
    Refused,
    Tree,
    configuration,
    merged,
    of_kind,
    one,
    parsed,
    rendered,
    template,
)

pytestmark = pytest.mark.requires(part="kubernetes")

PAGES = ("sidecar", "agent")


def choices(role: str) -> Iterator[Selection]:
    """Nothing, each part alone, every pair of features, and every feature with every backend."""
    engines = ("vllm",) if role in PAGES else ()
    features, backends = fragments.names("features"), [*fragments.names("backends"), "otlp:traces", "otlp:metrics,logs"]
    yield Selection(role)
    yield Selection(role, engines, features)
    yield from (Selection(role, (engine,)) for engine in fragments.names("engines"))
    yield from (Selection(role, engines, (feature,)) for feature in features)
    yield from (Selection(role, engines, pair) for pair in itertools.combinations(features, 2))
    yield from (Selection(role, engines, backends=(backend,)) for backend in backends)
    yield from (
        Selection(role, engines, (feature,), backends=(backend,)) for feature in features for backend in backends
    )
    yield from (Selection(role, engines, backends=pair) for pair in itertools.combinations(backends, 2))
    yield from (Selection(role, engines, without=(name,)) for name in fragments.DEFAULT_FEATURES)
    if role in PAGES:
        yield from (Selection(role, pair) for pair in itertools.pairwise(fragments.names("engines")))


@pytest.fixture(autouse=True, scope="module")
def read_once() -> Iterator[None]:
    """Each part is read once instead of once in every selection: hundreds of them, in Python."""
    read = functools.cache(fragments.load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fragments, "load", lambda kind, name: copy.deepcopy(read(kind, name)))
        yield


def composed(selection: Selection) -> Tree | None:
    """What Python makes of it; nothing where it refuses."""
    try:
        return compose(selection).tree
    except FragmentError:
        return None


@pytest.fixture(scope="module")
def joiner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chart of the same parts and the same joining templates that prints many configurations at once."""
    chart = tmp_path_factory.mktemp("joiner")
    shutil.copytree(CHART / "files", chart / "files")
    (chart / "templates").mkdir()
    for name in ("_merge.tpl", "_compose.tpl"):
        shutil.copy(CHART / "templates" / name, chart / "templates")
    (chart / "Chart.yaml").write_text("{apiVersion: v2, name: joiner, version: 0.0.0}")
    (chart / "templates/all.yaml").write_text(
        "{{- range $at, $selection := .Values.choices }}\n---\n"
        '{{ include "ai-otel.compose" (set (set $selection "root" $) "who" "selection") }}\n'
        "{{- end }}\n"
    )
    return chart


def as_values(selection: Selection) -> Tree:
    return {
        "role": selection.role,
        "engines": list(selection.engines),
        "features": list(selection.features),
        "without": list(selection.without),
        "backends": list(selection.all_backends),
    }


@pytest.mark.parametrize("role", fragments.ROLES)
def test_the_templates_join_parts_as_python_does(role: str, joiner: Path) -> None:
    made = [(selection, tree) for selection in choices(role) if (tree := composed(selection)) is not None]
    joined = parsed(template({"choices": [as_values(selection) for selection, _ in made]}, chart=joiner))
    print(f"{role}: {len(made)} configurations")
    assert len(made) > 30
    different = [
        selection.command
        for (selection, tree), from_template in zip(made, joined, strict=True)
        if tree != from_template
    ]
    assert different == []


@pytest.mark.parametrize("role", fragments.ROLES)
def test_what_python_refuses_the_templates_refuse(role: str, joiner: Path) -> None:
    """Every single part; the sentence names it."""
    single = [Selection(role, ("vllm",)), *(Selection(role, (), (feature,)) for feature in fragments.names("features"))]
    single += [Selection(role, backends=(backend,)) for backend in (*fragments.names("backends"), "prometheus:traces")]
    refused = [selection for selection in single if composed(selection) is None]
    assert refused
    for selection in refused:
        with pytest.raises(Refused) as error:
            template({"choices": [as_values(selection)]}, chart=joiner)
        (part,) = (*selection.features, *selection.backends) or ("engine",)
        assert part.partition(":")[0] in str(error.value), selection.command


# ---------------------------------------------------------------- through values.yaml

KEYS = {"agent": "agent", "cluster": "cluster", "gateway": "gateway", "gateway_stateful": "gatewayStateful"}
NAMES = {**{role: f"ai-otel-{role.replace('_', '-')}" for role in KEYS}, "sidecar": "ai-otel-sidecar-vllm"}
ROOMY = {"persistence": {"size": "900Gi"}}


@pytest.mark.parametrize("mode", ["tls", "mtls", "off"])
def test_the_chart_gives_each_role_what_it_would_be_rendered_as(mode: str) -> None:
    """With features of its own in every role; `tls.mode` is the feature mtls, local, or none."""
    of_mode = {"tls": (), "mtls": ("mtls",), "off": ("local",)}[mode]
    wanted = {
        "agent": Selection("agent", ("vllm", "dcgm"), (*of_mode, "dual_emit", "names")),
        "cluster": Selection("cluster", (), of_mode),
        "gateway": Selection("gateway", (), (*of_mode, "redaction"), without=("persistence",)),
        "gateway_stateful": Selection("gateway_stateful", (), (*of_mode, "tail_sampling", "span_to_metric")),
        "sidecar": Selection("sidecar", ("vllm",), (*of_mode, "tenants")),
    }
    values: Tree = {
        "tls": {"mode": mode},
        "agent": {"engines": ["vllm", "dcgm"], "features": ["dual_emit", "names"]},
        "gateway": {"features": ["redaction"], "without": ["persistence"]},
        "gatewayStateful": {"features": ["tail_sampling", "span_to_metric"]},
        "sidecar": {"enabled": True, "features": ["tenants"]},
    }
    objects = rendered(merged(BACKEND, values))
    for role, selection in wanted.items():
        assert configuration(one(objects, "ConfigMap", NAMES[role])) == compose(selection).tree, role


def test_without_engines_the_agent_understands_all_pages() -> None:
    agent = one(rendered(BACKEND), "ConfigMap", "ai-otel-agent")
    assert configuration(agent) == compose(Selection("agent")).tree


@pytest.mark.parametrize("role", LEAVES)
def test_without_a_gateway_leaves_send_to_the_backends(role: str) -> None:
    off = {"gateway": {"enabled": False}, "gatewayStateful": {"enabled": False}}
    key = {"sidecar": {"enabled": True, **ROOMY}} if role == "sidecar" else {KEYS[role]: ROOMY}
    others = {name: {"enabled": False} for name in ("agent", "cluster") if name != role}
    objects = rendered(merged(BACKEND, off, others, key))
    engines = ("vllm",) if role == "sidecar" else ()
    wanted = compose(Selection(role, engines, backends=("otlp",))).tree
    assert configuration(one(objects, "ConfigMap", NAMES[role])) == wanted


def test_signals_of_a_backend_are_what_follows_its_name() -> None:
    backends: Tree = {"otlp": {"endpoint": "a:1", "signals": ["traces", "logs"]}, "prometheus": {}}
    objects = rendered({"backends": backends})
    wanted = compose(Selection("gateway_stateful", backends=("otlp:traces,logs", "prometheus"))).tree
    assert configuration(one(objects, "ConfigMap", NAMES["gateway_stateful"])) == wanted


def test_a_part_of_ones_own_is_joined_by_the_same_rules(tmp_path: Path) -> None:
    """As values and as a file: lists of components are joined, `*` and `null` are understood, the order is kept."""
    part: Tree = {
        "processors": {"transform/zone": {"metric_statements": []}, "memory_limiter": {"limit_percentage": 70}},
        "exporters": {"debug/own": {"verbosity": "basic"}, "otlp_grpc/*": {"timeout": "3s"}},
        "service": {"pipelines": {"logs/otlp": None, "metrics*": {"processors": ["transform/zone", "-filter/values"]}}},
    }
    part["service"]["pipelines"]["traces/kept"] = {"exporters": ["debug/own"]}
    (file := tmp_path / "part.yaml").write_text(yaml.safe_dump(part))
    as_map = rendered(merged(BACKEND, {"gatewayStateful": {"config": part}}))
    as_file = rendered(BACKEND, "--set-file", f"gatewayStateful.config={file}")
    tree = configuration(one(as_map, "ConfigMap", NAMES["gateway_stateful"]))
    assert tree == configuration(one(as_file, "ConfigMap", NAMES["gateway_stateful"]))
    assert tree["processors"]["memory_limiter"] == {
        "check_interval": "1s",
        "limit_percentage": 70,
        "spike_limit_percentage": 20,
    }
    assert tree["exporters"]["otlp_grpc/backend"]["timeout"] == "3s"
    pipelines = tree["service"]["pipelines"]
    assert "logs/otlp" not in pipelines
    assert pipelines["metrics/otlp"]["processors"] == [
        "memory_limiter",
        "filter/empty",
        "transform/zone",
        "delta_to_cumulative",
    ]
    assert pipelines["traces/kept"]["exporters"] == ["otlp_grpc/backend", "debug/own"]


@pytest.mark.requires(part="collector")
def test_the_collector_accepts_the_text_that_the_chart_writes(tmp_path: Path) -> None:
    """As text, because Helm has only floating-point numbers, and would write 1e+09."""
    many = {
        "agent": {"features": ["redaction", "names"]},
        "gateway": {"features": ["redaction"]},
        "gatewayStateful": {"features": ["tail_sampling", "span_to_metric"]},
        "sidecar": {"enabled": True, "features": ["cardinality"]},
    }
    maps = of_kind(rendered(merged(BACKEND, many)), "ConfigMap")
    for config_map in maps:
        if "collector.yaml" in config_map["data"]:
            name = config_map["metadata"]["name"]
            (file := tmp_path / f"{name}.yaml").write_text(config_map["data"]["collector.yaml"])
            assert validate(file) == "", name
