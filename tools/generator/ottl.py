"""Small pieces of OTTL, the Collector's transformation language, as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from decimal import Decimal

# What stands on a resource or a point only inside the pages' pipeline; `transform/page_end` takes it off again.
NORMALISED = "ai_otel.page.normalised"
SEEN = "ai_otel.page.seen."
LIBRARY = "ai_otel.page.library"
OPERATION = "ai_otel.page.operation"
MODEL = "ai_otel.page.model"
DROP = "ai_otel.page.drop"
SKIP = "ai_otel.page.skip."
NATIVE = "ai_otel.page.native"
ROW = "row/"
ENGINE = "ai_otel.engine.name"


def text(value: object) -> str:
    """A literal. The Collector expands `$` before OTTL sees it, so it is doubled."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("$", "$$")


def number(value: float) -> str:
    """A literal that OTTL takes for a double: it knows no exponents, and needs the point."""
    plain = format(Decimal(repr(float(value))), "f")
    return plain if "." in plain else f"{plain}.0"


def point(key: str) -> str:
    """An attribute of the data point."""
    return f"datapoint.attributes[{text(key)}]"


def resource(key: str) -> str:
    """An attribute of the resource."""
    return f"resource.attributes[{text(key)}]"


def named(*names: str) -> str:
    """Whether the metric has one of these names."""
    return either(f"metric.name == {text(name)}" for name in names)


def either(conditions: Iterable[str]) -> str:
    """One of them holds."""
    found = list(conditions)
    return found[0] if len(found) == 1 else "(" + " or ".join(found) + ")"


def every(*conditions: str) -> str:
    """All of them hold."""
    return " and ".join(condition for condition in conditions if condition)


def call(function: str, *arguments: str) -> str:
    """A call."""
    return f"{function}({', '.join(arguments)})"


def do(action: str, where: str = "") -> str:
    """A statement."""
    return f"{action} where {where}" if where else action


def mark(key: str, where: str = "") -> str:
    """Set a mark on the data point."""
    return do(call("set", point(key), "true"), where)


def skip(reason: str, where: str) -> str:
    """Drop the data point for a reason that is reported, because the mapping did not mean it."""
    return do(call("set", point(DROP), text(reason)), where)


def texts(values: Sequence[str]) -> str:
    """A list of literals."""
    return "[" + ", ".join(text(value) for value in values) + "]"
