"""`tests/unit` mirrors `src/ai_otel`; tests that start processes are in other tiers."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT, SOURCE = ROOT / "tests/unit", ROOT / "src/ai_otel"
TESTS = sorted(UNIT.rglob("test_*.py"))


@pytest.mark.parametrize("test", TESTS, ids=lambda path: str(path.relative_to(UNIT)))
def test_unit_test_is_named_after_a_module_of_the_same_package(test: Path) -> None:
    """`test_ledger.py` and `test_ledger_properties.py` are beside `ledger.py`, or beside the package `ledger`."""
    package = SOURCE / test.parent.relative_to(UNIT)
    assert package.is_dir(), f"no package {package.relative_to(ROOT)}"
    modules = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    subject = test.stem.removeprefix("test_")
    named = {module for module in modules if subject == module or subject.startswith(f"{module}_")}
    assert named, f"none of {sorted(modules)}"
