"""What the figures should be: the one table of limits, and which of them a result meets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Target:
    """The median of a figure, or of its ratio to the plain SDK, is at most `limit`."""

    what: str
    key: str
    of: str
    """`median` or `ratio`."""
    limit: float
    unit: str


TARGETS = (
    Target("total CPU of a request, everything included", "total.ai-otel", "ratio", 0.3, "x"),
    Target("emission alone", "emission.ai-otel", "ratio", 0.12, "x"),
    Target(
        "added to the event loop's p99 pause, 1,000 requests end at once", "added.1000.ai-otel", "median", 1.0, "ms"
    ),
    Target("a request's path, through the engine alone", "path.engine.ai-otel", "median", 8.0, "us"),
    Target("a request's path, with the HTTP middleware", "path.http.ai-otel", "median", 14.0, "us"),
    Target("a chunk, through the engine's stream", "chunk.engine", "median", 0.3, "us"),
)

LIMITS = (
    Target("total CPU of a request, everything included", "total.ai-otel", "ratio", 2.0, "x"),
    Target("a request's path, of the plain SDK's", "path.engine.ai-otel", "ratio", 0.25, "x"),
    Target("memory growth, endpoint refuses", "memory.growth.refused", "median", 16.0, "MiB"),
    Target("memory growth, endpoint never answers", "memory.growth.silent", "median", 16.0, "MiB"),
)
"""What the smoke check does not let pass, on any machine."""


@dataclass(frozen=True)
class Judged:
    """One target, and what was measured."""

    target: Target
    measured: float

    @property
    def met(self) -> bool:
        """Whether it is at most the limit; what is not a number is not."""
        return self.measured <= self.target.limit

    def __str__(self) -> str:
        """One line."""
        target = self.target
        verdict = "met" if self.met else "NOT MET"
        return f"  {target.what:<66}{self.measured:>9.2f}  target {target.limit:g} {target.unit}: {verdict}"


def judged(figures: Mapping[str, Mapping[str, Any]], targets: tuple[Target, ...] = TARGETS) -> Iterator[Judged]:
    """Compare a result with the targets; a figure that was not measured is left out."""
    for target in targets:
        figure = figures.get(target.key)
        if figure is not None:
            value = figure[target.of]
            yield Judged(target, math.nan if value is None else float(value))
