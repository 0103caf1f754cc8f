"""The pages beside the code: what they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ai_otel.record import Outcome

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "docs" / name for name in ("architecture.md", "safety.md", "glossary.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)]*)\)", page.read_text()):
        target = page.parent / link if link else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_named_file_of_the_package_exists(page: Path) -> None:
    named = set(re.findall(r"`([\w/]+\.(?:py|json|pth))`", page.read_text()))
    there = [path.as_posix() for path in (ROOT / "src").rglob("*") if path.is_file()]
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in there)] == []


def test_the_layers_that_are_drawn_are_those_that_are_checked() -> None:
    (drawn,) = re.findall(r"```\n( cli .*?)```", (ROOT / "docs/architecture.md").read_text(), flags=re.DOTALL)
    (checked,) = re.findall(r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    layers = re.findall(r'"(.*)"', checked)
    assert [set(re.findall(r"\w+", line)) for line in drawn.splitlines()] == [
        set(re.findall(r"\w+", layer)) for layer in layers
    ]


def test_every_outcome_is_in_the_pages() -> None:
    for name in ("architecture.md", "glossary.md"):
        text = (ROOT / "docs" / name).read_text()
        assert [outcome.value for outcome in Outcome if outcome.value not in text] == []
