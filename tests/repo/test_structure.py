"""The shape of the source tree: small modules, small packages, no cycles, types everywhere."""

from __future__ import annotations

import ast
import statistics
from collections import Counter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/ai_otel"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if not path.read_text().startswith("# Generated"))
MEDIAN_LINES, MOST_LINES, MOST_MODULES = 120, 350, 15


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def test_modules_are_short() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert len(lines) > 100
    assert statistics.median(lines.values()) <= MEDIAN_LINES
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_packages_have_few_modules() -> None:
    sizes = Counter(path.parent.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))
    assert {str(package): size for package, size in sizes.items() if size > MOST_MODULES} == {}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_function_states_what_it_returns(path: Path) -> None:
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert [f"{node.name} (line {node.lineno})" for node in functions if node.returns is None] == []


def test_no_import_cycles() -> None:
    graph = grimp.build_graph("ai_otel", cache_dir=None)
    # A module that reaches itself through others is in a cycle. Imports below `if TYPE_CHECKING` count too.
    cycles = {module for module in graph.modules if module in graph.find_upstream_modules(module)}
    assert len(graph.modules) > 100
    assert cycles == set()
