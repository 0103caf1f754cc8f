"""The real Collector accepts every shipped file and every output of `render`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from ai_otel.collector import fragments
from ai_otel.collector.compose import Selection, compose
from ai_otel.collector.fragments import FragmentError
from ai_otel.collector.rules import violations
from harness.collector.process import binary, validate

pytestmark = pytest.mark.requires(part="collector")

ROLES = Path(__file__).parents[2] / "collector-config/generated/roles"
SHIPPED = sorted(ROLES.glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_role_is_complete_and_accepted(file: Path) -> None:
    assert validate(file) == ""
    assert list(violations(yaml.safe_load(file.read_text()), local=False)) == []


def test_there_is_a_file_for_every_role() -> None:
    assert {file.stem for file in SHIPPED} == set(fragments.ROLES)


def choices(role: str) -> Iterator[Selection]:
    """
    Each part alone, and every pair of a feature or backend with any other: all features that fit together, with each
    backend and with every backend at once.
    """
    features, backends = fragments.names("features"), fragments.names("backends")
    engines = ("vllm",) if role in ("sidecar", "agent") else ()
    together = fitting(role, features)
    for feature in features:
        yield Selection(role, engines, (feature,))
    for backend in backends:
        yield from (Selection(role, engines, chosen, backends=(backend,)) for chosen in ((), together))
    for without in ((), *((name,) for name in fragments.DEFAULT_FEATURES), fragments.DEFAULT_FEATURES):
        yield from (Selection(role, engines, chosen, without) for chosen in ((), together))
    yield Selection(role, engines, together, backends=tuple(name for name in backends if name != "gateway"))
    if engines:
        yield from (Selection(role, (engine,)) for engine in fragments.names("engines"))


def fitting(role: str, features: tuple[str, ...]) -> tuple[str, ...]:
    """The features that have a place in this role."""
    return tuple(name for name in features if composed(Selection(role, features=(name,))) is not None)


def composed(selection: Selection) -> dict[str, Any] | None:
    """The configuration; None where the role and the parts do not go together, which `render` says."""
    try:
        return compose(selection).tree
    except FragmentError:
        return None


@pytest.mark.parametrize("role", fragments.ROLES)
def test_every_rendered_configuration_is_accepted(role: str) -> None:
    trees = {selection.command: composed(selection) for selection in choices(role)}
    made = {command: tree for command, tree in trees.items() if tree is not None}
    print(f"{role}: {len(made)} configurations, {len(trees) - len(made)} that do not go together")
    assert len(made) >= 10
    with ThreadPoolExecutor(max_workers=2) as pool:
        refused = dict(zip(made, pool.map(validate, made.values()), strict=True))
    assert {command: said for command, said in refused.items() if said} == {}
    for command, tree in made.items():
        assert list(violations(tree, local="--feature local" in command)) == [], command


EXAMPLES = Path(__file__).parents[2] / "collector-config/examples/README.md"
BLOCKS = re.findall(r"^## (.+?)$.*?^```sh\n(.+?)^```$", EXAMPLES.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", [block for _, block in BLOCKS], ids=[title for title, _ in BLOCKS])
def test_an_example_can_be_run_as_it_stands(block: str, tmp_path: Path) -> None:
    """Up to the last line, in which the Collector would start: there it is asked whether it would."""
    command = block.replace("ai-otel-collector --config", "ai-otel-collector validate --config")
    assert command != block
    path = f"{Path(sys.executable).parent}:{binary().parent}:{os.environ['PATH']}"
    given = {"PATH": path, "INSTANCE_ID": "1", "TOKEN": "t", "API_KEY": "k"}
    done = subprocess.run(
        ["bash", "-eu", "-c", command],
        env={**os.environ, **given},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
