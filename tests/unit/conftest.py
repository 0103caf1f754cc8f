"""One test's troubles are not the next one's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ai_otel.hooks import guard


@pytest.fixture(autouse=True)
def no_failures_so_far() -> Iterator[None]:
    yield
    guard.errors.clear()
    guard.disabled.clear()
