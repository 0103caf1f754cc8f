"""The pinned versions of the engines, as source trees; where one is not in the cache, the reason and the next step."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator

import pytest

import sources

from .source_tree import SourceTree

EVERYTHING = os.environ.get("AI_OTEL_TEST_ALL", "") not in {"", "0"}


@pytest.fixture(autouse=True, scope="module")
def _no_garbage() -> Iterator[None]:
    """Millions of syntax nodes that all stay: the garbage collector would traverse them in vain."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def tree_of() -> Callable[[str, str], SourceTree]:
    """The tree of one version of an engine, read once a session; with everything asked for, fetched where missing."""
    trees: dict[tuple[str, str], SourceTree] = {}

    def tree(engine: str, version: str) -> SourceTree:
        if (engine, version) not in trees:
            if EVERYTHING:
                sources.ensure(engine)
            root = sources.SOURCES[engine].find(version)
            if root is None:
                pytest.skip(f"not all pinned sources of {engine} are in the cache; next: {sources.next_step(engine)}")
            trees[engine, version] = SourceTree(root, version)
        return trees[engine, version]

    return tree
