"""The Kustomize directories: the same objects as the chart's, and configurations as `render` makes them."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ai_otel.collector import fragments
from ai_otel.collector.compose import Selection, compose
from generator.kustomize import sidecar
from generator.model import load
from harness.collector.process import PLACES, binary
from harness.kubernetes.charts import BACKEND, KUSTOMIZE, Tree, kustomized, merged, of_kind, one, parsed, pods, rendered
from harness.kubernetes.equivalence import by_name, configured, different, files_of, meant, normal, shared

pytestmark = pytest.mark.requires(part="kubernetes")

GATEWAY = ("redaction", "names", "tail-sampling", "span-to-metric")
FIRST_TIER = {"redaction"}


def directory(place: Path, resources: Iterable[str], components: Iterable[str] = (), **more: Any) -> Path:
    """A kustomization of these shipped directories."""
    place.mkdir(parents=True, exist_ok=True)
    relative = [[os.path.relpath(KUSTOMIZE / name, place) for name in names] for names in (resources, components)]
    tree = {"namespace": "ai-otel", "resources": relative[0], "components": relative[1], **more}
    (place / "kustomization.yaml").write_text(yaml.safe_dump(tree))
    return place


# ---------------------------------------------------------------- configurations


def selection_of(role: str, components: Iterable[str], more: tuple[str, ...] = ()) -> Selection:
    """What to render for a gateway's tier with these components."""
    features = [name.replace("-", "_") for name in components if (name in FIRST_TIER) == (role == "gateway")]
    return Selection(role, (), (*more, *features))


@pytest.mark.parametrize("mode", ["tls", "mtls", "local"])
def test_any_components_of_the_gateway_go_together(mode: str, tmp_path: Path) -> None:
    """Every set of them, in any order of their names: the Collector gets what `render` writes for these features."""
    more, of_mode = ((), ()) if mode == "tls" else ((f"components/gateway/{mode}",), (mode,))
    count = 0
    for size in range(len(GATEWAY) + 1):
        for components in itertools.combinations(GATEWAY, size):
            chosen = [*more, *(f"components/gateway/{name}" for name in reversed(components))]
            objects = kustomized(directory(tmp_path / str(count), ["bases/gateway"], chosen))
            count += 1
            for role, kind, name in (
                ("gateway", "Deployment", "ai-otel-gateway"),
                ("gateway_stateful", "StatefulSet", "ai-otel-gateway-stateful"),
            ):
                wanted = compose(selection_of(role, components, of_mode)).tree
                assert meant(configured(one(objects, kind, name), objects)) == meant(wanted), (role, components)
    assert count == 16


@pytest.mark.requires(part="collector")
def test_the_collector_itself_makes_the_same_of_the_files(tmp_path: Path) -> None:
    """Its own print-config, on the second tier with all components."""
    chosen = [f"components/gateway/{name}" for name in (*GATEWAY, "mtls")]
    objects = kustomized(directory(tmp_path / "all", ["bases/gateway"], chosen))
    files = files_of(one(objects, "StatefulSet", "ai-otel-gateway-stateful"), objects)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (whole := tmp_path / "whole.yaml").write_text(
        yaml.safe_dump(compose(selection_of("gateway_stateful", GATEWAY, ("mtls",))).tree)
    )
    assert printed([tmp_path / name for name in files]) == printed([whole])


def printed(files: Iterable[Path]) -> Tree:
    flags = [word for file in files for word in ("--config", str(file))]
    done = subprocess.run(
        [binary(), "print-config", "--mode=unredacted", *flags],
        env={**os.environ, **PLACES},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (tree,) = parsed(done.stdout)
    return tree


@pytest.mark.parametrize("mode", ["mtls", "local"])
@pytest.mark.parametrize(("role", "kind"), [("agent", "DaemonSet"), ("cluster", "Deployment")])
def test_leaves_have_mtls_and_local(role: str, kind: str, mode: str, tmp_path: Path) -> None:
    objects = kustomized(directory(tmp_path, [f"bases/{role}"], [f"components/{role}/{mode}"]))
    wanted = compose(Selection(role, features=(mode,))).tree
    assert meant(configured(one(objects, kind, f"ai-otel-{role}"), objects)) == meant(wanted)


# ---------------------------------------------------------------- sidecars

SERVER = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: chat, labels: {ai-otel.io/sidecar: ENGINE}}
spec:
  selector: {matchLabels: {app: chat}}
  template:
    metadata: {labels: {app: chat}}
    spec:
      containers: [{name: server, image: server}]
"""


def with_sidecar(place: Path, engine: str, *components: str) -> list[Tree]:
    """What Kustomize makes of a server with the component that `tools/sidecar.py` writes for the engine."""
    directory(place, ["bases/sidecar"], [f"components/sidecar/{name}" for name in components])
    for name, render in sidecar(engine).items():
        (place / "engine").mkdir(exist_ok=True)
        (place / "engine" / Path(name).name).write_text(render(load()))
    tree = yaml.safe_load((place / "kustomization.yaml").read_text())
    (place / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                **tree,
                "resources": [*tree["resources"], "server.yaml"],
                "components": ["engine", *tree["components"]],
            }
        )
    )
    (place / "server.yaml").write_text(SERVER.replace("ENGINE", engine))
    return kustomized(place)


@pytest.mark.parametrize("engine", fragments.names("engines"))
def test_a_label_gives_a_server_the_sidecar_of_its_engine(engine: str, tmp_path: Path) -> None:
    objects = with_sidecar(tmp_path, engine)
    assert configured(one(objects, "Deployment", "chat"), objects) == compose(Selection("sidecar", (engine,))).tree


@pytest.mark.parametrize("mode", ["mtls", "local"])
def test_a_sidecar_has_mtls_and_local(mode: str, tmp_path: Path) -> None:
    objects = with_sidecar(tmp_path, "vllm", mode)
    wanted = compose(Selection("sidecar", ("vllm",), (mode,))).tree
    assert meant(configured(one(objects, "Deployment", "chat"), objects)) == meant(wanted)
    volumes = {volume["name"]: volume for volume in pods(objects)["chat"]["volumes"]}
    assert ("ai-otel-tls" in volumes) == (mode == "mtls")


def test_the_sidecar_is_the_charts() -> None:
    (deployment,) = parsed((KUSTOMIZE.parent / "chart/examples/restricted/pod.yaml").read_text())
    (charts,) = deployment["spec"]["template"]["spec"]["initContainers"]
    (patch,) = parsed((KUSTOMIZE / "components/sidecar/generated/vllm/sidecar.yaml").read_text())
    (made,) = patch["spec"]["template"]["spec"]["initContainers"]
    assert {**by_name(made["env"]), "K8S_CONTAINER_NAME": 0} == {**by_name(charts["env"]), "K8S_CONTAINER_NAME": 0}
    assert {**made, "env": 0} == {**charts, "env": 0}
    (literals,) = of_kind(kustomized(KUSTOMIZE / "bases/sidecar"), "ConfigMap")
    assert (
        literals["data"]
        == one(rendered(merged(BACKEND, {"sidecar": {"enabled": True}})), "ConfigMap", "ai-otel-sidecar")["data"]
    )


# ---------------------------------------------------------------- the same as the chart


def test_the_bases_are_what_the_chart_renders() -> None:
    image = {"repository": "registry.example.com/ai-otel", "tag": "1"}
    charts = shared(rendered(merged(BACKEND, {"gpuAgent": {"enabled": True, "image": image}})))
    made: dict[str, Tree] = {}
    for base in ("agent", "cluster", "gateway", "gpu-agent"):
        made |= shared(kustomized(KUSTOMIZE / "bases" / base))
    assert different(charts, made) == {}


PRODUCTION: Tree = {
    "tls": {"mode": "mtls"},
    "backends": {"otlp": {"authorizationSecret": {"name": "ai-otel-backend", "key": "authorization"}}},
    "gateway": {"features": ["redaction"], "autoscaling": {"enabled": True}},
    "gatewayStateful": {"features": ["tail_sampling", "span_to_metric"], "replicas": 3},
    "monitoring": {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
}
DEVELOPMENT: Tree = {
    "tls": {"mode": "off"},
    "backends": {"otlp": {"endpoint": "jaeger:4317"}},
    "cluster": {"replicas": 1},
    "gateway": {"replicas": 1},
    "gatewayStateful": {
        "replicas": 1,
        "persistence": {"size": "1Gi"},
        "settings": {"AI_OTEL_QUEUE_BYTES": 100000000},
    },
}


@pytest.mark.parametrize(("overlay", "values"), [("prod", PRODUCTION), ("dev", DEVELOPMENT)])
def test_an_overlay_is_what_the_chart_renders(overlay: str, values: Tree) -> None:
    charts = shared(rendered(merged(BACKEND, values)))
    made = shared(kustomized(KUSTOMIZE / "overlays" / overlay))
    assert different(charts, made) == {}


@pytest.mark.parametrize("mode", ["mtls", "off"])
def test_the_gpu_agent_is_what_the_chart_renders(mode: str, tmp_path: Path) -> None:
    image = {"repository": "registry.example.com/ai-otel", "tag": "1"}
    charts = rendered(merged(BACKEND, {"tls": {"mode": mode}, "gpuAgent": {"enabled": True, "image": image}}))
    component = {"mtls": "mtls", "off": "local"}[mode]
    made = kustomized(directory(tmp_path, ["bases/gpu-agent"], [f"components/gpu-agent/{component}"]))
    name = "ai-otel-gpu-agent"
    assert normal(one(charts, "DaemonSet", name)) == normal(one(made, "DaemonSet", name))


def test_a_changed_configuration_rolls_the_pods(tmp_path: Path) -> None:
    """The name of a generated ConfigMap has its hash, and the pods name it."""
    before, after = (
        kustomized(directory(tmp_path / str(len(chosen)), ["bases/gateway"], chosen))
        for chosen in ([], ["components/gateway/redaction"])
    )
    names = [pods(each)["ai-otel-gateway"]["volumes"][0]["configMap"]["name"] for each in (before, after)]
    assert names[0] != names[1]
    assert {each["metadata"]["name"] for each in of_kind(after, "ConfigMap")} >= {names[1]}
