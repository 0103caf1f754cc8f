"""Writes what the Helm chart takes from the parts: it can neither run Python nor read outside of its directory."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ai_otel.collector import fragments as parts
from ai_otel.collector.compose import TAKES_WHAT_IS_THERE
from ai_otel.collector.merge import JOINED, ORDER
from ai_otel.collector.text import dumped
from ai_otel.settings import PREFIX, Settings
from generator import chart_values
from generator.model import ROOT, Contract, Tree

HOME = "collector-config/kubernetes"
FILES = f"{HOME}/chart/files/generated"

Render = Callable[[Contract], str]

VARIABLE = re.compile(r"\$\{env:([A-Z0-9_]+)(?::-([^}]*))?\}")
# What a value is, by the shape of its default; the first that fits.
KINDS = {
    "true or false": re.compile(r"true|false"),
    "duration": re.compile(r"[0-9]+(ms|s|m|h)"),
    "size": re.compile(r"[0-9]+[KMG]i?B"),
    "number": re.compile(r"[0-9]+([.][0-9]+)?"),
}


def outputs(contract: Contract) -> dict[str, Render]:
    """Every generated file of the chart, to be written after all that it is made of."""
    copies = {
        f"{FILES}/{kind}/{name}.yaml": functools.partial(_copy, kind, name)
        for kind in parts.KINDS
        for name in (contract.engines if kind == "engines" else _written(kind))
    }
    return {f"{HOME}/chart/values.schema.json": chart_values.render, f"{FILES}/index.yaml": _index, **copies}


def orphans(contract: Contract, root: Path = ROOT) -> Iterator[Path]:
    """Copies of parts that are there no more."""
    written = outputs(contract)
    for kind in parts.KINDS:
        folder = root / FILES / kind
        yield from (path for path in folder.glob("*.yaml") if path.relative_to(root).as_posix() not in written)


def _written(kind: str) -> tuple[str, ...]:
    return (*parts.ROLES, parts.COMMON, parts.PAGES) if kind == "roles" else parts.names(kind)


def _copy(kind: str, name: str, _: Contract) -> str:
    """A fragment without comments and anchors; long components are packed."""
    source = f"collector-config/{parts.path_of(kind, name).relative_to(parts.directory())}"
    return f"# Generated from {source} by `make generate`. Do not edit.\n{dumped(parts.load(kind, name), packed=True)}"


# ---------------------------------------------------------------- what the templates must know


def _index(contract: Contract) -> str:
    """The rules of merge.py and compose.py that are data, and every variable that a part reads."""
    tree = {
        "roles": list(parts.ROLES),
        "features": list(parts.names("features")),
        "backends": list(parts.names("backends")),
        "engines": {name: _page(contract, name) for name in parts.names("engines")},
        "defaultFeatures": list(parts.DEFAULT_FEATURES),
        "takesWhatIsThere": list(TAKES_WHAT_IS_THERE),
        "joined": sorted(JOINED),
        "order": list(ORDER),
        "settings": {
            **{kind: {name: _settings(kind, name) for name in _written(kind)} for kind in parts.KINDS},
            "library": _library(),
        },
    }
    return f"# Generated from the parts in collector-config/ by `make generate`. Do not edit.\n{dumped(tree)}"


def _page(contract: Contract, name: str) -> Tree:
    page = contract.engines[name]["page"]
    return {"port": page["port"], "path": page["path"]} if page.get("path") else {}


def _settings(kind: str, name: str) -> Tree:
    """Each variable of a part: its default, and the form of its values."""
    found: dict[str, dict[str, Any]] = {}
    for variable, default in VARIABLE.findall(parts.path_of(kind, name).read_text(encoding="utf-8")):
        shape = next((shape for shape, pattern in KINDS.items() if pattern.fullmatch(default)), "text")
        known = found.setdefault(variable, {"default": default, "is": shape})
        if known["default"] != default:
            known.update({"default": "", "is": "text"} if not default else {})
    return dict(sorted(found.items()))


def _library() -> Tree:
    """Each option of `ai-otel agent`, by its variable."""
    shapes = {bool: "true or false", int: "number", float: "number"}
    return {
        PREFIX + item.name.upper(): {
            "default": str(item.default).lower() if isinstance(item.default, (bool, int, float)) else "",
            "is": shapes.get(type(item.default), "text"),
        }
        for item in dataclasses.fields(Settings)
        if item.name.startswith(("gpu", "agent_"))
    }
