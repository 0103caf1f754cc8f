"""One test's failing hooks are not the next one's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from ai_otel.hooks import guard

# A slow machine is no bug, and the same examples every time are what a change is judged by.
settings.register_profile(
    "safety", deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile("safety")


@pytest.fixture(autouse=True)
def no_failures_so_far() -> Iterator[None]:
    yield
    guard.errors.clear()
    guard.disabled.clear()
