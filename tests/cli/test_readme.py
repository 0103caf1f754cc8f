"""What README.md shows is true: its settings, its engines, its commands, its tree."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

import settings_table
from ai_otel.cli import COMMANDS
from ai_otel.contract import load
from ai_otel.engines import ENGINES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [body for named, body in fenced if named == language]


def test_the_settings_are_those_of_the_class() -> None:
    assert settings_table.rendered(README) == README, "run: python tools/settings_table.py"


def test_a_stale_table_is_found_and_rewritten(tmp_path, monkeypatch, capsys) -> None:
    page = tmp_path / "README.md"
    page.write_text(README.replace("| `AI_OTEL_ENABLED` | `false` |", "| `AI_OTEL_ENABLED` | `true` |"))
    monkeypatch.setattr(settings_table, "README", page)
    assert settings_table.main(["--check"]) == 1
    assert settings_table.main([]) == 0
    assert page.read_text() == README
    assert settings_table.main(["--check"]) == 0
    assert "python tools/settings_table.py" in capsys.readouterr().err


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_has_its_row_with_its_tested_versions(name: str) -> None:
    module, _, cls = ENGINES[name].adapter.partition(":")
    oldest, newest = getattr(importlib.import_module(module), cls).tested
    (table,) = re.findall(r"^## Engines\n(.*?)^## ", README, flags=re.MULTILINE | re.DOTALL)
    title = {"llama_cpp": "llama.cpp in Python"}.get(name) or load().engines[name]["title"]
    (row,) = [line for line in table.splitlines() if line.startswith("|") and title in line]
    assert f"| {oldest} to {newest} |" in row


def test_every_metric_that_is_named_exists() -> None:
    (section,) = re.findall(r"^\| about \| metrics \|\n(.*?)\n\n", README, flags=re.MULTILINE | re.DOTALL)
    named = set[str]()
    for row in section.splitlines()[1:]:
        stem = ""  # `.waiting` after `ai_otel.request.running` is short for `ai_otel.request.waiting`
        for name in re.findall(r"`([^`]+)`", row):
            named.add(stem + name if name.startswith(".") else name)
            stem = stem if name.startswith(".") else ".".join(name.split(".")[:2])
    assert named <= {metric.name for metric in load().metrics}


def test_every_command_that_is_shown_exists(ai_otel) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("ai-otel ")]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[1] in COMMANDS
        shown = ai_otel(words[1], "--help").stdout
        assert [flag for flag in words[2:] if flag.startswith("--") and flag not in (*shown.split(), "--")] == []


def test_the_tree_and_the_links_are_there() -> None:
    (tree,) = [block for block in blocks("") if block.startswith("src/ai_otel/")]
    folder = ""
    for line in tree.splitlines():
        path = line.split()[0]
        folder = "" if not line.startswith(" ") and not path.startswith("src") else "src/ai_otel/"
        inside = path if path.startswith("src") else folder + path
        assert (ROOT / inside).exists(), line
        assert path == "src/ai_otel/" or len(line.split()) > 1, f"{line} lacks its word"
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_module_at_the_top_is_in_the_tree() -> None:
    tree = "".join(blocks(""))
    hidden = {"__init__.py", "version.py", "py.typed", "__pycache__", "demo"}
    for path in (ROOT / "src/ai_otel").iterdir():
        assert path.name in hidden or f"  {path.name}{'/' if path.is_dir() else ''} " in tree, path.name


def test_the_first_screen_says_what_it_is_and_shows_it() -> None:
    first = README.splitlines()[:40]
    assert sum(line.startswith("- **") for line in first) == 4
    assert "<!-- demo -->" in first
