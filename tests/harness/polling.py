"""Waits for a condition with a deadline; tests have no other waiting loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL_S = 0.05
"""Seconds between two evaluations of a condition."""


def wait_until(condition: Callable[[], T], timeout_s: float = 30, *, interval_s: float = INTERVAL_S) -> T:
    """
    Evaluate `condition` until it is truthy or `timeout_s` seconds have elapsed; return its last value.

    The condition is evaluated at least once, also with a timeout of zero.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(interval_s)
    return found


def eventually(
    condition: Callable[[], T],
    timeout_s: float = 30,
    message: str | Callable[[], object] = "the condition never held",
    *,
    interval_s: float = INTERVAL_S,
) -> T:
    """
    Return the first truthy value of `condition`.

    Raises `AssertionError` after `timeout_s` seconds. A callable `message` is evaluated only then, so that it can show
    the log of a process as it is at that time.
    """
    found = wait_until(condition, timeout_s, interval_s=interval_s)
    if not found:
        raise AssertionError(f"not within {timeout_s} s: {message() if callable(message) else message}")
    return found
