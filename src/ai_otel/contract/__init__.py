"""The compiled contract, `schema/contract.json`, as the commands read it."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any, TypedDict


class Use(TypedDict):
    """How one attribute is used somewhere: `required`, `conditionally_required`, `recommended` or `opt_in`."""

    level: str


class Attribute(TypedDict, total=False):
    """One attribute; `brief` and `own` only where the name is ours, `members` where its values are a closed set."""

    type: str
    brief: str
    own: bool
    members: list[str]


class _Metric(TypedDict):
    name: str
    subject: str
    instrument: str
    unit: str
    brief: str
    note: str
    prometheus: str
    attributes: dict[str, Use]


class Metric(_Metric, total=False):
    """One common metric; histograms have `buckets`."""

    buckets: list[float] | None


class Span(TypedDict):
    """One kind of span."""

    id: str
    name: str
    kinds: list[str]
    brief: str
    attributes: dict[str, Use]


class _Page(TypedDict):
    path: str
    needs: str
    absent: str


class Page(_Page, total=False):
    """The engine's own metrics page: where, which flag it needs, and what it means when it is empty."""

    port: int


class _Native(TypedDict):
    native: str
    to: str


class Native(_Native, total=False):
    """One native metric of an engine's page and the common metric it becomes."""

    meaning: str
    needs: str
    versions: str
    unless: str
    set: dict[str, str]
    labels: dict[str, Any]


# Not a class: `from` is a word of Python's own.
_Measured = TypedDict("_Measured", {"metric": str, "from": str})


class Measured(_Measured, total=False):
    """One common metric that the library measures inside the engine, and from what."""

    needs: str


class _Unmapped(TypedDict):
    natives: list[str]
    why: str


class Unmapped(_Unmapped, total=False):
    """Native metrics that become nothing, and why."""

    needs: str


class _Inventory(TypedDict):
    version: str


class _Kind(TypedDict, total=False):
    kind: str
    source: str


class Engine(_Kind):
    """What the contract says of one engine, or of an exporter: `kind` and `source` say which, and how it is read."""

    title: str
    page: Page
    inventory: _Inventory
    metrics: list[Native]
    library: list[Measured]
    unmapped: list[Unmapped]


class Contract(TypedDict):
    """Every name that we emit, and where it comes from in each engine."""

    attributes: dict[str, Attribute]
    metrics: list[Metric]
    spans: list[Span]
    resource: dict[str, Use]
    engines: dict[str, Engine]


@functools.cache
def load() -> Contract:
    """Read it, once."""
    contract: Contract = json.loads((files("ai_otel") / "schema" / "contract.json").read_text(encoding="utf-8"))
    return contract
