from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.telemetry import fleet as stage


@pytest.fixture(scope="session", params=["pushed", "scraped"])
def fleet(request, tmp_path_factory) -> Iterator[stage.Fleet]:
    """Ask for it beside `@pytest.mark.requires(part="collector")` and `requires(part="prometheus")`."""
    with stage.running(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running
