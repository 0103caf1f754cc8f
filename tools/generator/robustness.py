"""
Writes docs/robustness.md from the tests' own registry: each `@pytest.mark.fault(area, fault, effect)` is a row.

Read from the source instead of from a collection, so that no test dependency is needed to generate the page.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

from generator.model import ROOT, Contract

# In the page's order.
AREAS = {
    "requests": "The application and its requests",
    "export": "Export",
    "configuration": "Configuration and command line",
    "engines": "Metrics endpoints of engines",
    "gpu": "GPUs and energy",
    "collector": "Collector and Kubernetes",
}

HEAD = """<!-- Generated from the fault markers of tests/ by `python tools/generate.py`. Do not edit. -->
# Robustness

What happens when something goes wrong, and the test that shows it. Each row is a marker on a test
(`@pytest.mark.fault`). `make generate` writes this page from those markers, so it lists only what `make test-all` runs.

Run the test of a row by its name: `pytest PATH::TEST`. Guarantees to the application are in [safety.md](safety.md).
"""


class Fault(NamedTuple):
    """A row: `test` is the node id of the test without its parameters."""

    area: str
    fault: str
    effect: str
    test: str


def render(_: Contract) -> str:
    """The text of docs/robustness.md."""
    rows = list(faults())
    lines = [HEAD, f"{len(rows)} faults.", ""]
    for area, title in AREAS.items():
        listed = sorted(row for row in rows if row.area == area)
        if listed:
            lines += [f"## {title}", "", "| fault | what happens | test |", "| --- | --- | --- |"]
            lines += [f"| {_cell(row.fault)} | {_cell(row.effect)} | `{row.test}` |" for row in listed]
            lines.append("")
    return "\n".join(lines)


def faults() -> Iterator[Fault]:
    """Every marker of every test. Raises `ValueError` for a marker whose arguments are not three literal strings."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = path.relative_to(ROOT).as_posix()
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and function.name.startswith("test"):
                for decorator in function.decorator_list:
                    yield from _markers(decorator, f"{name}::{function.name}")


def _markers(decorator: ast.expr, test: str) -> Iterator[Fault]:
    for call in ast.walk(decorator):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.fault":
            texts = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
            match [text for text in texts if isinstance(text, str)]:
                case [area, fault, effect] if area in AREAS and len(call.args) == 3:
                    yield Fault(area, fault, effect, test)
                case _:
                    known = ", ".join(AREAS)
                    raise ValueError(f"{test}: fault(area, fault, effect) in literal texts; areas: {known}")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
