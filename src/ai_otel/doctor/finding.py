"""The result of one check, and the next step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from ai_otel.inputs.shown import shown

_MOST = 4000
"""Characters of one sentence. Values in it are shorter."""

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

    def __post_init__(self) -> None:
        """Make every text safe to print, in whichever check it was put together."""
        for each in fields(self):
            object.__setattr__(self, each.name, _printable(getattr(self, each.name)))


def _printable(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Enum):
        return shown(value, _MOST)
    if isinstance(value, Mapping):
        return {_printable(key): _printable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable(each) for each in value]
    return value
