from __future__ import annotations

import os
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

import ai_otel
from ai_otel import settings
from ai_otel.inputs.shown import shown
from ai_otel.settings import DOWNWARD_API, Environment, Price, Settings, SettingsError

READ = Settings.from_environment


def test_the_defaults_hold_where_nothing_is_said() -> None:
    assert READ({}) == Settings()
    assert not Settings().enabled


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("enabled", "true", True),
        ("enabled", " ON ", True),
        ("enabled", "1", True),
        ("enabled", "yes", True),
        ("traces", "0", False),
        ("metrics", "False", False),
        ("edge", "off", False),
        ("phases", "", False),
        ("engines", "vllm, llama_cpp ,,", ("vllm", "llama_cpp")),
        ("engines", "", ()),
        ("engine_tracing", " Ignore", "ignore"),
        ("foreign_parent", "parent", "parent"),
        ("gpu", "nvidia,amd", ("nvidia", "amd")),
        ("gpu_interval", "5", 5.0),
        ("energy", "true", True),
        ("price", "2.50 USD/gpu_hour", Price(2.5, "USD", "gpu_hour")),
        ("price", "0.3 EUR/kWh", Price(0.3, "EUR", "kWh")),
        ("agent_interval", "30", 30.0),
        ("agent_kubelet", " /mnt/pod-resources ", "/mnt/pod-resources"),
        ("agent_pods_api", "/mnt/pods-api", "/mnt/pods-api"),
        ("agent_listen", "[::]:8080", "[::]:8080"),
        ("agent_resources", "nvidia.com/gpu, example.com/*", ("nvidia.com/gpu", "example.com/*")),
        ("agent_replicas", "MPS", "mps"),
        ("agent_resource_slices", "true", True),
        ("queue_limit", "16", 16),
        ("flush_interval", "0.25", 0.25),
        ("stop_timeout", "2", 2.0),
        ("emitter", " SDK", "sdk"),
    ],
)
def test_every_option_is_read_from_its_variable(name: str, text: str, value: Any) -> None:
    assert getattr(READ({f"AI_OTEL_{name.upper()}": text}), name) == value
    assert getattr(READ({}, **{name: text}), name) == value
    assert getattr(READ({}, **{name: value}), name) == value


MALFORMED = [
    ("enabled", "maybe"),
    ("engine_tracing", "both"),
    ("foreign_parent", "adopt"),
    ("price", "cheap"),
    ("price", "2.50 USD"),
    ("price", "2.50 usd/gpu_hour"),
    ("agent_listen", "13134"),
    ("agent_listen", "localhost:port"),
    ("agent_listen", "localhost:70000"),
    ("agent_replicas", "some"),
    ("emitter", "grpc"),
    ("queue_limit", "0"),
    ("queue_limit", "-5"),
    ("queue_limit", "many"),
    ("queue_limit", "1.5"),
    ("flush_interval", "0"),
    ("flush_interval", "soon"),
    ("stop_timeout", "nan"),
    ("stop_timeout", "inf"),
    ("stop_timeout", "-1"),
    ("flush_interval", "1e10"),
    ("stop_timeout", "3601"),
    ("gpu_interval", "1e300"),
    ("agent_interval", "inf"),
    ("queue_limit", "10000001"),
    ("price", f"{'9' * 400} USD/gpu_hour"),
]


@pytest.mark.fault(
    "configuration",
    "an interval is longer than the system's timeouts allow (`AI_OTEL_FLUSH_INTERVAL=1e10`)",
    "the value is logged and the default is used",
)
@pytest.mark.parametrize(("name", "text"), MALFORMED)
@pytest.mark.fault(
    "configuration", "an `AI_OTEL_*` variable is malformed", "it is logged once, and the default is used"
)
def test_a_malformed_variable_is_reported_once_and_the_server_runs_on(
    name: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert READ({f"AI_OTEL_{name.upper()}": text}) == Settings()
    (reported,) = caplog.messages
    assert reported.startswith(f"ai-otel: AI_OTEL_{name.upper()}={shown(text)!r} is invalid: write ")
    assert reported.endswith(f"using {getattr(Settings(), name)!r}")


@pytest.mark.parametrize(("name", "text"), MALFORMED)
def test_a_malformed_argument_raises_because_it_is_in_the_callers_code(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}='{shown(text)}' is invalid"):
        READ({}, **{name: text})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("queue_limit", 0),
        ("queue_limit", True),
        ("queue_limit", None),
        ("flush_interval", -0.5),
        ("flush_interval", float("inf")),
        ("foreign_parent", 5),
        ("traces", 2),
        ("enabled", {}),
    ],
)
def test_an_argument_of_any_type_is_validated(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match="is invalid"):
        READ({}, **{name: value})


@pytest.mark.fault("configuration", "an `AI_OTEL_*` variable is unknown", "it is logged, with the known names")
def test_an_unknown_variable_is_reported_with_those_that_are_known(caplog: pytest.LogCaptureFixture) -> None:
    assert READ({"AI_OTEL_TRACE": "1", "AI_OTEL_ENABLED": "1", "OTEL_X": "1"}).enabled
    (reported,) = caplog.messages
    assert "unknown setting AI_OTEL_TRACE;" in reported
    assert "AI_OTEL_TRACES" in reported


def test_variables_of_the_tools_are_no_settings(caplog: pytest.LogCaptureFixture) -> None:
    READ({"AI_OTEL_CACHE": "/somewhere", "AI_OTEL_TEST_ALL": "1"})
    assert caplog.messages == []


@pytest.mark.fault(
    "configuration",
    "a Collector's variables, such as `AI_OTEL_BACKEND_ENDPOINT`, are set for a server as well",
    "they are ignored without a warning, and `ai-otel doctor` says who reads them",
)
def test_variables_of_a_collector_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    assert READ({"AI_OTEL_BACKEND_ENDPOINT": "otlp.example.com:4317", "AI_OTEL_ENGINE": "sglang"}) == READ({})
    assert caplog.messages == []


def test_an_unknown_argument_raises() -> None:
    with pytest.raises(SettingsError, match="unknown setting 'trace': known are .*traces"):
        READ({}, trace=True)
    assert issubclass(ai_otel.SettingsError, ValueError)


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_OTEL_QUEUE_LIMIT", "7")
    monkeypatch.setenv("AI_OTEL_FLUSH_INTERVAL", "7")
    read = READ(queue_limit=9)
    assert (read.queue_limit, read.flush_interval) == (9, 7.0)


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().enabled = True  # type: ignore[misc]


def test_every_option_says_what_it_means() -> None:
    for item in fields(Settings):
        assert item.metadata["doc"].endswith(".")
        assert callable(item.metadata["read"])


# ---------------------------------------------------------------- the switch


@pytest.mark.parametrize(("text", "on"), [("true", True), ("1", True), ("0", False), ("", False), (None, False)])
def test_the_switch_alone_enables_the_entry_points(text: str | None, on: bool) -> None:
    assert Settings.switched_on({} if text is None else {"AI_OTEL_ENABLED": text}) is on


def test_a_process_that_is_off_hears_nothing_of_us(caplog: pytest.LogCaptureFixture) -> None:
    assert not Settings.switched_on({"AI_OTEL_TRACE": "1", "AI_OTEL_QUEUE_LIMIT": "x"})
    assert caplog.messages == []


def test_a_malformed_switch_is_off_and_reported_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "_logged", set())
    for _ in range(3):  # as many entry points call it
        assert not Settings.switched_on({"AI_OTEL_ENABLED": "maybe"})
    assert len(caplog.messages) == 1
    assert "write true or false; ai-otel is off" in caplog.messages[0]


# ---------------------------------------------------------------- environment

COMMON = {"POD_NAME": "p", "POD_NAMESPACE": "n", "NODE_NAME": "node", "POD_UID": "u", "POD_IP": "10.0.0.1"}


def test_the_downward_api_is_read_by_our_names() -> None:
    environment = {names[0]: attribute for attribute, names in DOWNWARD_API.items()}
    assert Environment.read(environment).pod == {attribute: attribute for attribute in DOWNWARD_API}


def test_the_operators_names_come_second() -> None:
    environment = {
        "OTEL_RESOURCE_ATTRIBUTES_POD_NAME": "operator",
        "K8S_NAMESPACE_NAME": "own",
        "POD_NAMESPACE": "x",
    }
    assert Environment.read(environment).pod == {"k8s.pod.name": "operator", "k8s.namespace.name": "own"}


def test_common_names_count_only_in_a_pod() -> None:
    assert Environment.read(COMMON).pod == {}
    inside = Environment.read({**COMMON, "KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    assert inside.pod == {
        "k8s.pod.name": "p",
        "k8s.namespace.name": "n",
        "k8s.node.name": "node",
        "k8s.pod.uid": "u",
        "k8s.pod.ip": "10.0.0.1",
    }


def test_a_container_name_is_read_from_one_variable_only() -> None:
    """CONTAINER_NAME is set by container tools outside of Kubernetes, to anything."""
    environment = {"CONTAINER_NAME": "toolbox", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    assert Environment.read(environment).pod == {}
    assert Environment.read({"K8S_CONTAINER_NAME": "vllm"}).pod == {"k8s.container.name": "vllm"}


def test_an_empty_variable_is_unset() -> None:
    environment = {"K8S_POD_NAME": "", "POD_NAME": "p", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    assert Environment.read(environment).pod == {"k8s.pod.name": "p"}


def test_the_sdks_variables_are_passed_on() -> None:
    assert Environment.read({"OTEL_SERVICE_NAME": "s", "PATH": "/bin"}).otel == {"OTEL_SERVICE_NAME": "s"}
    assert Environment.read().otel == {name: text for name, text in os.environ.items() if name.startswith("OTEL_")}


def test_all_variables_are_passed_on_but_not_shown() -> None:
    read = Environment.read({"VLLM_PLUGINS": "a,b", "KEY": "secret"})
    assert read.variables["VLLM_PLUGINS"] == "a,b"
    assert "secret" not in repr(read)
