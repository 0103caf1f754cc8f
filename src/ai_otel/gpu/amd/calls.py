"""
AMD SMI calls: maps status codes and sentinels to values or reasons of absence.

An unavailable value is a status code, the text "N/A", or a number with all of its original 8, 16, 32 or 64 bits set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ai_otel.gpu.source import Support

# Status codes by number: older bindings lack the newer names.
INVALID_PARAMETERS = 1
NOT_SUPPORTED = 2
NOT_YET_IMPLEMENTED = 3
FAIL_LOAD_SYMBOL = 5
NO_PERMISSION = 10
NO_DATA = 40
FILE_NOT_FOUND = 52

_SUPPORT: Mapping[int, Support] = {
    INVALID_PARAMETERS: Support.NOT_SUPPORTED,
    NOT_SUPPORTED: Support.NOT_SUPPORTED,
    NOT_YET_IMPLEMENTED: Support.NOT_SUPPORTED,
    FAIL_LOAD_SYMBOL: Support.NOT_FOUND,
    NO_PERMISSION: Support.NO_PERMISSION,
    NO_DATA: Support.NOT_SUPPORTED,
    FILE_NOT_FOUND: Support.NOT_SUPPORTED,
}
_FOREVER = frozenset({Support.NOT_SUPPORTED, Support.NOT_FOUND})
_NONE = frozenset({0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF})
_NONE_IN_16_BITS = 0xFFFF
# Raised by the binding for unexpected results of its library: an empty serial number, a new constant.
_BINDING_ERRORS = (ValueError, KeyError, TypeError, IndexError)


class Calls:
    """The calls on one GPU. Unsupported calls are made once."""

    def __init__(self, library: Any, handle: Any) -> None:
        self.library = library
        self._handle = handle
        self._absent: dict[tuple[Any, ...], Support] = {}

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a function of AMD SMI and return its result, or why it is unavailable."""
        question = (name, *arguments)
        if question in self._absent:
            return self._absent[question]
        support = Support.NOT_FOUND
        function = getattr(self.library, name, None)
        if function is not None:
            try:
                return function(self._handle, *arguments)
            except self.library.AmdSmiException as error:
                support = _SUPPORT.get(int(getattr(error, "err_code", None) or 0), Support.ERROR)
            except _BINDING_ERRORS:
                support = Support.ERROR
        if support in _FOREVER:
            self._absent[question] = support
        return support


def number(answer: Any, *keys: str) -> float | Support:
    """Return a number of a result by the first of `keys` that exists, or why it is unavailable."""
    for key in keys:
        if isinstance(answer, Mapping) and key in answer:
            answer = answer[key]
            break
    else:
        if keys and not isinstance(answer, Support):
            return Support.NOT_FOUND
    if isinstance(answer, Support):
        return answer
    if isinstance(answer, bool) or not isinstance(answer, int | float) or not math.isfinite(answer):
        return Support.NOT_SUPPORTED
    return Support.NOT_SUPPORTED if answer in _NONE else answer


def narrow(answer: Any, *keys: str) -> float | Support:
    """Return a number that the firmware reports in 16 bits: power, temperature, clocks, activity."""
    value = number(answer, *keys)
    return Support.NOT_SUPPORTED if value == _NONE_IN_16_BITS else value


def numbers(answer: Any, key: str) -> list[float]:
    """Return the available numbers of a list in a result."""
    listed = answer.get(key) if isinstance(answer, Mapping) else None
    values: Iterable[Any] = listed if isinstance(listed, list) else ()
    return [value for each in values if not isinstance(value := number(each), Support)]


def text(answer: Any, key: str | None = None) -> str | None:
    """Return a text of a result; `None` if it is empty or unavailable."""
    if key is not None:
        answer = answer.get(key) if isinstance(answer, Mapping) else None
    if not isinstance(answer, str) or isinstance(answer, Support):  # a reason of absence is a `str`, too
        return None
    return answer if answer.strip() and answer != "N/A" else None
