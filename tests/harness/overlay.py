"""A Python environment that is another one's, except for what is left out or put in its place; nothing is copied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import environments

REPLACED = ("ai_otel",)
NAMESPACES = {"protobuf": "google"}
"""Distribution → the namespace at the top that it is in, where its name does not begin with it."""


def overlaid(python: Path, place: Path, instead: Sequence[str] = ()) -> Path:
    """The interpreter of a new environment with the packages of `python`'s but ai-otel; `instead` as pip names it."""
    environments.run_uv("venv", "--quiet", "--python", python, place)
    (below,) = python.parents[1].glob("lib/python*/site-packages")
    (here,) = place.glob("lib/python*/site-packages")
    for entry in below.iterdir():
        if not entry.name.startswith(REPLACED) and not (here / entry.name).exists():
            (here / entry.name).symlink_to(entry)
    if instead:
        _replace(place, here, instead)
    return place / "bin/python"


def _replace(place: Path, here: Path, instead: Sequence[str]) -> None:
    """Install these in the overlay alone: what they replace is behind links, which are taken away, not followed."""
    for wanted in instead:
        name = wanted.partition("==")[0].replace("-", "_")
        for entry in here.glob(f"{name}-*.dist-info"):
            entry.unlink()
        # Several distributions share a namespace: the overlay's has what is installed into it, and nothing else.
        top = here / NAMESPACES.get(name, name.partition("_")[0])
        if top.is_symlink():
            top.unlink()
    environments.run_uv("pip", "install", "--quiet", "--no-deps", "--python", place / "bin/python", *instead)
