"""The mapping of one engine's own metrics, as `schema/engines/<engine>.yaml` and the compiled contract have it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypedDict

# UUIDs and serial numbers of devices that have none, and the largest numbers, which stand for none.
_ONLY_NO_VALUE = (
    *("n/?a", "undefined", "(gpu-|mig-)?0{8}-0{4}-0{4}-0{4}-0{12}", "0{8,}"),
    *("4294967295", "18446744073709551615"),
)
NO_VALUE = (*_ONLY_NO_VALUE, r"\s*", "none", "null", "nil", "unknown")
"""What a label says, in any engine, that has no value: regular expressions."""

NO_KIND = f"(?i)^({'|'.join(_ONLY_NO_VALUE)})$"
"""The same of a label that names a kind: there `none` and `unknown` may be kinds themselves."""


def no_value(more: Sequence[str] = ()) -> str:
    """Return the regular expression of the texts that mean "no value"; `more` are those of one label."""
    return f"(?i)^({'|'.join((*NO_VALUE, *map(re.escape, more)))})$"


class _Page(TypedDict):
    path: str
    needs: str
    absent: str


class MetricsEndpoint(_Page, total=False):
    """The engine's metrics endpoint: where it is, which flag it needs, and what its absence means."""

    port: int


class _Mapping(TypedDict):
    native: str
    to: str


class MetricMapping(_Mapping, total=False):
    """One source metric of an engine and the common metric that it becomes; docs/engine-mapping.md has the format."""

    meaning: str
    needs: str
    versions: str
    unless: str
    set: dict[str, str]
    labels: dict[str, Any]
    factor: Any
    value: dict[str, Any]
    combine: str
    requires: list[str | list[str]]
    newest: list[str]
    part: str
    monotonic: bool
    where: dict[str, Any]
    drop_values: list[Any]
    drop_above: float
    merge: str


# Not a class: `from` is a Python keyword.
_Library = TypedDict("_Library", {"metric": str, "from": str})


class LibraryMetric(_Library, total=False):
    """One common metric that the library measures inside the engine, and its source."""

    needs: str


class _Unmapped(TypedDict):
    natives: list[str]
    why: str


class Unmapped(_Unmapped, total=False):
    """Source metrics that become no common metric, and the reason."""

    needs: str


class _Inventory(TypedDict):
    version: str
    file: str


class _Engine(TypedDict, total=False):
    kind: str
    source: str
    scope: str
    why_no_hooks: str
    configure: list[Any]
    only: dict[str, Any]


class Engine(_Engine):
    """The mapping of one engine or exporter. `kind` is `exporter` for the latter, `source` is `otlp` if it pushes."""

    engine: str
    title: str
    python_hooks: bool
    page: MetricsEndpoint
    inventory: _Inventory
    attributes: dict[str, Any]
    labels: dict[str, Any]
    ignore: list[str]
    metrics: list[MetricMapping]
    library: list[LibraryMetric]
    unmapped: list[Unmapped]
