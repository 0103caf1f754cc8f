"""Who is speaking: service, host, process, pod and engine. What the user set always stands."""

from __future__ import annotations

import multiprocessing
import os
import platform
import socket
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from ai_otel import semconv
from ai_otel.settings import Environment
from ai_otel.version import __version__


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
    user: dict[str, Any] = dict(OTELResourceDetector().detect().attributes)
    own = {**_process(), **environment.pod, **_engine(engine, engine_version)}
    own[semconv.SERVICE_NAME] = service or engine or "ai-otel"
    pod = {**environment.pod, **{key: str(user[key]) for key in _NAMES if key in user}}
    container = _container(pod)
    own[semconv.SERVICE_INSTANCE_ID] = instance or _instance(container, forked=forked)
    if container is not None and user.get(semconv.SERVICE_INSTANCE_ID) == container:
        # What the OpenTelemetry Operator writes for a container, it writes for all workers of it alike.
        del user[semconv.SERVICE_INSTANCE_ID]
    if "k8s.namespace.name" in environment.pod:
        own[semconv.SERVICE_NAMESPACE] = environment.pod["k8s.namespace.name"]
    # The SDK makes up a name and a random id where it is given none.
    made_up = (semconv.SERVICE_NAME, semconv.SERVICE_INSTANCE_ID)
    detected = {key: value for key, value in _detect().items() if key not in made_up}
    return Resource({**own, **detected, **user})


def _detect() -> Mapping[str, Any]:
    try:
        return Resource.create().attributes
    except RuntimeError:
        # The SDK runs detectors in an executor, which takes no more work once the interpreter shuts down: a script that
        # ends right after its first request still gets its telemetry out.
        return {}


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


def _instance(container: str | None, *, forked: bool) -> str:
    """
    The container, where it is known; else a random id.

    Workers of one container are several sources of the same series, so a child process adds its own name, or its number
    where it was not given a name.
    """
    if container is None:
        return str(uuid.uuid4())
    worker = multiprocessing.current_process().name
    if worker != "MainProcess":
        return f"{container}.{worker}"
    return f"{container}.{os.getpid()}" if forked else container
