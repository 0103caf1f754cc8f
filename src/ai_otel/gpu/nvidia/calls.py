"""
NVML calls: maps return codes to values, to reasons of absence, or to a lost device.

Unsupported calls are made once. Every call takes the driver's global lock, which the server's own work needs too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ai_otel.gpu.source import DeviceLost, Outdated, Support

# NVML's return codes by number: older bindings lack the newer names.
SUCCESS = 0
UNINITIALIZED = 1
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

CLOSED = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED})
"""Returned by every call after other code shut NVML down, or after the driver was unloaded."""
LOST = frozenset({GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND})
_SUPPORT: Mapping[int, Support] = {
    # Returned by older libraries for an unknown field id or sensor.
    INVALID_ARGUMENT: Support.NOT_SUPPORTED,
    NOT_SUPPORTED: Support.NOT_SUPPORTED,
    VGPU_ECC_NOT_SUPPORTED: Support.NOT_SUPPORTED,
    DEPRECATED: Support.NOT_SUPPORTED,
    NO_PERMISSION: Support.NO_PERMISSION,
    FUNCTION_NOT_FOUND: Support.NOT_FOUND,
    # The library provides the function, but not this version of its structure.
    ARGUMENT_VERSION_MISMATCH: Support.NOT_FOUND,
}

FOREVER = float("inf")
RETRY_AFTER_S: Mapping[Support, float] = {
    Support.NOT_SUPPORTED: FOREVER,
    Support.NOT_FOUND: FOREVER,
    # An operator may grant access to the counters at run time.
    Support.NO_PERMISSION: 300.0,
}
"""Reason → seconds until the call is retried. Calls that failed for other reasons are retried at the next sample."""


def support_of(code: int) -> Support:
    """Return the reason of absence for a return code other than success. Raises `DeviceLost`."""
    if code in CLOSED:
        raise Outdated(f"NVML return code {code}")
    if code in LOST:
        raise DeviceLost(f"NVML return code {code}")
    return _SUPPORT.get(code, Support.ERROR)


def code_of(error: Exception) -> int:
    """Return the return code of an `NVMLError`."""
    return int(getattr(error, "value", 999))


class Calls:
    """The calls on one device or instance, with a cache of those that are unavailable."""

    def __init__(self, library: Any, clock: Callable[[], float]) -> None:
        self.library = library
        self.clock = clock
        self._absent: dict[object, tuple[Support, float]] = {}

    def ask(self, name: str, *arguments: Any, about: object = None) -> Any:
        """
        Call a function of NVML and return its result, or the reason why it is unavailable. Raises `DeviceLost`.

        `about` distinguishes calls of the same function in the cache.
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
        """Return the cached reason why a call is unavailable."""
        absent = self._absent.get(question)
        return absent[0] if absent is not None and self.clock() < absent[1] else None

    def remember(self, question: object, support: Support) -> Support:
        """Cache the reason for as long as `RETRY_AFTER_S` states. Returns it."""
        lifetime_s = RETRY_AFTER_S.get(support)
        if lifetime_s is not None:
            self._absent[question] = support, self.clock() + lifetime_s
        return support

    def first(self, *questions: Sequence[Any]) -> Any:
        """Return the first available result. If there is none, prefer the reason of a function that exists."""
        reasons: list[Support] = []
        for name, *arguments in questions:
            answer = self.ask(name, *arguments)
            if not isinstance(answer, Support):
                return answer
            reasons.append(answer)
        return next((reason for reason in reasons if reason is not Support.NOT_FOUND), Support.NOT_FOUND)


def scaled(answer: Any, convert: Callable[[Any], Any]) -> Any:
    """Convert a result. A `Support` is returned as it is."""
    return answer if isinstance(answer, Support) else convert(answer)
