"""Generated files stand apart from hand-written ones, and are few enough to read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES = 25_000
SAYS_SO = re.compile(
    r"# Generated (from|by) |<!-- Generated from |# Made by `ai-otel "
    r'|\s*"(generated|\$comment)": "([Gg]enerated )?from '
)
# Places that others prescribe: Helm's, Python's, and pages of the documentation.
ELSEWHERE = {
    "collector-config/kubernetes/chart/values.schema.json",
    "docs/metrics.md",
    "docs/robustness.md",
    "src/ai_otel/schema/contract.json",
    "src/ai_otel/semconv.py",
}
DASHBOARDS = {"collector-config/dashboards/overview.json"}


def committed() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a checkout of Git")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def says_so(name: str) -> bool:
    path = ROOT / name
    if path.suffix not in {".yaml", ".json", ".py", ".md"} or name.startswith("tests/"):
        return False
    with path.open(encoding="utf-8") as file:
        return any(SAYS_SO.match(file.readline()) for _ in range(3))


def generated() -> list[str]:
    return [name for name in committed() if "/generated/" in name or name in DASHBOARDS or says_so(name)]


def test_generated_files_lie_in_folders_that_say_so() -> None:
    assert [name for name in generated() if "/generated/" not in name and name not in ELSEWHERE | DASHBOARDS] == []


def test_generated_files_say_so_in_their_first_lines() -> None:
    unnamed = [name for name in generated() if not says_so(name)]
    assert [name for name in unnamed if not name.endswith("/overview.json")] == []


def test_few_generated_lines_are_committed() -> None:
    lines = sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in generated())
    assert 10_000 < lines < MOST_LINES, lines
