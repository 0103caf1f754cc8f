"""Inference routes that a user names: `/predict=text_completion`."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_ROUTES = 64
_TEMPLATE = re.compile(r"(?:/(?:[^\s?#{}=,/]|\{\w+(?::path)?\})*)+")
_OPERATION = re.compile(r"[a-z][a-z0-9_.]{0,63}")


@dataclass(frozen=True, slots=True)
class Route:
    """A route and its operation, `gen_ai.operation.name`. In the template, `{name}` is any segment or part of one."""

    template: str
    operation: str

    def __str__(self) -> str:
        return f"{self.template}={self.operation}"


def read_routes(text: str) -> tuple[Route, ...]:
    """Parse `/predict=text_completion,/v1/models/{name}:predict=chat`. Raises `ValueError` for a malformed one."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > MAX_ROUTES:
        raise ValueError(f"write at most {MAX_ROUTES} routes")
    return tuple(_read(part) for part in parts)


def _read(part: str) -> Route:
    template, _, operation = (each.strip() for each in part.partition("="))
    if len(template) > 256 or not _TEMPLATE.fullmatch(template) or not _OPERATION.fullmatch(operation):
        raise ValueError("write each route like /predict=text_completion or /v1/models/{name}:predict=chat")
    return Route(template.rstrip("/") or "/", operation)
