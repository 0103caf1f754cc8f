"""The fragments of configurations: in the wheel, or in `collector-config/` of a checkout."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import ai_otel

KINDS = ("roles", "engines", "features", "backends")
ROLES = ("sidecar", "agent", "gateway", "gateway_stateful", "cluster")
DEFAULT_FEATURES = ("limits", "persistence")
COMMON, PAGES = "common", "pages"


class FragmentError(ValueError):
    """The fragment is unknown or has no place in the role; the message lists the known ones."""


@functools.cache
def directory() -> Path:
    """The directory of the fragments."""
    package = Path(ai_otel.__file__).parent
    packed = package / "collector_config"
    return packed if packed.is_dir() else package.parents[1] / "collector-config"


def names(kind: str) -> tuple[str, ...]:
    """The names of the fragments of one kind."""
    if kind == "roles":
        return ROLES
    return tuple(sorted(path.stem for place in _places(kind) for path in place.glob("*.yaml")))


def path_of(kind: str, name: str) -> Path:
    """The file of a fragment."""
    if name not in names(kind) and (kind, name) not in {("roles", COMMON), ("roles", PAGES)}:
        raise FragmentError(f"there is no {kind[:-1]} {name}; there are {', '.join(names(kind))}")
    written, generated = (place / f"{name}.yaml" for place in _places(kind))
    return generated if kind != "roles" and generated.exists() else written


def _places(kind: str) -> tuple[Path, Path]:
    """Where fragments of one kind are written by hand, and where they are generated."""
    return directory() / kind, directory() / "generated" / kind


def load(kind: str, name: str) -> dict[str, Any]:
    """The content of a fragment."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
    fragment: dict[str, Any] = yaml.load(path_of(kind, name).read_text(encoding="utf-8"), loader)  # noqa: S506 - both are safe
    return fragment


def heading(kind: str, name: str) -> list[str]:
    """The lines of the comment at the start of a fragment: what it does, and the variables that it reads."""
    lines = []
    for line in path_of(kind, name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return lines
