from __future__ import annotations

import pytest

from ai_otel.http.routes import ROUTES
from ai_otel.http.view import View, is_redirect


def test_by_default_no_answer_is_read() -> None:
    view = View()
    assert (view.routes, view.answers, view.app_seen) == (ROUTES, None, None)


@pytest.mark.parametrize(("status", "expected"), [(None, False), (200, False), (300, True), (307, True), (400, False)])
def test_a_redirect(status: int | None, expected: bool) -> None:
    assert is_redirect(status) is expected
