"""Whether ai-otel is active: the switch, the entry points, and what disables them."""

from __future__ import annotations

import importlib.util
import os
import re
import site
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from ai_otel import activation
from ai_otel.doctor.finding import Finding, Level
from ai_otel.doctor.logs import captured_messages
from ai_otel.engines.vllm.activation import blocked
from ai_otel.inputs.collector_variables import COLLECTOR_VARIABLES
from ai_otel.inputs.documents import DocumentError, read_text
from ai_otel.inputs.otel import readable
from ai_otel.inputs.shown import shown
from ai_otel.settings import Environment, Settings


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the environment says, and what is wrong with it."""

    settings: Settings
    environment: Environment
    complaints: tuple[str, ...]
    run_active: bool = False
    """The directory of `ai-otel run` is on the path."""
    pid: int | None = None
    """The process it belongs to, where it is not this one."""

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None, pid: int | None = None) -> Configuration:
        """Read it as the library does; `None` is this process's environment."""
        with captured_messages("ai_otel") as messages:
            settings, variables = Settings.from_environment(environment), Environment.read(environment)
        complaints = tuple(message.removeprefix("ai-otel: ") for message in messages)
        path = sys.path if environment is None else environment.get("PYTHONPATH", "").split(os.pathsep)
        return cls(settings, variables, complaints, activation.DIRECTORY in path, pid)


def check_switch(configuration: Configuration, engines: frozenset[str]) -> Iterator[Finding]:
    """The switch, the entry points, then everything that disables them."""
    yield _switched(configuration)
    yield from _entry_points(configuration, vllm="vllm" in engines)
    if "vllm" in engines:
        yield from _disabled_by_vllm(configuration.environment)
    for complaint in configuration.complaints:
        named = re.search(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+", complaint)
        yield Finding("switch", named[0] if named else "settings", Level.WRONG, complaint)
    for name in sorted(COLLECTOR_VARIABLES & configuration.environment.variables.keys()):
        yield Finding("switch", name, Level.NOTE, "read by a Collector only, not by the library")
    yield from _signals(configuration)
    yield from _config_file(configuration.environment.otel.get("OTEL_CONFIG_FILE"))


def _switched(configuration: Configuration) -> Finding:
    name, level = "AI_OTEL_ENABLED", Level.OK
    if configuration.settings.enabled:
        return Finding(
            "switch", name, level, "on: active in every Python process that inherits it", details={"on": True}
        )
    if configuration.pid is not None:
        says = "was not set for this process: it is observed only if its own code calls ai_otel.instrument()"
        next_step = "Start it with `ai-otel run -- …`, or with AI_OTEL_ENABLED=true."
        return Finding("switch", name, Level.WRONG, says, next_step, {"on": False})
    says = "not set here; `ai-otel run` sets it for the server, and ai_otel.instrument() needs no switch"
    return Finding("switch", name, Level.NOTE, says, details={"on": False})


def _entry_points(configuration: Configuration, *, vllm: bool) -> Iterator[Finding]:
    """The entry points; one is enough."""
    if configuration.run_active:
        yield Finding("switch", "ai-otel run", Level.OK, "active in every Python process below it")
        return
    yield _pth()
    if vllm and not entry_points(group="vllm.general_plugins", name="ai_otel"):
        says = "the plug-in is not in this environment's metadata: it does not activate vLLM's processes"
        yield Finding("switch", "vllm plug-in", Level.NOTE, says, "Use `ai-otel run`, or pip install ai-otel.")


def _pth() -> Finding:
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    found = [str(path) for folder in folders if (path := Path(folder) / "ai_otel.pth").exists()]
    if found:
        return Finding("switch", "ai_otel.pth", Level.OK, f"in place: {found[0]}", details={"paths": found})
    says = "is in no site-packages: AI_OTEL_ENABLED alone does nothing at the start of an interpreter"
    next_step = "Use `ai-otel run`, or install the wheel."
    return Finding("switch", "ai_otel.pth", Level.NOTE, says, next_step, {"paths": []})


def _disabled_by_vllm(environment: Environment) -> Iterator[Finding]:
    for sentence in blocked(environment.variables):
        subject = "VLLM_PLUGINS" if sentence.startswith("VLLM_PLUGINS") else "VLLM_USE_RUST_FRONTEND"
        yield Finding("switch", subject, Level.WRONG, sentence)


def _signals(configuration: Configuration) -> Iterator[Finding]:
    settings, otel = configuration.settings, configuration.environment.otel
    for signal, on in (("traces", settings.traces), ("metrics", settings.metrics)):
        if not on:
            yield Finding("switch", f"AI_OTEL_{signal.upper()}", Level.NOTE, f"off: there are no {signal}")
    if otel.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        says = "true: the OpenTelemetry SDK records nothing at all"
        yield Finding("switch", "OTEL_SDK_DISABLED", Level.WRONG, says, "Unset it.")
    if otel.get("OTEL_TRACES_SAMPLER", "").strip() in ("always_off", "parentbased_always_off"):
        says = f"{shown(otel['OTEL_TRACES_SAMPLER'])}: requests without a sampled parent have no span"
        yield Finding("switch", "OTEL_TRACES_SAMPLER", Level.WRONG, says, "Unset it, or set parentbased_always_on.")
    left_out = {name.strip() for name in otel.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")}
    if left_out & {"ai_otel", "*"}:
        says = "disables ai-otel under opentelemetry-instrument"
        yield Finding(
            "switch", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", Level.NOTE, says, "Take ai_otel and * out of it."
        )


def _config_file(path: str | None) -> Iterator[Finding]:
    if not path:
        return
    name = "OTEL_CONFIG_FILE"
    try:
        read_text(Path(path))
    except DocumentError as error:
        next_step = "Correct the path; until then the OTEL_* variables decide."
        yield Finding("switch", name, Level.WRONG, f"{shown(path)} cannot be read: {error}", next_step)
        return
    if importlib.util.find_spec("opentelemetry.configuration") is None:
        says = f"{shown(path)} is not read: the package that reads it is not installed"
        yield Finding("switch", name, Level.WRONG, says, "pip install 'opentelemetry-sdk[file-configuration]'")
        return
    with readable():  # the SDK fails when it is imported with a value that it cannot read
        finding = _loaded(name, path)
    yield finding


def _loaded(name: str, path: str) -> Finding:
    from opentelemetry.configuration import ConfigurationError, load_config_file

    try:
        load_config_file(path)
    except (ConfigurationError, ValueError, RecursionError) as error:
        says = f"{shown(path)} is no valid configuration: {shown(' '.join(str(error).split()))}"
        return Finding("switch", name, Level.WRONG, says, "Correct it; until then the OTEL_* variables decide.")
    return Finding("switch", name, Level.OK, f"{shown(path)} decides where telemetry goes")
