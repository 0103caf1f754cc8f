"""Every file and function that docs/architecture.md names exists, and every test that a page names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/ai_otel"
TOOLS = ROOT / "tools"
PAGE = ROOT / "docs/architecture.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

# Where a dotted name may begin: a module or package of the library, or the generator.
TOP = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}


def quoted() -> set[str]:
    """Everything between backticks, outside of fenced blocks."""
    text = re.sub(r"^```.*?^```", "", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([^`\n]+)`", text))


def dotted() -> list[str]:
    """Names such as `recorder.Recorder.close`."""
    names = [name for name in quoted() if re.fullmatch(r"[a-z_]\w*(\.\w+)+", name) and not name.endswith(".py")]
    return sorted(name for name in names if name.partition(".")[0] in TOP | {"generator"} and not is_file(name))


def is_file(name: str) -> bool:
    return name.rpartition(".")[2] in {"py", "yaml", "json", "pth", "md"}


def module_of(name: str) -> tuple[Path | None, list[str]]:
    """The file of the longest module that `name` starts with, and the names inside it."""
    parts = name.split(".")
    base = TOOLS if parts[0] == "generator" else SOURCE
    for length in range(len(parts), 0, -1):
        path = base.joinpath(*parts[:length])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file, parts[length:]
    return None, parts


def defines(body: list[ast.stmt], names: list[str]) -> bool:
    """Whether nested classes, functions or assigned names of this path are there."""
    if not names:
        return True
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == names[0]:
            return defines(node.body, names[1:])
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == names[0] for target in targets):
            return len(names) == 1
    return False


@pytest.mark.parametrize("name", dotted())
def test_a_function_that_the_page_names_exists(name: str) -> None:
    file, inside = module_of(name)
    assert file is not None
    assert defines(ast.parse(file.read_text()).body, inside), f"{file} has no {'.'.join(inside)}"


def test_the_page_names_the_steps_of_three_ways() -> None:
    assert len(dotted()) > 40


def test_a_wrong_name_is_found() -> None:
    file, inside = module_of("recorder.Recorder.clsoe")
    assert file is not None
    assert not defines(ast.parse(file.read_text()).body, inside)


def test_every_file_that_the_page_names_exists() -> None:
    named = {name for name in quoted() if re.fullmatch(r"[\w/.-]+/?", name) and (is_file(name) or name.endswith("/"))}
    places = (ROOT, SOURCE)
    there = [path.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("*")]
    missing = [
        name
        for name in sorted(named)
        if not any((place / name).exists() for place in places) and not any(each.endswith(f"/{name}") for each in there)
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"(?<![\w/])tests/[\w/.]*\w", page.read_text()))
    planned = {name for name in named if re.search(r"myengine|recordings", name)}
    assert sorted(name for name in named - planned if not (ROOT / name).exists()) == []
