"""Every recorded endpoint, changed in every way that a label, a type or a family can be: the same value, or none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ai_otel.contract import load
from harness.collector.mutations import Mutation, mutations, wrong
from harness.collector.pages import ManyPages, Page

pytestmark = pytest.mark.requires(part="collector")

ENGINES = Path(__file__).parents[1] / "engines"
CONTRACT = load()
RECORDED = {
    f"{name}-{page.stem}": (name, page.read_text())
    for name in sorted(CONTRACT.engines)
    for page in sorted((ENGINES / name).glob("page*.prom"))
}
MUTATIONS: dict[str, list[Mutation]] = {
    one: list(mutations(CONTRACT.engines[engine], text)) for one, (engine, text) in RECORDED.items()
}
SKIPPED = "ai_otel.source.skipped "


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> ManyPages:
    """Each page is read once; the Collector spreads the first reads over the interval."""
    changed = {
        f"{one}.{mutation.name}": Page(RECORDED[one][0], mutation.text)
        for one, found in MUTATIONS.items()
        for mutation in found
    }
    recorded = {one: Page(engine, text) for one, (engine, text) in RECORDED.items()}
    return ManyPages({**recorded, **changed}, tmp_path_factory.mktemp("mutations"), times=1, interval="25s")


def points(pages: ManyPages, one: str) -> list[str]:
    return [line for line in pages.lines(one) if not line.startswith(SKIPPED)]


@pytest.mark.fault(
    "collector",
    "a metrics endpoint swaps or loses types, loses a part of a sum, repeats a family, or has no value in a label",
    "each metric has the same value as before or is absent, never another",
)
@pytest.mark.parametrize("one", RECORDED)
def test_a_changed_page_gives_the_same_value_or_none(pages: ManyPages, one: str) -> None:
    before = points(pages, one)
    assert before
    found = {
        mutation.name: wrong(before, points(pages, f"{one}.{mutation.name}"), mutation.attribute)
        for mutation in MUTATIONS[one]
    }
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("one", RECORDED)
def test_a_changed_page_loses_nothing_in_silence(pages: ManyPages, one: str) -> None:
    """Of a common metric that is gone each source metric that is still there is named as skipped."""
    rows = CONTRACT.engines[RECORDED[one][0]]["metrics"]
    before = {line.split(" ")[0] for line in points(pages, one)}
    silent = {}
    for mutation in MUTATIONS[one]:
        lines = pages.lines(f"{one}.{mutation.name}")
        gone = before - {line.split(" ")[0] for line in lines}
        named = {line.partition("ai_otel.source.metric=")[2].partition("}")[0] for line in lines}
        on_page = set(re.findall(r"^([\w:]+?)(?:_bucket|_sum|_count)?[{ ]", mutation.text, re.MULTILINE))
        there = {row["to"] for row in rows if row["native"] in on_page}
        silent[mutation.name] = {
            name for name in gone & there if not named & {row["native"] for row in rows if row["to"] == name}
        }
    assert {name: metrics for name, metrics in silent.items() if metrics} == {}
