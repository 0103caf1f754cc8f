from __future__ import annotations

import multiprocessing
import os
import socket
import uuid
from collections.abc import Mapping
from typing import Any

import oracle
import pytest

from ai_otel import resource, settings
from ai_otel.inputs import otel
from ai_otel.settings import Environment
from ai_otel.version import __version__

POD = {"K8S_POD_NAME": "vllm-0", "K8S_NAMESPACE_NAME": "models", "K8S_CONTAINER_NAME": "server"}


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"):
        monkeypatch.delenv(name, raising=False)
    # Other runs of these tests on this machine are other places.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:9/{uuid.uuid4()}")


def built(environment: Mapping[str, str] | None = None, *engine: str, forked: bool = False) -> dict[str, Any]:
    return dict(resource.build(Environment.read(environment or {}), *engine, forked=forked).attributes)


def test_a_process_says_what_it_knows_of_itself() -> None:
    attributes = built()
    assert attributes["service.name"] == "ai-otel"
    assert attributes["host.name"] == socket.gethostname()
    assert attributes["process.pid"] == os.getpid()
    assert attributes["telemetry.distro.name"] == "ai-otel"
    assert attributes["telemetry.distro.version"] == __version__
    assert attributes["telemetry.sdk.language"] == "python"
    assert "ai_otel.engine.name" not in attributes
    assert not [name for name in attributes if name.startswith("k8s.")]


def test_the_engine_gives_its_name_and_version() -> None:
    attributes = built({}, "vllm", "0.32.0")
    assert attributes["service.name"] == "vllm"
    assert attributes["ai_otel.engine.name"] == "vllm"
    assert attributes["ai_otel.engine.version"] == "0.32.0"
    assert "ai_otel.engine.version" not in built({}, "vllm")


def test_a_pod_is_identified_by_the_downward_api() -> None:
    attributes = built({**POD, "K8S_NODE_NAME": "node-1", "K8S_POD_UID": "u", "K8S_POD_IP": "10.0.0.1"})
    assert attributes["k8s.pod.name"] == "vllm-0"
    assert attributes["k8s.namespace.name"] == attributes["service.namespace"] == "models"
    assert attributes["k8s.container.name"] == "server"
    assert attributes["k8s.node.name"] == "node-1"
    assert attributes["k8s.pod.uid"] == "u"
    assert attributes["k8s.pod.ip"] == "10.0.0.1"


def test_what_the_user_set_always_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {
        "service.instance.id": "mine",
        "service.namespace": "my-team",
        "k8s.pod.name": "mine",
        "host.name": "mine",
        "telemetry.distro.name": "mine",
        "ai_otel.engine.name": "mine",
        "deployment.environment.name": "prod",
    }
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", ",".join(f"{name}={value}" for name, value in mine.items()))
    attributes = built(POD, "vllm")
    assert {name: attributes[name] for name in mine} == mine
    assert attributes["service.name"] == "vllm"


def test_a_service_name_has_two_variables_and_the_special_one_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=general")
    assert built({}, "vllm")["service.name"] == "general"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "special")
    assert built({}, "vllm")["service.name"] == "special"


def test_the_detectors_that_the_user_chose_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "process")
    attributes = built()
    assert "process.command_args" in attributes or "process.command" in attributes
    assert attributes["service.name"] == "ai-otel"


# ---------------------------------------------------------------- service.instance.id


def test_an_instance_without_a_pod_has_a_random_id() -> None:
    first, second = (built()["service.instance.id"] for _ in range(2))
    assert uuid.UUID(first) != uuid.UUID(second)


def test_an_instance_in_a_pod_is_named_as_the_conventions_ask() -> None:
    assert built(POD)["service.instance.id"] == "models.vllm-0.server"


@pytest.mark.parametrize("missing", POD)
def test_a_pod_that_is_half_known_is_no_name(missing: str) -> None:
    attributes = built({name: value for name, value in POD.items() if name != missing})
    assert uuid.UUID(attributes["service.instance.id"])


def test_workers_of_one_container_are_several_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_name", "ApiServer_1")
    assert built(POD)["service.instance.id"] == "models.vllm-0.server.ApiServer_1"


def test_the_child_of_a_fork_is_another_instance_even_without_a_name() -> None:
    assert built(POD, forked=True)["service.instance.id"] == f"models.vllm-0.server.{os.getpid()}"


def test_an_id_that_the_user_set_is_the_prefix_in_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=mine")
    assert built(POD)["service.instance.id"] == "mine"
    assert built(POD, forked=True)["service.instance.id"] == f"mine.{os.getpid()}"
    monkeypatch.setattr(multiprocessing.current_process(), "_name", "SpawnProcess-1")
    assert built(POD)["service.instance.id"] == "mine.SpawnProcess-1"


def test_a_caller_that_knows_its_instance_gets_it_as_it_is() -> None:
    attributes = resource.build(Environment.read(POD), service="agent", instance="node-1", forked=True).attributes
    assert attributes["service.instance.id"] == "node-1"


# ---------------------------------------------------------------- placeholders


@pytest.mark.fault(
    "configuration",
    "a manifest leaves a placeholder in a value, such as `$(POD_NAME)` or `${VAR}`",
    "the value is left out, one warning names the variable, and the other values hold",
)
@pytest.mark.parametrize("placeholder", ["$(POD_NAME)", "${POD_NAME}", "a-$(POD_NAME)", "{{ .Values.name }}"])
def test_an_unresolved_placeholder_is_logged_and_left_out(
    placeholder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settings, "_logged", set())
    monkeypatch.setattr(otel, "_logged", set())
    given = f"service.instance.id={placeholder},k8s.pod.name={placeholder},team=blue"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", given)
    monkeypatch.setenv("OTEL_SERVICE_NAME", placeholder)
    attributes = built({"K8S_POD_NAME": placeholder, "K8S_NODE_NAME": "node-1"}, "vllm")
    assert not [value for value in attributes.values() if placeholder in str(value)]
    assert uuid.UUID(attributes["service.instance.id"])
    assert (attributes["team"], attributes["k8s.node.name"]) == ("blue", "node-1")
    assert attributes["service.name"] == "vllm"
    for name in ("OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME", "K8S_POD_NAME"):
        assert len([message for message in caplog.messages if message.startswith(f"ai-otel: {name}=")]) == 1


# ---------------------------------------------------------------- the contract


def test_the_resource_is_what_the_contract_says() -> None:
    assert oracle.check_resource(built(POD, "vllm", "0.32.0")) == []
    assert oracle.check_resource(built()) == []


def test_workers_differ_also_where_the_operator_named_their_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes one value into the manifest for all of them, and the parts that it is made of."""
    parts = "k8s.namespace.name=models,k8s.pod.name=vllm-0,k8s.container.name=server"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"{parts},service.instance.id=models.vllm-0.server")
    assert built({})["service.instance.id"] == "models.vllm-0.server"
    assert built({}, forked=True)["service.instance.id"] == f"models.vllm-0.server.{os.getpid()}"
    monkeypatch.setattr(multiprocessing.current_process(), "_name", "ApiServer_1")
    assert built({})["service.instance.id"] == "models.vllm-0.server.ApiServer_1"
