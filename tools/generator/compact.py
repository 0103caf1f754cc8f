"""JSON with one short entry a line: smaller than one value a line, and still readable in a diff."""

from __future__ import annotations

import json
from typing import Any

WIDTH = 400
"""Most characters of a line: a metric, or a row of an engine's mapping."""


def compact(tree: Any, indent: int = 0) -> str:
    """JSON of a tree; what fits into `WIDTH` characters stays on one line."""
    line = json.dumps(tree, ensure_ascii=False)
    if not tree or not isinstance(tree, (dict, list, tuple)) or len(line) + indent <= WIDTH:
        return line
    if isinstance(tree, dict):
        entries = [
            f"{json.dumps(key, ensure_ascii=False)}: {compact(value, indent + 1)}" for key, value in tree.items()
        ]
        opened, closed = "{", "}"
    else:
        entries = [compact(value, indent + 1) for value in tree]
        opened, closed = "[", "]"
    margin = " " * (indent + 1)
    return f"{opened}\n" + ",\n".join(margin + entry for entry in entries) + f"\n{' ' * indent}{closed}"
