"""
Asking NVML: the one place where its return codes become values that are there, absent with a reason, or a lost device.

A driver is asked for what it does not have once. Every call goes through the driver's one lock, which the server's own
work needs too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ai_otel.gpu.source import DeviceLost, Support
from ai_otel.gpu.values import ratio

# NVML's return codes, by number: an older binding does not name the newer ones.
SUCCESS = 0
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
TIMED_OUT = 10
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
VERSION_MISMATCH = 18
VGPU_ECC_NOT_SUPPORTED = 22
ARGUMENT_VERSION_MISMATCH = 25
DEPRECATED = 26
GPU_NOT_FOUND = 28

LOST = frozenset({GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND})
_SUPPORT: Mapping[int, Support] = {
    # What an older library says to an id or a sensor that it does not know.
    INVALID_ARGUMENT: Support.NOT_SUPPORTED,
    NOT_SUPPORTED: Support.NOT_SUPPORTED,
    VGPU_ECC_NOT_SUPPORTED: Support.NOT_SUPPORTED,
    DEPRECATED: Support.NOT_SUPPORTED,
    NO_PERMISSION: Support.NO_PERMISSION,
    FUNCTION_NOT_FOUND: Support.NOT_FOUND,
    # The library has the function, but not this version of its structure.
    ARGUMENT_VERSION_MISMATCH: Support.NOT_FOUND,
}

FOREVER = float("inf")
ASKED_AGAIN_AFTER: Mapping[Support, float] = {
    Support.NOT_SUPPORTED: FOREVER,
    Support.NOT_FOUND: FOREVER,
    # An operator may open the counters while we run.
    Support.NO_PERMISSION: 300.0,
}
"""Seconds for which an answer is believed; what is not here is asked again at the next look."""


def support_of(code: int) -> Support:
    """What a return code other than success means for a value. Raises `DeviceLost`."""
    if code in LOST:
        raise DeviceLost(f"NVML return code {code}")
    return _SUPPORT.get(code, Support.ERROR)


def code_of(error: Exception) -> int:
    """The return code in an `NVMLError`."""
    return int(getattr(error, "value", 999))


class Calls:
    """The calls on one device or part of it, with what they answered when there was nothing to be had."""

    def __init__(self, library: Any, clock: Callable[[], float]) -> None:
        self.library = library
        self.clock = clock
        self._absent: dict[object, tuple[Support, float]] = {}

    def ask(self, name: str, *arguments: Any, about: object = None) -> Any:
        """
        Call a function of NVML's; the answer, or why there is none. Raises `DeviceLost`.

        `about` tells two questions to one function apart.
        """
        known = self.known((name, about))
        if known is not None:
            return known
        function = getattr(self.library, name, None)
        if function is None:
            return self.remember((name, about), Support.NOT_FOUND)
        try:
            return function(*arguments)
        except self.library.NVMLError as error:
            return self.remember((name, about), support_of(code_of(error)))

    def known(self, question: object) -> Support | None:
        """Why there is no answer, where we need not ask."""
        absent = self._absent.get(question)
        return absent[0] if absent is not None and self.clock() < absent[1] else None

    def remember(self, question: object, support: Support) -> Support:
        """Do not ask this again for as long as the answer is believed."""
        believed = ASKED_AGAIN_AFTER.get(support)
        if believed is not None:
            self._absent[question] = support, self.clock() + believed
        return support

    def first(self, *questions: Sequence[Any]) -> Any:
        """Ask until one has an answer; where none has, what a function said that there is."""
        reasons: list[Support] = []
        for name, *arguments in questions:
            answer = self.ask(name, *arguments)
            if not isinstance(answer, Support):
                return answer
            reasons.append(answer)
        return next((reason for reason in reasons if reason is not Support.NOT_FOUND), Support.NOT_FOUND)


def scaled(answer: Any, convert: Callable[[Any], Any]) -> Any:
    """Convert an answer; why there is none stays what it is."""
    return answer if isinstance(answer, Support) else convert(answer)


def percent(value: float) -> float | Support:
    """From percent, 0 to 1; what cannot be a share of anything is invalid."""
    return ratio(value / 100)
