"""
Identity of the process: service, host, process, pod and engine.

What the user set always stands, but for `service.instance.id`, which also sets the processes of one server apart.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import uuid
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Any

from ai_otel import semconv
from ai_otel.hooks.guard import Guard
from ai_otel.inputs.instance import own_instance
from ai_otel.inputs.otel import readable
from ai_otel.settings import Environment
from ai_otel.version import __version__

with readable():
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource, get_aggregated_resources


def build(
    environment: Environment,
    engine: str | None = None,
    engine_version: str | None = None,
    *,
    forked: bool = False,
    service: str | None = None,
    instance: str | None = None,
) -> Resource:
    """
    The resource of this process; of a `service`, and an `instance` of it, where it knows better than its engine.

    Precedence: `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`, then the detectors that the user chose, then
    Kubernetes' downward API, then what the process knows of itself. `forked`: its parent may export too.
    """
    with readable("resource") as variables:
        user: dict[str, Any] = dict(OTELResourceDetector().detect().attributes)
        detected = _detect(variables.get("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", ""))
    own = {**_sdk(), **_process(), **environment.pod, **_engine(engine, engine_version)}
    own[semconv.SERVICE_NAME] = service or engine or "ai-otel"
    if "k8s.namespace.name" in environment.pod:
        own[semconv.SERVICE_NAMESPACE] = environment.pod["k8s.namespace.name"]
    pod = {**environment.pod, **{key: str(user[key]) for key in _NAMES if key in user}}
    given = user.get(semconv.SERVICE_INSTANCE_ID) or instance or _container(pod)
    # A caller that knows its instance is alone. What a manifest or a user sets is the same for all workers of a server.
    alone = instance is not None or given is None
    user[semconv.SERVICE_INSTANCE_ID] = str(given or uuid.uuid4()) if alone else own_instance(str(given), forked=forked)
    return Resource({**own, **detected, **user})


def _detect(names: str) -> Mapping[str, Any]:
    """What the detectors know that the user chose, but for the name and the random id that the SDK makes up."""
    wanted = [name.strip() for name in names.split(",")]
    entries = {entry.name: entry for entry in entry_points(group="opentelemetry_resource_detector")} if names else {}
    chosen = list(entries) if "*" in wanted else [name for name in wanted if name in entries]
    made = (_detector(entries[name]) for name in chosen if name not in ("otel", "service_instance"))
    detectors = [detector for detector in made if detector is not None]
    if not detectors:
        return {}
    try:
        found = get_aggregated_resources(detectors, Resource.get_empty()).attributes
    except RuntimeError:
        # The SDK runs detectors in an executor, which takes no more work once the interpreter shuts down: a script that
        # ends right after its first request still gets its telemetry out.
        return {}
    return {
        key: value for key, value in found.items() if key not in (semconv.SERVICE_NAME, semconv.SERVICE_INSTANCE_ID)
    }


def _detector(entry: EntryPoint) -> Any:
    advice = "Take it out of OTEL_EXPERIMENTAL_RESOURCE_DETECTORS, or install what it needs."
    return Guard(f"resource detector {entry.name}", alone=True, advice=advice)(lambda: entry.load()())  # noqa: PLW0108 - both calls may fail


def _sdk() -> dict[str, str]:
    return {
        semconv.TELEMETRY_SDK_LANGUAGE: "python",
        semconv.TELEMETRY_SDK_NAME: "opentelemetry",
        semconv.TELEMETRY_SDK_VERSION: version("opentelemetry-sdk"),
    }


def _process() -> dict[str, str | int]:
    return {
        semconv.TELEMETRY_DISTRO_NAME: "ai-otel",
        semconv.TELEMETRY_DISTRO_VERSION: __version__,
        semconv.HOST_NAME: socket.gethostname(),
        semconv.HOST_ARCH: {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        semconv.PROCESS_PID: os.getpid(),
        semconv.PROCESS_EXECUTABLE_NAME: Path(sys.executable).name,
        semconv.PROCESS_RUNTIME_NAME: sys.implementation.name,
        semconv.PROCESS_RUNTIME_VERSION: platform.python_version(),
    }


def _engine(engine: str | None, version: str | None) -> dict[str, str]:
    known = {semconv.AI_OTEL_ENGINE_NAME: engine, semconv.AI_OTEL_ENGINE_VERSION: version}
    return {key: value for key, value in known.items() if value is not None}


_NAMES = ("k8s.namespace.name", "k8s.pod.name", "k8s.container.name")


def _container(pod: Mapping[str, str]) -> str | None:
    """`<namespace>.<pod>.<container>` as the conventions ask, where the manifest names all three."""
    names = [pod.get(key) for key in _NAMES]
    return ".".join(name for name in names if name) if all(names) else None
