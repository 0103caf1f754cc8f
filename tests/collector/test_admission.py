"""The distribution's own extension, which bounds the OTLP requests that are decoded at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ai_otel.collector.compose import Selection, compose
from ai_otel.collector.fragments import ROLES
from harness.collector.process import PLACES, Tree, composed, running, validate
from harness.telemetry.traffic import post, span, spans_request

pytestmark = pytest.mark.requires(part="collector")


def sidecar() -> Tree:
    return composed(role="sidecar", engines=("vllm",), features=("local",), backends=("file",))


def bounds(directory: Path, **variables: str) -> list[Any]:
    """What the Collector says at its start: each extension's line once."""
    with running(sidecar(), directory, variables) as collector:
        status, _ = post(collector.ports["http"], spans_request([span("one", b"t" * 16, b"s" * 8)]).SerializeToString())
        assert status == 200
        return [line for line in collector.output().splitlines() if "OTLP requests are bounded" in line]


@pytest.mark.parametrize(
    ("variables", "decoded", "waiting"),
    [
        ({"GOMEMLIMIT": "409MiB"}, 409 * 2**20 // 200, 409 * 2**17),
        ({"GOMEMLIMIT": "1638MiB"}, 1638 * 2**20 // 200, 1638 * 2**17),
        ({"GOMEMLIMIT": "409MiB", "AI_OTEL_DECODED_BYTES": "5000000"}, 5_000_000, 409 * 2**17),
    ],
)
def test_the_bound_follows_from_the_memory_or_the_variable(
    tmp_path: Path, variables: dict[str, str], decoded: int, waiting: int
) -> None:
    (line,) = bounds(tmp_path, **variables)
    assert f'"decoded_bytes":{decoded},"waiting_bytes":{waiting}' in line


@pytest.mark.parametrize("role", ROLES)
def test_a_role_says_nothing_of_it_and_has_it(role: str) -> None:
    """So that the same file runs in other distributions. The variable is read only where there is an OTLP receiver."""
    tree = compose(Selection(role)).tree
    assert "admission" not in tree["extensions"]
    assert validate(tree) == ""
    refused = validate(tree, {**PLACES, "AI_OTEL_DECODED_BYTES": "many"})
    assert ('AI_OTEL_DECODED_BYTES must be a number of bytes, not "many"' in refused) == (role != "cluster")
