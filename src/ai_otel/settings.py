"""
All settings with environment variable, default and meaning. The only module that reads `os.environ`.

Exporters are configured by the OpenTelemetry SDK's variables, such as `OTEL_EXPORTER_OTLP_ENDPOINT`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ai_otel.inputs.collector_variables import COLLECTOR_VARIABLES
from ai_otel.inputs.flag import flag
from ai_otel.inputs.placeholders import STEP, is_resolved
from ai_otel.inputs.routes import Route, read_routes
from ai_otel.inputs.shown import shown

log = logging.getLogger("ai_otel")

PREFIX = "AI_OTEL_"

MAX_S = 3600
"""Maximum of every duration in seconds. Timeouts of the operating system overflow far above it."""
MAX_COUNT = 10_000_000
MAX_PRICE = 1e9


class SettingsError(ValueError):
    """An invalid setting. The message names it and the accepted values."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_S:  # false for NaN
        raise ValueError(f"write a number above 0 and at most {MAX_S}")
    return value


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= MAX_COUNT:
        raise ValueError(f"write a whole number above 0 and at most {MAX_COUNT}")
    return value


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.strip().lower() not in choices:
            raise ValueError(f"write one of {', '.join(choices)}")
        return text.strip().lower()

    return read


def _label(text: str) -> str:
    if not re.fullmatch(r"[\w][\w.:/ -]{0,63}", text.strip()):
        raise ValueError("write a name of at most 64 letters, digits and . _ - : /")
    return text.strip()


def _address(text: str) -> str:
    host, _, port = text.strip().rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("write it like 0.0.0.0:13134")
    return text.strip()


@dataclass(frozen=True, slots=True)
class Price:
    """Price of a GPU hour, or of a kilowatt-hour of GPU energy."""

    amount: float
    currency: str
    unit: str
    """`gpu_hour` or `kWh`."""

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}/{self.unit}"

    @classmethod
    def read(cls, text: str) -> Price | None:
        """Parse `2.50 USD/gpu_hour`. Returns `None` for an empty text, raises `ValueError` for a malformed one."""
        if not text.strip():
            return None
        match = _PRICE.fullmatch(text.strip())
        if match is None:
            raise ValueError("write it like 2.50 USD/gpu_hour or 0.30 EUR/kWh")
        amount = float(match["amount"])
        if amount > MAX_PRICE:
            raise ValueError(f"write an amount of at most {MAX_PRICE:.0f}")
        return cls(amount, match["currency"], match["unit"])


_PRICE = re.compile(r"(?P<amount>\d+(\.\d+)?) (?P<currency>[A-Z]{3})/(?P<unit>gpu_hour|kWh)")


def option(default: Any, read: Callable[[str], Any], doc: str) -> Any:
    """Declare a setting: its default, its parser and its help text."""
    return field(default=default, metadata={"read": read, "doc": doc})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. The environment variable of each is `AI_OTEL_` and its name in capitals."""

    enabled: bool = option(False, flag, "Enable instrumentation through the installed entry points.")
    engines: tuple[str, ...] = option((), _names, "Comma-separated engines and providers to observe; empty means all.")
    traces: bool = option(True, flag, "Emit spans.")
    metrics: bool = option(True, flag, "Emit metrics.")
    phases: bool = option(True, flag, "Emit queue, prefill and decode as child spans of each request span.")
    edge: bool = option(True, flag, "Observe HTTP requests of ASGI and WSGI servers.")
    provider: str = option("custom", _label, "`gen_ai.provider.name` of a server whose engine has no adapter.")
    routes: tuple[Route, ...] = option(
        (), read_routes, "More inference routes: `/predict=text_completion,/v1/models/{name}:predict=chat`."
    )
    engine_tracing: str = option(
        "keep",
        _one_of("keep", "ignore"),
        "What to do if the engine traces a request: `keep` its span only, or `ignore` it and emit a span as well.",
    )
    foreign_parent: str = option(
        "link", _one_of("link", "parent", "ignore"), "How to treat a local parent span of another tracer provider."
    )
    gpu: tuple[str, ...] = option(
        ("auto",),
        _names,
        "Comma-separated vendors whose GPUs are sampled; `auto` selects all, `none` disables sampling.",
    )
    gpu_interval: float = option(1.0, _seconds, "GPU sampling interval in seconds.")
    gpu_processes: bool = option(False, flag, "Report the GPU memory of each process of this container.")
    lock_dir: str = option(
        "",
        str.strip,
        "Directory of the lock files by which processes that share GPUs find each other; empty: /dev/shm.",
    )
    energy: bool = option(
        False, flag, "Attribute GPU energy to requests; samples the energy counters ten times per second."
    )
    energy_shared: bool = option(
        False,
        flag,
        "Estimate energy on GPUs that are or may be shared with other workloads (MIG, time-slicing). Not for billing.",
    )
    price: Price | None = option(  # noqa: RUF009 - a dataclass field, as all of them
        None, Price.read, "GPU price for the cost of a request: `2.50 USD/gpu_hour` or `0.30 EUR/kWh`."
    )
    agent_interval: float = option(15.0, _seconds, "`ai-otel agent`: kubelet polling interval in seconds.")
    agent_kubelet: str = option(
        "/var/lib/kubelet/pod-resources", str.strip, "`ai-otel agent`: directory of the kubelet's `kubelet.sock`."
    )
    agent_pods_api: str = option(
        "/var/lib/kubelet/pods-api",
        str.strip,
        "`ai-otel agent`: directory of the kubelet's `pods-api.sock`, if available.",
    )
    agent_listen: str = option(
        "0.0.0.0:13134", _address, "`ai-otel agent`: listen address of `/healthz`, as `host:port`."
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
        "`ai-otel agent`: comma-separated resource names and DRA drivers of accelerators; `*` is a wildcard.",
    )
    agent_replicas: str = option(
        "time_slicing",
        _one_of("time_slicing", "mps"),
        "`ai-otel agent`: how the device plugin shares a GPU, `time_slicing` or `mps`; the kubelet does not report it.",
    )
    agent_resource_slices: bool = option(
        False, flag, "`ai-otel agent`: map resource claims (DRA); reads ResourceSlices from the API server."
    )
    queue_limit: int = option(8192, _count, "Maximum number of ended requests in the export queue.")
    flush_interval: float = option(0.1, _seconds, "Interval in seconds between two batches of ended requests.")
    stop_timeout: float = option(5.0, _seconds, "Timeout in seconds for flushing at shutdown.")
    emitter: str = option(
        "direct",
        _one_of("direct", "sdk"),
        "How telemetry is made: `direct` where that gives the same, else and with `sdk` by the SDK's own objects.",
    )

    @classmethod
    def switched_on(cls, environment: Mapping[str, str] | None = None) -> bool:
        """Return whether `AI_OTEL_ENABLED` is true. Reads no other variable and logs nothing else."""
        text = (os.environ if environment is None else environment).get(_SWITCH, "")
        try:
            return flag(text)
        except ValueError as error:
            if text not in _logged:  # each entry point calls this
                _logged.add(text)
                log.warning("ai-otel: %s=%s is invalid: %s; ai-otel is off", _SWITCH, _quoted(text), shown(error))
            return False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """
        Read the environment; keyword arguments win over it.

        Malformed values are logged and replaced by the default. Unknown `AI_OTEL_*` names are logged.

        Raises `SettingsError` for malformed or unknown keyword arguments, because they are in the caller's own code.
        """
        environment = os.environ if environment is None else environment
        known = {PREFIX + item.name.upper(): item for item in fields(cls)}
        values: dict[str, Any] = {}
        for name, text in environment.items():
            if not name.startswith(PREFIX) or name in _NOT_SETTINGS:
                continue
            item = known.get(name)
            if item is None:
                log.warning("ai-otel: unknown setting %s; known are %s", shown(name), ", ".join(sorted(known)))
                continue
            try:
                values[item.name] = item.metadata["read"](text)
            except ValueError as error:
                log.warning("ai-otel: %s=%s is invalid: %s; using %r", name, _quoted(text), shown(error), item.default)
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
            raise SettingsError(f"{name}={_quoted(value)} is invalid: {shown(error)}") from None
    return checked


def _text(value: object) -> str:
    """Format a value as in an environment variable, so that both are validated alike."""
    if isinstance(value, (tuple, list)):
        return ",".join(str(item) for item in value)
    if not isinstance(value, (str, bool, int, float, Price)):
        raise ValueError("write a string, a number, true or false")  # noqa: TRY004 - reported like every malformed value
    return str(value)


def _quoted(value: object) -> str:
    return repr(shown(value)) if isinstance(value, str) else shown(repr(value))


_SWITCH = f"{PREFIX}ENABLED"
_logged: set[str] = set()

# Variables of the repository's tools, and of Collectors.
_NOT_SETTINGS = frozenset({"AI_OTEL_CACHE", "AI_OTEL_TEST_ALL"}) | COLLECTOR_VARIABLES


@dataclass(frozen=True, slots=True)
class Environment:
    """Variables that are no settings, read here so that no other module needs `os.environ`."""

    otel: Mapping[str, str]
    """The SDK's variables, `OTEL_*`."""
    pod: Mapping[str, str]
    """Values of the Kubernetes downward API, by resource attribute."""
    variables: Mapping[str, str] = field(repr=False)
    """All variables, for the checks of an engine's adapter. Not in the representation: they may hold secrets."""
    api_server: tuple[str, int] | None = None
    """Host and port of the Kubernetes API server, inside a pod."""

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> Environment:
        """Read the environment."""
        environment = os.environ if environment is None else environment
        return cls(
            otel={name: value for name, value in environment.items() if name.startswith("OTEL_")},
            pod=_pod(environment),
            variables=dict(environment),
            api_server=_api_server(environment),
        )


def _api_server(environment: Mapping[str, str]) -> tuple[str, int] | None:
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    return (host, int(port)) if host and port.isdecimal() and len(port) <= 5 else None


def _pod(environment: Mapping[str, str]) -> dict[str, str]:
    in_pod = "KUBERNETES_SERVICE_HOST" in environment
    pod = {}
    for attribute, names in DOWNWARD_API.items():
        candidates = (*names, *_COMMON_NAMES.get(attribute, ())) if in_pod else names
        value = next((environment[name] for name in candidates if _is_given(name, environment)), None)
        if value is not None:
            pod[attribute] = value
    return pod


def _is_given(name: str, environment: Mapping[str, str]) -> bool:
    value = environment.get(name, "")
    if is_resolved(value):
        return bool(value)
    if (said := f"{name}={_quoted(value)}") not in _logged:
        _logged.add(said)
        log.warning("ai-otel: %s is invalid: %s; it is left out", said, STEP)
    return False


DOWNWARD_API: Mapping[str, tuple[str, ...]] = {
    "k8s.pod.name": ("K8S_POD_NAME", "OTEL_RESOURCE_ATTRIBUTES_POD_NAME"),
    "k8s.pod.uid": ("K8S_POD_UID", "OTEL_RESOURCE_ATTRIBUTES_POD_UID"),
    "k8s.pod.ip": ("K8S_POD_IP",),
    "k8s.namespace.name": ("K8S_NAMESPACE_NAME", "OTEL_RESOURCE_ATTRIBUTES_POD_NAMESPACE"),
    "k8s.node.name": ("K8S_NODE_NAME", "OTEL_RESOURCE_ATTRIBUTES_NODE_NAME"),
    "k8s.container.name": ("K8S_CONTAINER_NAME",),
}
"""Resource attribute → variables set by `fieldRef` in a pod's manifest: those of ai-otel, then of the Operator."""

# Names that other manifests use. Outside a pod they may mean anything.
_COMMON_NAMES: Mapping[str, tuple[str, ...]] = {
    "k8s.pod.name": ("POD_NAME",),
    "k8s.pod.uid": ("POD_UID",),
    "k8s.pod.ip": ("POD_IP",),
    "k8s.namespace.name": ("POD_NAMESPACE",),
    "k8s.node.name": ("NODE_NAME",),
}
