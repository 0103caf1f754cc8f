"""
Every option, one line each: name, environment variable, default, meaning. The only reader of `os.environ`.

Where telemetry goes is not here: the OpenTelemetry SDK's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, …) decide that.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

log = logging.getLogger("ai_otel")

PREFIX = "AI_OTEL_"


class SettingsError(ValueError):
    """A setting that makes no sense; the message says which, and what to write."""


def _flag(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("write true or false")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError("write a number above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("write a whole number above 0")
    return value


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.strip().lower() not in choices:
            raise ValueError(f"write one of {', '.join(choices)}")
        return text.strip().lower()

    return read


def _address(text: str) -> str:
    host, _, port = text.strip().rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("write it like 0.0.0.0:13134")
    return text.strip()


@dataclass(frozen=True, slots=True)
class Price:
    """What the GPUs cost: so much of a currency for an hour of one GPU, or for a kilowatt-hour of its energy."""

    amount: float
    currency: str
    unit: str
    """`gpu_hour` or `kWh`."""

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}/{self.unit}"

    @classmethod
    def read(cls, text: str) -> Price | None:
        """Read `2.50 USD/gpu_hour`; nothing where nothing stands there."""
        if not text.strip():
            return None
        match = _PRICE.fullmatch(text.strip())
        if match is None:
            raise ValueError("write it like 2.50 USD/gpu_hour or 0.30 EUR/kWh")
        return cls(float(match["amount"]), match["currency"], match["unit"])


_PRICE = re.compile(r"(?P<amount>\d+(\.\d+)?) (?P<currency>[A-Z]{3})/(?P<unit>gpu_hour|kWh)")


def option(default: Any, read: Callable[[str], Any], doc: str) -> Any:
    """One option: its default, how its text is read, and what it means."""
    return field(default=default, metadata={"read": read, "doc": doc})


@dataclass(frozen=True, slots=True)
class Settings:
    """All options. The environment variable of each is its name in capitals after `AI_OTEL_`."""

    enabled: bool = option(False, _flag, "Switch on the doors that open because the package is installed.")
    engines: tuple[str, ...] = option((), _names, "Observe only these engines, comma-separated; empty means all.")
    traces: bool = option(True, _flag, "Make spans.")
    metrics: bool = option(True, _flag, "Make metrics.")
    phases: bool = option(True, _flag, "Give each request span its queue, prefill and decode as child spans.")
    edge: bool = option(True, _flag, "Watch the HTTP layer of Starlette and FastAPI servers.")
    engine_tracing: str = option(
        "keep",
        _one_of("keep", "ignore"),
        "Where the engine traces a request itself: keep its span, or ignore it and make ours too.",
    )
    foreign_parent: str = option(
        "link", _one_of("link", "parent", "ignore"), "What to do with a local parent span of somebody else's provider."
    )
    gpu: tuple[str, ...] = option(
        ("auto",),
        _names,
        "Read the GPUs of these vendors, comma-separated; `auto` reads all that are here, `none` none.",
    )
    gpu_interval: float = option(1.0, _positive, "Seconds between two looks at the GPUs.")
    gpu_processes: bool = option(False, _flag, "Tell how much GPU memory each process of this container holds.")
    energy: bool = option(
        False, _flag, "Share the GPUs' energy among the requests; the energy counters are then read ten times a second."
    )
    energy_shared: bool = option(
        False,
        _flag,
        "Estimate energy on GPUs that are shared with others as well (MIG, time-slicing). Not for billing.",
    )
    price: Price | None = option(  # noqa: RUF009 - a dataclass field, as all of them
        None, Price.read, "What GPUs cost, to put a price on a request: `2.50 USD/gpu_hour` or `0.30 EUR/kWh`."
    )
    agent_interval: float = option(15.0, _positive, "`ai-otel agent`: seconds between two questions to the kubelet.")
    agent_kubelet: str = option(
        "/var/lib/kubelet/pod-resources", str.strip, "`ai-otel agent`: directory of the kubelet's `kubelet.sock`."
    )
    agent_pods_api: str = option(
        "/var/lib/kubelet/pods-api",
        str.strip,
        "`ai-otel agent`: directory of the kubelet's `pods-api.sock`, if it has one.",
    )
    agent_listen: str = option(
        "0.0.0.0:13134", _address, "`ai-otel agent`: where its page `/healthz` is served, as `host:port`."
    )
    agent_resources: tuple[str, ...] = option(
        (
            "nvidia.com/gpu",
            "nvidia.com/gpu.shared",
            "nvidia.com/mig-*",
            "amd.com/gpu",
            "amd.com/*_nps*",
            "gpu.intel.com/*",
            "google.com/tpu",
            "aws.amazon.com/neuron*",
            "gpu.nvidia.com",
            "gpu.amd.com",
            "gpu.intel.com",
        ),
        _names,
        "`ai-otel agent`: the resource names and DRA drivers that are accelerators; `*` stands for anything.",
    )
    agent_replicas: str = option(
        "time_slicing",
        _one_of("time_slicing", "mps"),
        "`ai-otel agent`: how this cluster's device plugin shares a GPU; the kubelet does not tell.",
    )
    agent_resource_slices: bool = option(
        False, _flag, "`ai-otel agent`: map resource claims (DRA); reads ResourceSlices from the API server."
    )
    queue_limit: int = option(8192, _count, "How many ended requests may wait for the exporting thread.")
    flush_interval: float = option(0.1, _positive, "Seconds over which ended requests are gathered.")
    stop_timeout: float = option(5.0, _positive, "Seconds that stopping may take to hand over what is left.")

    @classmethod
    def switched_on(cls, environment: Mapping[str, str] | None = None) -> bool:
        """Whether the doors are open. Reads nothing else: a process that is off hears nothing of us."""
        text = (os.environ if environment is None else environment).get(_SWITCH, "")
        try:
            return _flag(text)
        except ValueError as error:
            if text not in _told:  # each door asks
                _told.add(text)
                log.warning("ai-otel: %s=%r makes no sense: %s; ai-otel is off", _SWITCH, text, error)
            return False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """
        Read the environment; keyword arguments win over it.

        A malformed value is told and left at its default, and an unknown `AI_OTEL_*` name is told: the server runs on.
        Malformed or unknown keyword arguments raise `SettingsError`, because they are in the caller's own code.
        """
        environment = os.environ if environment is None else environment
        known = {PREFIX + item.name.upper(): item for item in fields(cls)}
        values: dict[str, Any] = {}
        for name, text in environment.items():
            if not name.startswith(PREFIX) or name in _NOT_SETTINGS:
                continue
            item = known.get(name)
            if item is None:
                log.warning("ai-otel: unknown setting %s; known are %s", name, ", ".join(sorted(known)))
                continue
            try:
                values[item.name] = item.metadata["read"](text)
            except ValueError as error:
                log.warning("ai-otel: %s=%r makes no sense: %s; using %r", name, text, error, item.default)
        return cls(**{**values, **_checked(cls, overrides)})


def _checked(cls: type[Settings], overrides: Mapping[str, Any]) -> dict[str, Any]:
    options = {item.name: item for item in fields(cls)}
    checked: dict[str, Any] = {}
    for name, value in overrides.items():
        if name not in options:
            raise SettingsError(f"unknown setting {name!r}: known are {', '.join(sorted(options))}")
        try:
            checked[name] = options[name].metadata["read"](_text(value))
        except ValueError as error:
            raise SettingsError(f"{name}={value!r} makes no sense: {error}") from None
    return checked


def _text(value: object) -> str:
    """The value as the environment would say it, so that both are judged alike."""
    if isinstance(value, (tuple, list)):
        return ",".join(str(item) for item in value)
    if not isinstance(value, (str, bool, int, float, Price)):
        raise ValueError("write a string, a number, true or false")  # noqa: TRY004 - told like every malformed value
    return str(value)


_SWITCH = f"{PREFIX}ENABLED"
_told: set[str] = set()

# Variables of ours that are no options: where the tools keep their files.
_NOT_SETTINGS = frozenset({"AI_OTEL_CACHE", "AI_OTEL_TEST_ALL"})


@dataclass(frozen=True, slots=True)
class Environment:
    """What else the environment tells us: read here, so that nothing else needs `os.environ`."""

    otel: Mapping[str, str]
    """The SDK's variables, `OTEL_*`."""
    pod: Mapping[str, str]
    """Kubernetes' downward API, by the attribute each fills."""
    variables: Mapping[str, str] = field(repr=False)
    """All variables, for the checks of an engine's adapter. Not in the representation: they may hold secrets."""
    api_server: tuple[str, int] | None = None
    """Host and port of the Kubernetes API server, inside a pod."""

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> Environment:
        """Read them now."""
        environment = os.environ if environment is None else environment
        return cls(
            otel={name: value for name, value in environment.items() if name.startswith("OTEL_")},
            pod=_pod(environment),
            variables=dict(environment),
            api_server=_api_server(environment),
        )


def _api_server(environment: Mapping[str, str]) -> tuple[str, int] | None:
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    return (host, int(port)) if host and port.isdecimal() else None


def _pod(environment: Mapping[str, str]) -> dict[str, str]:
    in_pod = "KUBERNETES_SERVICE_HOST" in environment
    pod = {}
    for attribute, names in DOWNWARD_API.items():
        candidates = (*names, *_COMMON_NAMES.get(attribute, ())) if in_pod else names
        value = next((environment[name] for name in candidates if environment.get(name)), None)
        if value is not None:
            pod[attribute] = value
    return pod


DOWNWARD_API: Mapping[str, tuple[str, ...]] = {
    "k8s.pod.name": ("K8S_POD_NAME", "OTEL_RESOURCE_ATTRIBUTES_POD_NAME"),
    "k8s.pod.uid": ("K8S_POD_UID", "OTEL_RESOURCE_ATTRIBUTES_POD_UID"),
    "k8s.pod.ip": ("K8S_POD_IP",),
    "k8s.namespace.name": ("K8S_NAMESPACE_NAME", "OTEL_RESOURCE_ATTRIBUTES_POD_NAMESPACE"),
    "k8s.node.name": ("K8S_NODE_NAME", "OTEL_RESOURCE_ATTRIBUTES_NODE_NAME"),
    "k8s.container.name": ("K8S_CONTAINER_NAME",),
}
"""Resource attribute → variables that a pod's manifest fills by `fieldRef` for us or for the Operator, ours first."""

# What other manifests call the same. Outside a pod such names may mean anything.
_COMMON_NAMES: Mapping[str, tuple[str, ...]] = {
    "k8s.pod.name": ("POD_NAME",),
    "k8s.pod.uid": ("POD_UID",),
    "k8s.pod.ip": ("POD_IP",),
    "k8s.namespace.name": ("POD_NAMESPACE",),
    "k8s.node.name": ("NODE_NAME",),
}
