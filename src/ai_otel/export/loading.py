"""The exporters that the `OTEL_*` variables name, loaded by their entry points."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from ai_otel.inputs.shown import shown

log = logging.getLogger("ai_otel")

PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
"""OTLP protocol -> entry point of its exporter."""


def exporter_names(signal: str, environment: Mapping[str, str]) -> list[str]:
    """The names in `OTEL_<SIGNAL>_EXPORTER`; `otlp` if it is unset or empty."""
    names = environment.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip() or "otlp"
    return [name for name in map(str.strip, names.split(",")) if name]


def otlp_protocol(signal: str, environment: Mapping[str, str]) -> str:
    """The OTLP protocol of a signal."""
    general = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    return environment.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", general)


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
