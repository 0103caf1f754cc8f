"""Placeholders that nothing has filled in: Kubernetes leaves `$(NAME)` where it knows no such variable."""

from __future__ import annotations

import re

STEP = "a placeholder in it was not resolved"

_UNRESOLVED = re.compile(r"\$\([^)]*\)?|\$\{[^}]*\}?|\{\{.*?\}\}|<no value>")


def is_resolved(text: str) -> bool:
    """Whether no placeholder such as `$(POD_NAME)` or `${POD_NAME}` is left in a value."""
    return _UNRESOLVED.search(text) is None
