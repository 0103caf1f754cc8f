"""Tests can fail, and their names are claims of one line."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
LONGEST_NAME = 72
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> dict[str, list[tuple[Path, Function]]]:
    """Every function below `tests/`, by name."""
    found: dict[str, list[tuple[Path, Function]]] = defaultdict(list)
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, Function):
                found[node.name].append((path, node))
    return found


def called(function: ast.AST) -> set[str]:
    """The last names of everything that a function calls."""
    return {ast.unparse(node.func).split(".")[-1] for node in ast.walk(function) if isinstance(node, ast.Call)}


def asserts(function: ast.AST) -> bool:
    """Whether a function itself can fail a test."""
    if any(isinstance(node, ast.Assert) for node in ast.walk(function)):
        return True
    if any(isinstance(node, ast.Raise) and "AssertionError" in ast.unparse(node) for node in ast.walk(function)):
        return True
    return any(name in {"raises", "warns", "fail"} or name.startswith("assert_") for name in called(function))


def can_fail(known: dict[str, list[tuple[Path, Function]]]) -> set[str]:
    """The names of all functions that assert, or that call one of these."""
    found = {name for name, nodes in known.items() if any(asserts(node) for _, node in nodes)}
    while more := {name for name, nodes in known.items() if any(called(node) & found for _, node in nodes)} - found:
        found |= more
    return found


def test_every_test_asserts_something() -> None:
    known = functions()
    able = can_fail(known)
    unable = [
        f"{path.relative_to(TESTS)}:{node.lineno} {name}"
        for name, nodes in known.items()
        if name.startswith("test_") and name not in able
        for path, node in nodes
        if path.name.startswith("test_")
    ]
    assert len(able) > 1000
    assert unable == []


def test_names_of_tests_fit_on_a_line() -> None:
    long = [name for name in functions() if name.startswith("test_") and len(name) > LONGEST_NAME]
    assert long == []


@pytest.mark.parametrize("text", ["def test(): run()", "def test():\n    try: run()\n    except ValueError: pass"])
def test_a_test_without_an_assertion_is_found(text: str) -> None:
    assert not asserts(ast.parse(text))
