"""ai-otel in a pod without the Operator: by Kustomize's components or the chart's templates, on a real API server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from harness.kubernetes.charts import CHART, Refused as NotRendered, Tree, of_kind, parsed, template
from harness.kubernetes.cluster import Cluster, Refused
from harness.kubernetes.equivalence import by_name, normal
from harness.kubernetes.image import INNER, copied, variables
from harness.kubernetes.workloads import identity, ran, server, with_components
from harness.telemetry.sink import listening

pytestmark = pytest.mark.requires(part="kubernetes")
on_api_server = pytest.mark.requires(command="openssl", why="the API server shows a certificate")

WAYS = {"emptyDir": "injection", "image": "injection-image-volume"}
IMAGE = {"repository": "registry.example.com/ai-otel-injection", "tag": "1"}
PATH = f"/ai-otel/autoinstrumentation/{INNER}:/ai-otel/autoinstrumentation"


def pod_of(objects: list[Tree]) -> Tree:
    """The template of the only workload."""
    (workload,) = of_kind(objects, "Deployment", "StatefulSet")
    pod: Tree = workload["spec"]["template"]
    return pod


def env_of(pod: Tree, index: int = 0) -> dict[str, Tree]:
    return by_name(pod["spec"]["containers"][index].get("env", ()))


# ---------------------------------------------------------------- the chart's templates


def as_subchart(values: Tree, directory: Path, kube: str = "1.36.3", **arguments: str) -> Tree:
    """What the templates render in a chart that depends on this one."""
    (directory / "templates").mkdir(parents=True)
    (directory / "Chart.yaml").write_text("{apiVersion: v2, name: chat, version: 0.0.0}")
    shutil.copytree(CHART, directory / "charts/ai-otel")
    more = "".join(f' "{name}" "{value}"' for name, value in {"container": "server", **arguments}.items())
    about = f'(dict "root" (index .Subcharts "ai-otel"){more})'
    keys = {"initContainers": "Init", "env": "Env", "volumeMounts": "Mounts", "volumes": "Volumes"}
    lines = [f'{key}: {{{{- include "ai-otel.injection{name}" {about} | nindent 2 }}}}\n' for key, name in keys.items()]
    (directory / "templates/pod.yaml").write_text("".join(lines))
    whole = {"ai-otel": {"backends": {"debug": {}}, **values}}
    (pod,) = parsed(template(whole, "--show-only", "templates/pod.yaml", chart=directory, kube=kube))
    return pod


@pytest.mark.parametrize("volume", WAYS)
def test_the_charts_templates_give_what_the_component_gives(volume: str, tmp_path: Path) -> None:
    """But for two variables: the template is given the container, and writes PYTHONPATH as it is."""
    charts = as_subchart({"injection": {"image": IMAGE, "volume": volume}}, tmp_path / "chart")
    pod = pod_of(with_components(tmp_path / "kustomize", server("python"), WAYS[volume]))
    assert normal(charts["initContainers"] or []) == normal(pod["spec"].get("initContainers", []))
    assert charts["volumes"] == pod["spec"]["volumes"]
    assert charts["volumeMounts"] == pod["spec"]["containers"][0]["volumeMounts"]
    env = by_name(charts["env"])
    assert (env.pop("PYTHONPATH")["value"], env.pop("K8S_CONTAINER_NAME")["value"]) == (PATH, "server")
    assert env == {name: entry for name, entry in env_of(pod).items() if name in env}
    assert env_of(pod).keys() - env.keys() == {"PYTHONPATH", "K8S_CONTAINER_NAME"}


def test_the_pod_of_the_example_has_what_the_templates_give(tmp_path: Path) -> None:
    values = yaml.safe_load((CHART / "examples/injection/values.yaml").read_text())
    (deployment,) = parsed((CHART / "examples/injection/pod.yaml").read_text())
    pod, given = deployment["spec"]["template"]["spec"], as_subchart(values, tmp_path / "chart")
    (container,) = pod["containers"]
    assert [each for each in pod["initContainers"] if each["name"] != "ai-otel"] == given["initContainers"]
    assert by_name(container["env"]) == by_name(given["env"])
    assert given["volumeMounts"][0] in container["volumeMounts"]
    assert given["volumes"][0] in pod["volumes"]
    (sidecar,) = [each for each in pod["initContainers"] if each["name"] == "ai-otel"]
    assert by_name(sidecar["env"])["AI_OTEL_LIBRARY"]["value"] == "true"


def test_the_charts_template_keeps_a_given_path(tmp_path: Path) -> None:
    charts = as_subchart({"injection": {"image": IMAGE}}, tmp_path, pythonPath="/mine:/too")
    assert by_name(charts["env"])["PYTHONPATH"]["value"] == f"{PATH}:/mine:/too"


@pytest.mark.parametrize(
    ("values", "kube", "said"),
    [
        ({}, "1.36.3", "injection.image: there is no published one; build "),
        ({"image": {"repository": "mine"}}, "1.36.3", "injection.image: there is no published one; build "),
        ({"image": IMAGE, "volume": "image"}, "1.32.0", "injection.volume: image needs Kubernetes 1.33, this is v1.32"),
        ({"image": IMAGE, "volume": "hostPath"}, "1.36.3", "at '/injection/volume': value must be one of 'emptyDir'"),
    ],
)
def test_what_cannot_work_is_refused_by_the_chart(values: Tree, kube: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(NotRendered) as error:
        as_subchart({"injection": values}, tmp_path, kube)
    assert said in str(error.value)


# ---------------------------------------------------------------- the components


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_only_the_first_container_of_a_labelled_workload_is_given_it(kind: str, tmp_path: Path) -> None:
    pod = pod_of(with_components(tmp_path / "labelled", server("python", kind=kind), "injection"))
    assert env_of(pod)["AI_OTEL_ENABLED"] == {"name": "AI_OTEL_ENABLED", "value": "true"}
    assert env_of(pod, 1) == {}
    assert pod["metadata"]["annotations"]["ai-otel.io/library"] == "true"  # the agent, should it read the page
    other = server("python", kind=kind)
    other["metadata"]["labels"] = {}
    assert pod_of(with_components(tmp_path / "other", other, "injection")) == other["spec"]["template"]


def test_what_the_server_sets_for_opentelemetry_stands(tmp_path: Path) -> None:
    """Where telemetry goes, and by what name, is left to the user: without it, it goes to the pod's own sidecar."""
    theirs: list[Tree] = [
        {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://agent:4318"},
        {"name": "OTEL_SERVICE_NAME", "value": "chat"},
    ]
    env = env_of(pod_of(with_components(tmp_path, server("python", *theirs), "injection")))
    assert [env[each["name"]] for each in theirs] == theirs
    without = env_of(pod_of(with_components(tmp_path / "without", server("python"), "injection")))
    assert [name for name in without if name.startswith("OTEL_")] == []


@pytest.mark.parametrize("first", ["injection", "sidecar/generated/vllm"])
def test_the_sidecar_beside_it_leaves_to_the_library_what_both_know(first: str, tmp_path: Path) -> None:
    both = sorted(["injection", "sidecar/generated/vllm"], key=lambda name: name != first)
    pod = pod_of(with_components(tmp_path / "both", server("python", engine="vllm"), *both))
    initial = by_name(pod["spec"]["initContainers"])
    assert initial.keys() == {"ai-otel", "ai-otel-injection"}
    assert by_name(initial["ai-otel"]["env"])["AI_OTEL_LIBRARY"]["value"] == "true"
    alone = server("python", engine="vllm")
    del alone["metadata"]["labels"]["ai-otel.io/inject"]
    (sidecar,) = pod_of(with_components(tmp_path / "alone", alone, *both))["spec"]["initContainers"]
    assert "AI_OTEL_LIBRARY" not in by_name(sidecar["env"])


# ---------------------------------------------------------------- a PYTHONPATH of the server's own

MINE = {"name": "PYTHONPATH", "value": "/mine"}


def test_a_path_of_the_server_follows_where_its_label_says_so(tmp_path: Path) -> None:
    pod = pod_of(with_components(tmp_path, server("python-prepend", MINE), "injection"))
    assert env_of(pod)["PYTHONPATH"] == {"name": "PYTHONPATH", "value": f"{PATH}:/mine"}


def test_it_says_so_in_vain_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(NotRendered, match="PYTHONPATH"):
        with_components(tmp_path, server("python-prepend"), "injection")


@on_api_server
@pytest.mark.parametrize(
    ("mine", "said"),
    [
        (MINE, r"may not be specified when `value` is not empty"),
        (
            {"name": "PYTHONPATH", "valueFrom": {"configMapKeyRef": {"name": "mine", "key": "path"}}},
            r"may not have more than one field specified at a time",
        ),
    ],
    ids=["value", "from-config-map"],
)
def test_a_path_of_the_server_is_refused_rather_than_lost(
    mine: Tree, said: str, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    objects = with_components(tmp_path, server("python", mine), "injection", namespace=namespace)
    with pytest.raises(Refused, match=rf"env\[0\]\.valueFrom: .*{said}"):
        cluster.dry_run(yaml.safe_dump_all(objects))


# ---------------------------------------------------------------- on the API server, and as processes


@pytest.fixture
def restricted(cluster: Cluster, namespace: str) -> str:
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    return namespace


@pytest.fixture
def admitted(cluster: Cluster, restricted: str, tmp_path: Path) -> Iterator[Callable[..., Tree]]:
    """A pod as the API server stores it, in a namespace where Pod Security is "restricted"."""

    def made(component: str, *env: Tree, label: str = "python") -> Tree:
        objects = with_components(tmp_path / "kustomize", server(label, *env), component, namespace=restricted)
        cluster.apply(yaml.safe_dump_all(objects))
        (pod,) = cluster.wait_for(lambda: cluster.running("app=chat", restricted))
        return dict(pod)

    yield made
    cluster.kubectl("delete", "deployment", "--all", "--namespace", restricted)


@on_api_server
@pytest.mark.parametrize("label", ["python", "python-prepend"])
def test_python_in_the_pod_has_it_after_the_copy(
    label: str, admitted: Callable[..., Tree], injection_image: Path, venv: Callable[..., Path], tmp_path: Path
) -> None:
    """The init container's own command, then an interpreter with the variables of the stored pod and no others."""
    pod = admitted("injection", *([MINE] if label == "python-prepend" else []), label=label)
    (initial,) = pod["spec"]["initContainers"]
    volume = copied(initial, injection_image, tmp_path / "pod")
    given = variables(pod["spec"]["containers"][0], pod, volume)
    with listening() as sink:
        said = ran(venv(), {**given, "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url})
        assert sink.wait(lambda: len(sink.spans) == 1)
    assert said["started"]
    assert ("/mine" in said["path"]) == (label == "python-prepend")
    assert (volume / "autoinstrumentation").as_posix() not in said["path"]
    assert said["resource"].items() >= identity(pod).items()


@on_api_server
def test_python_in_the_pod_has_it_from_the_mounted_image(
    admitted: Callable[..., Tree], injection_image: Path, venv: Callable[..., Path], tmp_path: Path
) -> None:
    """The image's own tree is what is mounted: `/autoinstrumentation` is below the mount."""
    pod = admitted("injection-image-volume")
    assert "initContainers" not in pod["spec"]
    (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == "ai-otel-injection"]
    wanted = {"reference": f"{IMAGE['repository']}:{IMAGE['tag']}", "pullPolicy": "IfNotPresent"}
    assert volume["image"] == wanted
    shutil.copytree(injection_image, (root := tmp_path / "root") / "autoinstrumentation")
    given = variables(pod["spec"]["containers"][0], pod, root)
    with listening() as sink:
        said = ran(venv(), {**given, "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url})
    assert said["started"]
    assert said["resource"].items() >= identity(pod).items()
