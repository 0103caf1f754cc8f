"""The exporters that the `OTEL_*` variables name, loaded by their entry points."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

from ai_otel.hooks.guard import Guard
from ai_otel.inputs.shown import shown

log = logging.getLogger("ai_otel")

PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
"""OTLP protocol -> entry point of its exporter."""
ADVICE = "Check the OTEL_* variables that it reads; `ai-otel doctor` shows what each exporter says."


def exporter_names(signal: str, environment: Mapping[str, str]) -> list[str]:
    """The names in `OTEL_<SIGNAL>_EXPORTER`; `otlp` if it is unset or empty."""
    names = environment.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip() or "otlp"
    return [name for name in map(str.strip, names.split(",")) if name]


def otlp_protocol(signal: str, environment: Mapping[str, str]) -> str:
    """The OTLP protocol of a signal."""
    general = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    return environment.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", general)


def named(signal: str, environment: Mapping[str, str]) -> Iterator[tuple[str, type[Any]]]:
    """Each exporter of a signal that can be loaded: its name in `OTEL_<SIGNAL>_EXPORTER`, and its class."""
    for name in exporter_names(signal, environment):
        if name == "none":
            continue
        group = f"opentelemetry_{signal}_exporter"
        entry = PROTOCOLS[otlp_protocol(signal, environment)] if name == "otlp" else name
        exporter = Guard(f"exporter {name}", alone=True, advice=ADVICE)(load, group, entry)
        if exporter is not None:
            yield name, exporter


_IMPORTED_BY_EXPORTS = ("encodings.idna", "netrc", "shlex", "stringprep")
"""
Modules that `requests` and `socket` import at their first use, which would be on the SDK's thread. A fork at that time
would copy an import lock that is never released.
"""


def load(group: str, name: str) -> type[Any] | None:
    """The exporter's class; `None`, and a line that says why, where there is none."""
    for entry in entry_points(group=group, name=name):
        try:
            loaded: type[Any] = entry.load()
        except ImportError as error:
            log.warning("ai-otel: exporter %s cannot be loaded: %s", shown(name), shown(error))
            return None
        for module in _IMPORTED_BY_EXPORTS:
            importlib.import_module(module)
        return loaded
    log.warning("ai-otel: no exporter is called %s in %s: is its package installed?", shown(name), group)
    return None
