"""A sentence of a `meaning` that states a condition or a unit is a rule: the row has the key that makes it true."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ai_otel.contract import MetricMapping

Holds = Callable[[MetricMapping], bool]


def _has(*keys: str) -> Holds:
    return lambda row: any(key in row for key in keys)


def _scaled(factor: float) -> Holds:
    return lambda row: row.get("factor") == factor


# What a sentence says, what must hold of the row, and what the row lacks otherwise.
RULES: tuple[tuple[str, Holds, str], ...] = (
    (r"\bthe newest counts", _has("newest"), "newest"),
    (r"\bat most \w+ of them", lambda row: "at_most" in row.get("value", {}), "value: {at_most: …}"),
    (r"\b[Tt]he number is in the labels|\bin a label\b", _has("value"), "value"),
    (r"\bof a hybrid model nothing", lambda row: "none" in row.get("value", {}).get("else", {}), "value: {else: …}"),
    (r"\b0(\.0)? (is what|means)\b", _has("drop_values"), "drop_values"),
    (r"\bthe (highest|busiest) (counts|is)\b", lambda row: row.get("merge", "max") == "max", "merge: max"),
    (r"\bthe total is taken\b|\bevery rank counts\b", lambda row: row.get("merge") == "max", "merge: max"),
    (r"\b(is|are) left out\b|\bby POST only\b", _has("where"), "where"),
    (r"\bthe cached ones are added\b", _has("requires"), "combine and requires"),
    (r"\b[Ww]here one of them is missing\b", _has("requires"), "combine and requires"),
    (r"\bThe (sum|count) only\b", _has("part"), "part"),
    (r"\ba gauge that only grows\b", _has("monotonic"), "monotonic"),
    (r"\bMiB\b(?!, )", _scaled(1048576), "factor: 1048576"),
    (r"\bmilliseconds\b", _scaled(0.001), "factor: 0.001"),
    (r"\bmillijoules\b", _scaled(0.001), "factor: 0.001"),
    (r"\bmicrojoules\b", _scaled(1.0e-6), "factor: 1.0e-6"),
    (r"\bnanoseconds\b", _scaled(1.0e-9), "factor: 1.0e-9"),
    (r"\ba percentage\b", _scaled(0.01), "factor: 0.01"),
)


def meaning_violations(row: MetricMapping) -> Iterator[str]:
    """Every sentence of a row's meaning that the row does not do."""
    meaning = row.get("meaning", "")
    for pattern, holds, key in RULES:
        found = re.search(pattern, meaning, re.IGNORECASE)
        if found and not holds(row):
            yield f"its meaning says {found[0]!r}, and it has no `{key}`."
