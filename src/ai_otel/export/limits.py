"""
Limits of values that a client can choose, so that one request cannot cost the telemetry of another.

A receiver refuses an export request as a whole: if it is too large, or if one value of it cannot be encoded, the spans
of all other requests in it are lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Attributes = dict[str, Any]

MAX_CHARACTERS = 1024
"""Of one string."""
MAX_ITEMS = 128
"""Of one list."""
MAX_LIST_CHARACTERS = 4096
"""Of all strings of one list."""
MAX_SPAN_CHARACTERS = 16384
"""Of all strings of one span's attributes."""
MAX_VALUES = 256
"""Different values of one attribute of metrics."""
OTHER = "_OTHER"

_MIN_INT, _MAX_INT = -(2**63), 2**63 - 1


def cut(text: str, limit: int = MAX_CHARACTERS) -> str:
    """The text, cut to `limit` characters, with `?` for what UTF-8 cannot encode (half a surrogate pair)."""
    if len(text) > limit:
        text = text[:limit]
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def cut_all(texts: Iterable[Any]) -> tuple[str, ...]:
    """The strings among the first items, cut each and in sum."""
    kept: list[str] = []
    left = MAX_LIST_CHARACTERS
    for text, _ in zip(texts, range(MAX_ITEMS), strict=False):
        if left <= 0:
            break
        if isinstance(text, str):
            kept.append(cut(text, min(left, MAX_CHARACTERS)))
            left -= len(kept[-1])
    return tuple(kept)


def limited(attributes: Attributes) -> Attributes:
    """
    Attributes within the limits: the same object, except where a value has to be cut or left out.

    Every set of attributes of a span and of its events passes through here.
    """
    characters = 0
    for value in attributes.values():
        kind = type(value)
        if kind is str:
            size = len(value)
            if size > MAX_CHARACTERS or not value.isascii():
                return _cut_down(attributes)
            characters += size
        elif kind is int:
            if not _MIN_INT <= value <= _MAX_INT:
                return _cut_down(attributes)
        elif kind is list or kind is tuple:
            # Mostly one finish reason.
            for item in value if len(value) <= MAX_ITEMS else (None,):
                if type(item) is not str or len(item) > MAX_CHARACTERS or not item.isascii():
                    return _cut_down(attributes)
                characters += len(item)
        elif kind is not float and kind is not bool:
            return _cut_down(attributes)
    return attributes if characters <= MAX_LIST_CHARACTERS else _cut_down(attributes)


def _cut_down(attributes: Attributes) -> Attributes:
    kept: Attributes = {}
    left = MAX_SPAN_CHARACTERS
    for name, given in attributes.items():
        value = _limited(given)
        if isinstance(value, str):
            value = value[:left]
            left -= len(value)
        elif isinstance(value, tuple):
            characters = sum(len(item) for item in value if isinstance(item, str))
            value = value if characters <= left else None
            left -= characters if value is not None else 0
        if value is not None:
            kept[name] = value
    return kept


def _limited(value: Any) -> Any:
    """One value within the limits; `None` where it cannot be sent."""
    if isinstance(value, str):
        return cut(value)
    if isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return int(value) if _MIN_INT <= value <= _MAX_INT else None
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        first = value[:MAX_ITEMS]
        if any(isinstance(item, str) for item in first):
            return cut_all(first)
        return tuple(kept for item in first if (kept := _number(item)) is not None)
    return None


def _number(value: Any) -> bool | int | float | None:
    kept = _limited(value) if isinstance(value, (bool, int, float)) else None
    return kept if isinstance(kept, (bool, int, float)) else None


class Vocabulary:
    """
    The values of one attribute of metrics: the first `limit` different ones, and `_OTHER` for all later ones.

    Each value is a time series. Engines name few models, but some repeat any name that the client sent.
    """

    def __init__(self, limit: int = MAX_VALUES) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        """The value under which a point with this value is recorded."""
        if value in self._known:
            return value
        text = cut(value)
        if text not in self._known:
            if len(self._known) >= self._limit:
                return OTHER
            self._known.add(text)
        return text
