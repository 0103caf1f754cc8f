"""
How a fragment is merged into a configuration.

A fragment is written like any Collector configuration, with three additions:

* lists of components (a pipeline's receivers, processors, exporters; the service's extensions) are joined, not
  replaced; an entry `-name` takes that one out;
* a key with a `*` stands for every key of that pattern that is already there;
* `null` takes a key out.

Everything else is the Collector's own rule: maps are merged, values and other lists replaced.

Fragments do not order processors: `ORDER` does, in every pipeline alike.
"""

from __future__ import annotations

from copy import deepcopy
from fnmatch import fnmatchcase
from typing import Any

Tree = dict[str, Any]

JOINED = {"extensions", "receivers", "processors", "exporters"}

ORDER = (
    "memory_limiter",
    "filter/empty",
    "filter/values",
    "filter/labels",
    # A scrape: its engine, the engines' normalisers, what remains of it.
    "metric_start_time",
    "transform/page_begin",
    "groupbyattrs/derived",
    "transform/*",
    "filter/page",
    "groupbyattrs/page",
    "transform/page_end",
    # Who sends, while the connection is still that of the first sender.
    "transform/identity",
    "k8s_attributes",
    "filter/unknown_pod",
    "transform/container",
    # Current names, before anything reads a name.
    "transform/names",
    # What must not leave.
    "transform/redaction",
    "redaction/*",
    "transform/redaction_end",
    # What must not grow.
    "transform/tenants",
    "filter/cardinality",
    "transform/cardinality",
    # What needs everything.
    "tail_sampling",
    "delta_to_cumulative",
)


def merge(tree: Tree, fragment: Tree) -> Tree:
    """Return the tree with the fragment merged into it; neither is changed."""
    result = deepcopy(tree)
    _merge(result, deepcopy(fragment), ())
    for pipeline in result.get("service", {}).get("pipelines", {}).values():
        if "processors" in pipeline:
            pipeline["processors"].sort(key=rank)
    return result


def rank(processor: str) -> tuple[int, str]:
    """Where a processor belongs; those of one place (the engines) are in the order of their names."""
    exact = [place for place, pattern in enumerate(ORDER) if pattern == processor]
    if exact:
        return exact[0], processor
    return next(place for place, pattern in enumerate(ORDER) if fnmatchcase(processor, pattern)), processor


def _merge(tree: Tree, fragment: Tree, path: tuple[str, ...]) -> None:
    for key, value in fragment.items():
        for name in _matching(tree, key):
            if value is None:
                tree.pop(name, None)
            elif isinstance(value, dict):
                below = tree.get(name)
                if not isinstance(below, dict):
                    below = tree[name] = {}
                _merge(below, value, (*path, name))
            elif isinstance(value, list) and _is_joined(path, name):
                tree[name] = _joined(tree.get(name) or [], value)
            else:
                tree[name] = value


def _matching(tree: Tree, key: str) -> list[str]:
    return [name for name in tree if fnmatchcase(name, key)] if "*" in key else [key]


def _is_joined(path: tuple[str, ...], name: str) -> bool:
    return name in JOINED and path[:1] == ("service",)


def _joined(present: list[str], more: list[str]) -> list[str]:
    removed = {name[1:] for name in more if name.startswith("-")}
    added = [name for name in more if not name.startswith("-")]
    return [name for name in dict.fromkeys([*present, *added]) if name not in removed]
