"""Packages that contradict each other, or that instrument the same engine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, entry_points, requires, version

from ai_otel.doctor.finding import Finding, Level
from ai_otel.hooks.point import in_range

_CORE = (
    "opentelemetry-api",
    "opentelemetry-sdk",
    "opentelemetry-proto",
    "opentelemetry-exporter-otlp",
    "opentelemetry-exporter-otlp-proto-common",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-exporter-otlp-proto-grpc",
)
"""Released together, and made for each other only in one version."""

_SAME_WORK: Mapping[str, str] = {
    "ddtrace": "hooks vLLM too when it runs under ddtrace-run: two sets of spans, and one of them Datadog's alone",
    "openlit": "wraps vLLM's LLM.generate too: offline calls get two spans",
}

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[.*?\])?\s*\(?(?P<bounds>[^;)]*)\)?(?P<marker>;.*)?")


def check_packages(otel: Mapping[str, str]) -> Iterator[Finding]:
    """What is installed, as far as telemetry is concerned."""
    yield _own_requirements()
    yield from _mixed_versions()
    yield from _protobuf()
    for kind in ("distro", "configurator"):
        yield from _several(kind, otel)
    yield from _same_work()
    yield from _span_per_chunk()
    yield from _early_prometheus(otel)


def installed(name: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def unmet(distribution: str) -> list[tuple[str, str, str]]:
    """Requirements of a distribution that what is installed does not meet: name, installed version, bounds."""
    found = []
    for text in requires(distribution) or ():
        match = _REQUIREMENT.match(text)
        # Requirements with a marker or an operator that needs more than comparing are left to the installer.
        if match is None or match["marker"] or re.search(r"[~!*]|===", match["bounds"]):
            continue
        present = installed(match["name"])
        if present is not None and not in_range(present, match["bounds"]):
            found.append((match["name"], present, match["bounds"].strip()))
    return found


def _own_requirements() -> Finding:
    sdk = installed("opentelemetry-sdk")
    try:
        broken = unmet("ai-otel")
    except PackageNotFoundError:
        says = f"{sdk}; whether that is new enough is not known, because ai-otel runs from its source"
        return Finding("packages", "opentelemetry-sdk", Level.NOTE, says, "pip install ai-otel", {"version": sdk})
    if not broken:
        return Finding("packages", "opentelemetry-sdk", Level.OK, f"{sdk}, new enough", details={"version": sdk})
    says = "; ".join(f"{name} {present} is installed, ai-otel needs {bounds}" for name, present, bounds in broken)
    wanted = " ".join(f"'{name}{bounds}'" for name, _, bounds in broken)
    return Finding("packages", "requirements", Level.WRONG, says, f"pip install {wanted}", {"version": sdk})


def _mixed_versions() -> Iterator[Finding]:
    found = {name: present for name in _CORE if (present := installed(name)) is not None}
    if len(set(found.values())) > 1:
        says = "versions differ: " + ", ".join(
            f"{name.removeprefix('opentelemetry-')} {v}" for name, v in found.items()
        )
        newest = found["opentelemetry-sdk"] if "opentelemetry-sdk" in found else max(found.values())
        next_step = "pip install " + " ".join(f"{name}=={newest}" for name, v in found.items() if v != newest)
        yield Finding("packages", "opentelemetry-*", Level.WRONG, says, next_step, {"versions": found})


def _protobuf() -> Iterator[Finding]:
    if installed("opentelemetry-proto") is None:
        return
    for name, present, bounds in unmet("opentelemetry-proto"):
        says = f"opentelemetry-proto needs {name}{bounds}, installed is {present}: its exporters may not load"
        next_step = f"pip install '{name}{bounds}', or a release of opentelemetry-proto that takes {present}."
        yield Finding("packages", name, Level.WRONG, says, next_step)


def _several(kind: str, otel: Mapping[str, str]) -> Iterator[Finding]:
    variable = f"OTEL_PYTHON_{kind.upper()}"
    names = sorted({entry.name for entry in entry_points(group=f"opentelemetry_{kind}")})
    if len(names) > 1 and not otel.get(variable):
        says = f"{', '.join(names)} are installed: under opentelemetry-instrument the first that is found wins"
        yield Finding("packages", variable, Level.WRONG, says, f"Set {variable} to one of them.", {"names": names})


def _same_work() -> Iterator[Finding]:
    for name, says in _SAME_WORK.items():
        present = installed(name)
        if present is not None:
            yield Finding("packages", name, Level.NOTE, f"{present}, {says}", "Keep one of the two on.")
    for entry in entry_points(group="vllm.stat_logger_plugins"):
        if entry.name != "ai_otel":
            says = f"{entry.value} follows vLLM's statistics too; both get them"
            yield Finding("packages", entry.name, Level.NOTE, says)


def _span_per_chunk() -> Iterator[Finding]:
    name = "opentelemetry-instrumentation-asgi"
    present = installed(name)
    if present is None:
        return
    says = f"{present}: where it is on, it makes one span for every streamed chunk"
    next_step = (
        'Give it exclude_spans=["receive", "send"]; under opentelemetry-instrument there is no variable for that, '
        "so set OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=asgi,fastapi,starlette."
    )
    yield Finding("packages", name, Level.NOTE, says, next_step)


def _early_prometheus(otel: Mapping[str, str]) -> Iterator[Finding]:
    if "prometheus" in otel.get("OTEL_METRICS_EXPORTER", ""):
        says = "prometheus imports prometheus_client early: an engine with several processes then exposes nothing"
        next_step = "Export OTLP to a Collector, and let Prometheus read from there."
        yield Finding("packages", "OTEL_METRICS_EXPORTER", Level.WRONG, says, next_step)
