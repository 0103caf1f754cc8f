"""Backstage's files name every page once, and are entities that its catalog takes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CATALOGS = (ROOT / "catalog-info.yaml", ROOT / "collector-config/kubernetes/backstage/catalog-info.yaml")
NAME = re.compile(r"[a-zA-Z0-9]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?")
NEEDED = {"Component": {"type", "lifecycle", "owner"}, "System": {"owner"}}


def entities(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pages(nav: list[dict[str, Any]]) -> Iterator[str]:
    """Every page of a part of the navigation, however deep."""
    for entry in nav:
        for target in entry.values():
            if isinstance(target, str):
                yield target
            else:
                yield from pages(target)


def test_every_page_is_in_the_navigation_once() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    docs = ROOT / site["docs_dir"]
    there = Counter(str(path.relative_to(docs)) for path in docs.rglob("*.md"))
    assert Counter(pages(site["nav"])) == there


@pytest.mark.parametrize("path", CATALOGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_catalog_takes_every_entity(path: Path) -> None:
    for entity in entities(path):
        assert entity["apiVersion"] == "backstage.io/v1alpha1"
        assert NEEDED[entity["kind"]] <= set(entity["spec"])
        assert len(entity["metadata"]["name"]) <= 63
        for name in (entity["metadata"]["name"], entity["spec"]["owner"]):
            assert NAME.fullmatch(name)


def test_what_an_entity_belongs_to_is_in_the_catalog() -> None:
    found = [entity for path in CATALOGS for entity in entities(path)]
    systems = {entity["metadata"]["name"] for entity in found if entity["kind"] == "System"}
    assert {entity["spec"]["system"] for entity in found if "system" in entity["spec"]} == systems


def test_the_pages_of_a_component_are_where_it_says() -> None:
    """`dir:.` is the directory of the entity's own file, and needs a mkdocs.yml there."""
    (component,) = (each for each in entities(ROOT / "catalog-info.yaml") if each["kind"] == "Component")
    kind, _, place = component["metadata"]["annotations"]["backstage.io/techdocs-ref"].partition(":")
    assert kind == "dir"
    assert (ROOT / place / "mkdocs.yml").is_file()
