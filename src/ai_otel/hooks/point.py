"""Hook points as data: the patcher, `doctor`, the docs and the drift test read the same rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Rung(str, Enum):
    """How deep a hook reaches into the engine, safest first."""

    PLUGIN = "plugin"
    """The engine's own plug-in or callback interface."""
    PUBLIC = "public"
    """A documented function."""
    INTERNAL = "internal"
    """A function the engine may change without notice; bounded by versions."""


@dataclass(frozen=True, slots=True)
class HookPoint:
    """One row: where a hook listens and what it needs there."""

    target: str
    """`package.module:Class.method`."""
    reads: tuple[str, ...]
    """Names of the parameters that the hook reads; the drift test checks them against the real wheel."""
    versions: str
    """Versions the row holds for, such as `>=0.12,<0.40`; empty means every version."""
    rung: Rung
    why: str
    """One sentence: what passes here."""

    @property
    def module(self) -> str:
        """The module to wait for."""
        return self.target.partition(":")[0]

    @property
    def path(self) -> str:
        """The attribute path inside the module."""
        return self.target.partition(":")[2]

    def covers(self, version: str) -> bool:
        """Whether this row holds for `version`."""
        return in_range(version, self.versions)


def in_range(version: str, bounds: str) -> bool:
    """
    Whether `version` lies in comma-separated `bounds`; only `>=`, `>`, `<=`, `<` and `==` are understood.

    Release numbers decide: `0.32.0+cpu` and `0.32.0rc1` count as `0.32.0`, because what matters here is which code
    the release line holds. (`packaging` would answer that a pre-release is outside, and is one more dependency.)
    """
    release = release_numbers(version)
    for bound in filter(None, (part.strip() for part in bounds.split(","))):
        match = re.fullmatch(r"(>=|<=|==|>|<)\s*(v?\d.*)", bound)
        if match is None:
            message = f"bad version bound {bound!r}: write it like '>=0.12,<0.40'"
            raise ValueError(message)
        if not _COMPARE[match[1]](release, release_numbers(match[2])):
            return False
    return True


def release_numbers(version: str) -> tuple[int, ...]:
    """The leading release numbers of a version, without trailing zeros, for comparing."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    numbers = [int(number) for number in match[1].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


_COMPARE = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}
