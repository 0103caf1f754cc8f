"""Installing ai-otel beside a real vLLM."""

from __future__ import annotations

import json
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

import parts

pytestmark = pytest.mark.requires(part="vllm")

VERSIONS = """
import json
from importlib.metadata import distributions
print(json.dumps({d.metadata["Name"].lower().replace("_", "-"): d.version for d in distributions()}))
"""


def test_installing_the_wheel_changes_no_installed_version(installed: parts.VllmEnvironment, root: Path) -> None:
    """What vLLM brought, as its lock file pins it, is what is there after our wheel and all it requires came in."""
    out = subprocess.run([installed.python, "-c", VERSIONS], capture_output=True, text=True, check=True).stdout
    versions = json.loads(out)
    lock = (root / "tools/locks/vllm.lock").read_text()
    brought: dict[str, set[str]] = defaultdict(set)  # more than one version where the lock differs between Pythons
    for name, version in re.findall(r"^([a-z0-9.-]+)==([^ \\;]+)", lock, re.MULTILINE):
        brought[name].add(version)
    assert len(brought) > 100
    assert versions["ai-otel"]
    moved = {
        name: versions[name] for name, pinned in brought.items() if name in versions and versions[name] not in pinned
    }
    assert moved == {}
    check = subprocess.run(
        [installed.python, "-c", "import ai_otel.start, ai_otel.providers, vllm"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stderr
