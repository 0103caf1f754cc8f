"""
Asking AMD SMI: the one place where its status codes and its sentinels become values or reasons.

What a GPU does not have is told in several ways: a status, the text "N/A", or a number with all bits set in 8, 16, 32
or 64 bits, whichever the field was before it was copied into a wider one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ai_otel.gpu.source import Support

# Status codes by number: older bindings do not name the newer ones.
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
# The binding trips over what it does not expect of its own library: an empty serial number, a new constant.
_STUMBLES = (ValueError, KeyError, TypeError, IndexError)


class Calls:
    """The calls on one GPU; one that is not supported is made once."""

    def __init__(self, library: Any, handle: Any) -> None:
        self.library = library
        self._handle = handle
        self._absent: dict[tuple[Any, ...], Support] = {}

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a function of AMD SMI's: the answer, or why there is none."""
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
            except _STUMBLES:
                support = Support.ERROR
        if support in _FOREVER:
            self._absent[question] = support
        return support


def number(answer: Any, *keys: str) -> float | Support:
    """A number in an answer, by the first of these names that it has; or why there is none."""
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
    """The same of what the firmware tells in 16 bits: power, temperature, clocks, activity."""
    value = number(answer, *keys)
    return Support.NOT_SUPPORTED if value == _NONE_IN_16_BITS else value


def numbers(answer: Any, key: str) -> list[float]:
    """The numbers in one list of an answer, without what is not there."""
    listed = answer.get(key) if isinstance(answer, Mapping) else None
    told: Iterable[Any] = listed if isinstance(listed, list) else ()
    return [value for each in told if not isinstance(value := number(each), Support)]


def text(answer: Any, key: str | None = None) -> str | None:
    """A text in an answer, where it says something."""
    if key is not None:
        answer = answer.get(key) if isinstance(answer, Mapping) else None
    return answer if isinstance(answer, str) and answer.strip() and answer != "N/A" else None
