"""Every command of docs/golden-path.md works, or needs a cluster and names only what exists."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import parts

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/golden-path.md"
KUBERNETES = ROOT / "collector-config/kubernetes"
VALUES: dict[str, Any] = json.loads((KUBERNETES / "chart/values.schema.json").read_text())
#: How a command begins that needs a cluster. All others are run.
CLUSTER = (
    "kubectl create namespace",
    "kubectl -n ai-otel create secret generic",
    "kubectl -n ai-otel get",
    "kubectl label namespace",
    "kubectl apply --server-side -n",
    "helm install",
    "helm upgrade",
)


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


RUN = [line for line in commands() if not line.startswith(CLUSTER)]


def known(key: str) -> bool:
    """Whether the chart's schema has a value of this path."""
    place = VALUES
    for name in key.split("."):
        while "$ref" in place:
            at = place["$ref"].removeprefix("#/").split("/")
            place = VALUES
            for step in at:
                place = place[step]
        inside = place.get("properties", {})
        other = place.get("additionalProperties", False)
        if name not in inside and not other:
            return False
        place = inside.get(name, other if isinstance(other, dict) else {})
    return True


@pytest.mark.parametrize("line", [line for line in RUN if line.startswith("ai-otel ")])
def test_commands_of_ai_otel_work(line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ai_otel.cli", *shlex.split(line)[1:]],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.requires(part="kubernetes")
@pytest.mark.parametrize("line", [line for line in RUN if not line.startswith("ai-otel ")])
def test_commands_without_a_cluster_work(line: str) -> None:
    name, *arguments = shlex.split(line)
    program = parts.program("kubernetes", f"bin/{name}")
    assert program is not None
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_commands_name_files_and_values_that_exist() -> None:
    words = [word for line in commands() for word in shlex.split(line)]
    paths = {word for word in words if word.startswith("collector-config/")}
    assert len(paths) > 5
    assert {path for path in paths if not (ROOT / path).exists()} == set()
    keys = {word.split("=")[0] for before, word in pairwise(words) if before == "--set"}
    assert {key for key in keys if not known(key)} == set()
    assert not known("monitoring.nothing")


def test_every_ai_otel_label_in_the_pages_is_read_somewhere() -> None:
    pattern = re.compile(r"\bai-otel\.io/[a-z][a-z_-]*")
    there = {
        name
        for path in KUBERNETES.rglob("*")
        if path.suffix in {".yaml", ".tpl"}
        for name in pattern.findall(path.read_text())
    }
    documented = {name for path in (ROOT / "docs").rglob("*.md") for name in pattern.findall(path.read_text())}
    assert "ai-otel.io/engine" in documented
    assert documented - there == set()


def test_annotations_of_others_are_in_our_parts_too() -> None:
    documented = set(
        re.findall(r"\b[a-z]+\.opentelemetry\.io/[a-z.-]+|\bkubectl\.kubernetes\.io/[a-z-]+", PAGE.read_text())
    )
    there = "".join(path.read_text() for path in KUBERNETES.rglob("*") if path.suffix in {".yaml", ".md", ".tpl"})
    assert {name for name in documented if name not in there} == set()


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGE.read_text().replace("\n", " ")):
        file, _, anchor = target.partition("#")
        path = PAGE.parent / file
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE) if anchor else []
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, target
