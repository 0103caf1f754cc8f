"""The result of one check, and the next step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

GROUPS: Mapping[str, str] = {
    "server": "the running server",
    "engines": "engines in this environment",
    "switch": "activation",
    "export": "export",
    "metrics": "metrics",
    "gpu": "GPUs",
    "packages": "packages",
}
"""Group → its title, in the order in which they are read."""


class Level(str, Enum):
    """How much a finding matters. Only `WRONG` makes the command fail."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one subject. `subject` and the keys of `details` are stable, the sentences are not."""

    group: str
    subject: str
    level: Level
    says: str
    next_step: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More for machines; JSON values."""
