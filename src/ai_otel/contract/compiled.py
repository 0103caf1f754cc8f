"""Loads the compiled contract, `schema/contract.json`: the wheel has no YAML parser."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from ai_otel.contract.model import Attribute, Contract, Metric, Span, Use

Tree = Mapping[str, Any]


@functools.cache
def read() -> Tree:
    """Return the JSON document of the wheel."""
    tree: Tree = json.loads((files("ai_otel") / "schema" / "contract.json").read_text(encoding="utf-8"))
    return tree


@functools.cache
def load() -> Contract:
    """Return the contract of the wheel."""
    return from_tree(read())


def from_tree(tree: Tree) -> Contract:
    """Return the contract of a JSON document."""
    return Contract(
        attributes={key: _attribute(key, row) for key, row in tree["attributes"].items()},
        metrics=tuple(_metric(row) for row in tree["metrics"]),
        spans=tuple(_span(row) for row in tree["spans"]),
        resource=_uses(tree["resource"]),
        scopes=tuple(tree["scopes"]),
        engines=tree["engines"],
        renames=tree["renames"],
        deprecated=frozenset(tree["deprecated"]),
    )


def _attribute(key: str, row: Tree) -> Attribute:
    return Attribute(
        key,
        row["type"],
        row.get("brief", ""),
        tuple(row.get("members", ())),
        tuple(row.get("examples", ())),
        row.get("own", False),
    )


def _uses(rows: Tree) -> tuple[Use, ...]:
    return tuple(
        Use(key, row["level"], row.get("condition", ""), row.get("sampling", False)) for key, row in rows.items()
    )


def _metric(row: Tree) -> Metric:
    same = ("name", "constant", "subject", "scope", "instrument", "unit", "value", "brief", "note", "prometheus")
    buckets = None if row["buckets"] is None else tuple(row["buckets"])
    return Metric(**{name: row[name] for name in same}, buckets=buckets, uses=_uses(row["attributes"]))


def _span(row: Tree) -> Span:
    return Span(row["id"], row["role"], row["name"], tuple(row["kinds"]), row["brief"], _uses(row["attributes"]))
